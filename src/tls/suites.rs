//! The order of the cipher suites: what this CPU does fastest comes first.
use rustls::crypto::CryptoProvider;
use rustls::{CipherSuite, SupportedCipherSuite};

/// Whether the CPU has instructions for AES. Many a Raspberry Pi has not; ChaCha20-Poly1305 is three times as fast there.
pub fn has_aes() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    let has_aes = std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    let has_aes = std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    let has_aes = false;
    has_aes
}

/// Whether the suite is one of ChaCha20-Poly1305.
pub fn is_chacha(suite: CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
    )
}

/// ring, with its suites in order: ChaCha20-Poly1305 first or last; among AES, the shorter key first, which costs less
/// and is as safe.
pub fn provider(chacha_first: bool) -> CryptoProvider {
    let mut provider = rustls::crypto::ring::default_provider();
    let rank = |suite: &SupportedCipherSuite| {
        let name = suite.suite();
        let long_key = format!("{name:?}").contains("AES_256");
        (is_chacha(name) != chacha_first, long_key)
    };
    // Stable: TLS 1.3 stays before TLS 1.2 where all else is equal.
    provider.cipher_suites.sort_by_key(rank);
    provider
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preferred_kind_comes_first_and_none_is_lost() {
        let all = rustls::crypto::ring::default_provider().cipher_suites.len();
        for chacha_first in [true, false] {
            let suites = provider(chacha_first).cipher_suites;
            assert_eq!(suites.len(), all);
            assert_eq!(is_chacha(suites[0].suite()), chacha_first);
            assert_eq!(is_chacha(suites[all - 1].suite()), !chacha_first);
        }
        let first = provider(false).cipher_suites[0].suite();
        assert_eq!(first, CipherSuite::TLS13_AES_128_GCM_SHA256);
    }
}
