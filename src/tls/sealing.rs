//! What seals the records that are sent, to be given to the kernel.
use zeroize::Zeroizing;

/// Ciphers by which records are sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
}

/// What it takes to seal what is sent from now on. Not to be shown to anybody but the kernel.
pub struct Sealing {
    /// TLS 1.3; else 1.2.
    pub tls13: bool,
    pub cipher: Cipher,
    pub key: Zeroizing<Vec<u8>>,
    pub iv: [u8; 12],
    /// The number of the next record.
    pub sequence: u64,
}

impl Sealing {
    /// Of the right form, for trying out.
    pub fn of_no_secret(tls13: bool, cipher: Cipher) -> Self {
        let length = if cipher == Cipher::Aes128Gcm { 16 } else { 32 };
        Self {
            tls13,
            cipher,
            key: Zeroizing::new(vec![0; length]),
            iv: [0; 12],
            sequence: 0,
        }
    }
}
