//! Leaving the sealing to the kernel (TCP_ULP "tls"; Documentation/networking/tls.rst of Linux), so that sendfile(2) sends
//! encrypted files too. Where the kernel or the cipher does not allow it, everything stays with user space.
use std::io::{self, ErrorKind};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{TcpTlsTx, TcpUlp, TlsCryptoInfo};

use super::Outcome;
use super::watch::Watch;
use crate::os::ready::Want;
use crate::os::system;
use crate::tls::{Cipher, Sealing, Stream};

/// Bytes that keys may seal: far below the limit of AES-GCM (RFC 8446 §5.5), since nobody counts records here.
const MOST: u64 = 64 << 30;

/// Bytes below which two system calls cost more than they spare.
const LEAST: u64 = 256 * 1024;

/// Content type and body of close_notify (RFC 8446 §6).
const ALERT: u8 = 21;
const CLOSE_NOTIFY: [u8; 2] = [1, 0];

/// What came of the offer.
pub enum Offered {
    /// What is written to the socket is sealed by the kernel.
    Taken(Arc<TcpStream>),
    /// Everything is as it was.
    Declined(Stream),
    /// The kernel declined when the keys had been given away: the connection is of no use any more.
    Lost(io::Error),
}

/// Offers the sealing of so many bytes to the kernel.
pub fn offer(stream: Stream, bytes: u64) -> Offered {
    let kind = stream
        .sealing_kind()
        .filter(|_| (LEAST..MOST).contains(&bytes));
    let Some(kind) = kind.filter(|&(tls13, cipher)| is_supported(tls13, cipher)) else {
        return Offered::Declined(stream);
    };
    log::trace!("{kind:?} by the kernel");
    if setsockopt(stream.socket(), TcpUlp::default(), b"tls").is_err() {
        return Offered::Declined(stream);
    }
    let (socket, sealing) = match stream.into_sealing() {
        Ok(parts) => parts,
        Err(error) => return Offered::Lost(error),
    };
    match give(&socket, &sealing) {
        Ok(()) => Offered::Taken(socket),
        Err(error) => Offered::Lost(error),
    }
}

/// Says close_notify on a connection that the kernel seals.
///
/// # Errors
/// What kept it from being said.
pub fn close_notify(socket: &TcpStream, watch: &mut Watch<'_>) -> Result<(), Outcome> {
    loop {
        match system::send_tls_record(socket.as_fd(), ALERT, &CLOSE_NOTIFY) {
            Ok(_) => return Ok(()),
            Err(Errno::EAGAIN) => watch.wait(socket.as_fd(), Want::Output)?,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(Outcome::Reset(errno.into())),
        }
    }
}

/// Tries once what the kernel can do. Called before root is given up, for root alone may have the module loaded.
pub fn probe() -> &'static [(bool, Cipher)] {
    static SUPPORTED: OnceLock<Vec<(bool, Cipher)>> = OnceLock::new();
    SUPPORTED.get_or_init(|| {
        let ciphers = [
            Cipher::Aes128Gcm,
            Cipher::Aes256Gcm,
            Cipher::ChaCha20Poly1305,
        ];
        let kinds = [true, false]
            .into_iter()
            .flat_map(|tls13| ciphers.map(|cipher| (tls13, cipher)));
        kinds
            .filter(|&(tls13, cipher)| try_out(tls13, cipher).is_ok())
            .collect()
    })
}

fn is_supported(tls13: bool, cipher: Cipher) -> bool {
    probe().contains(&(tls13, cipher))
}

/// On a connection of the process with itself.
fn try_out(tls13: bool, cipher: Cipher) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let socket = TcpStream::connect(listener.local_addr()?)?;
    setsockopt(&socket, TcpUlp::default(), b"tls")?;
    give(&socket, &Sealing::of_no_secret(tls13, cipher))
}

fn give(socket: &TcpStream, sealing: &Sealing) -> io::Result<()> {
    setsockopt(socket, TcpTlsTx, &crypto_info(sealing)?)?;
    Ok(())
}

/// The keys in the kernel's form (linux/tls.h).
fn crypto_info(sealing: &Sealing) -> io::Result<TlsCryptoInfo> {
    let unfit = |_| io::Error::from(ErrorKind::InvalidData);
    let info = |cipher_type| libc::tls_crypto_info {
        version: if sealing.tls13 {
            libc::TLS_1_3_VERSION
        } else {
            libc::TLS_1_2_VERSION
        },
        cipher_type,
    };
    let key = &sealing.key[..];
    let rec_seq = sealing.sequence.to_be_bytes();
    let [s0, s1, s2, s3, rest @ ..] = sealing.iv;
    let salt = [s0, s1, s2, s3];
    Ok(match sealing.cipher {
        Cipher::Aes128Gcm => TlsCryptoInfo::Aes128Gcm(libc::tls12_crypto_info_aes_gcm_128 {
            info: info(libc::TLS_CIPHER_AES_GCM_128),
            iv: explicit_nonce(sealing.tls13, rest),
            key: key.try_into().map_err(unfit)?,
            salt,
            rec_seq,
        }),
        Cipher::Aes256Gcm => TlsCryptoInfo::Aes256Gcm(libc::tls12_crypto_info_aes_gcm_256 {
            info: info(libc::TLS_CIPHER_AES_GCM_256),
            iv: explicit_nonce(sealing.tls13, rest),
            key: key.try_into().map_err(unfit)?,
            salt,
            rec_seq,
        }),
        Cipher::ChaCha20Poly1305 => {
            TlsCryptoInfo::Chacha20Poly1305(libc::tls12_crypto_info_chacha20_poly1305 {
                info: info(libc::TLS_CIPHER_CHACHA20_POLY1305),
                iv: sealing.iv,
                key: key.try_into().map_err(unfit)?,
                salt: [],
                rec_seq,
            })
        }
    })
}

/// In TLS 1.2 with AES-GCM the second part of the nonce is sent along (RFC 5288 §3): user space takes the first one XORed with
/// the record's number, the kernel counts up from what it is given. Given the same, it would use a nonce again that
/// the handshake has used with this key, which gives the key's authentication away. With its highest bit changed the
/// kernel counts where user space never was.
fn explicit_nonce(tls13: bool, mut first: [u8; 8]) -> [u8; 8] {
    if !tls13 {
        first[0] ^= 0x80;
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_nonce_of_the_handshake_is_used_again_in_tls_1_2() {
        let first = [0xff, 0, 0, 0, 0, 0, 0, 1];
        let of_user_space = |record: u64| u64::from_be_bytes(first) ^ record;
        let of_the_kernel = u64::from_be_bytes(explicit_nonce(false, first));
        for record in 0..1000 {
            for sent in 0..1000 {
                assert_ne!(of_user_space(record), of_the_kernel.wrapping_add(sent));
            }
        }
        assert_eq!(explicit_nonce(true, first), first);
    }

    #[test]
    fn keys_of_a_wrong_length_are_refused() {
        for cipher in [
            Cipher::Aes128Gcm,
            Cipher::Aes256Gcm,
            Cipher::ChaCha20Poly1305,
        ] {
            let mut sealing = Sealing::of_no_secret(true, cipher);
            assert!(crypto_info(&sealing).is_ok());
            sealing.key.pop();
            assert!(crypto_info(&sealing).is_err());
        }
    }
}
