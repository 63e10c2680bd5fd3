//! Passwords: stored as argon2id, remembered as a keyed digest, never shown.
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use blake2::Blake2bMac512;
use blake2::digest::{KeyInit as _, Mac as _};
use zeroize::Zeroizing;

/// Verifications at once: each takes 19 MiB, and a small host has not many of those.
const AT_ONCE: usize = 2;

/// Letters and digits that are not easily taken for one another.
const ALPHABET: &[u8; 56] = b"abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789";
/// 20 of 56 are 116 bits.
const RANDOM_LENGTH: usize = 20;

/// How an account is entered. Cheap to clone; clones remember together.
#[derive(Clone)]
pub struct Password(Arc<Inner>);

struct Inner {
    phc: String,
    /// The keyed digest of the password that was right.
    remembered: OnceLock<Digest>,
}

type Digest = [u8; 64];

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// Not an argon2id hash in PHC form (`$argon2id$v=19$...`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadHash;

impl Password {
    /// No password opens it: the anonymous account is entered by name.
    pub fn none() -> Self {
        Self::of(String::new())
    }

    /// Whether there is no password that could be right.
    pub fn is_none(&self) -> bool {
        self.0.phc.is_empty()
    }

    /// # Errors
    /// Anything but an argon2id hash in PHC form.
    pub fn from_hash(phc: &str) -> Result<Self, BadHash> {
        let parsed = PasswordHash::new(phc).map_err(|_| BadHash)?;
        if parsed.algorithm.as_str() != "argon2id" || parsed.salt.is_none() || parsed.hash.is_none()
        {
            return Err(BadHash);
        }
        Ok(Self::of(phc.to_owned()))
    }

    /// Hashes a clear password with a salt of its own.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn from_clear(clear: &str) -> Result<Self, BadHash> {
        let _turn = Turn::wait();
        let hash = Argon2::default()
            .hash_password(clear.as_bytes())
            .map_err(|_| BadHash)?;
        let password = Self::of(hash.to_string());
        drop(_turn);
        Ok(password)
    }

    fn of(phc: String) -> Self {
        Self(Arc::new(Inner {
            phc,
            remembered: OnceLock::new(),
        }))
    }

    /// What is stored.
    pub fn to_phc(&self) -> &str {
        &self.0.phc
    }

    /// Whether this is the password.
    pub fn is(&self, clear: &[u8]) -> bool {
        if self
            .0
            .remembered
            .get()
            .is_some_and(|digest| matches(digest, clear))
        {
            return true;
        }
        let right = verify(&self.0.phc, clear);
        if right {
            if let Some(digest) = digest(clear) {
                let _ = self.0.remembered.set(digest);
            }
        }
        right
    }
}

fn verify(phc: &str, clear: &[u8]) -> bool {
    let Ok(hash) = PasswordHash::new(phc) else {
        return false;
    };
    let _turn = Turn::wait();
    Argon2::default().verify_password(clear, &hash).is_ok()
}

/// The work of checking a password, for a name that has none.
pub fn do_the_work(clear: &[u8]) {
    static NOBODY: OnceLock<Option<Password>> = OnceLock::new();
    let nobody = NOBODY.get_or_init(|| Password::from_clear(&random_password().ok()?).ok());
    if let Some(nobody) = nobody {
        verify(nobody.to_phc(), clear);
    }
}

/// A key of this process, never stored: what it makes of a password is worth nothing elsewhere.
fn keyed() -> Option<Blake2bMac512> {
    static KEY: OnceLock<Option<Zeroizing<[u8; 64]>>> = OnceLock::new();
    let key = KEY.get_or_init(|| {
        let mut key = Zeroizing::new([0; 64]);
        getrandom::fill(key.as_mut_slice()).ok().map(|()| key)
    });
    Blake2bMac512::new_from_slice(key.as_ref()?.as_slice()).ok()
}

fn digest(clear: &[u8]) -> Option<Digest> {
    let mut mac = keyed()?;
    mac.update(clear);
    Some(mac.finalize().into_bytes().into())
}

/// In constant time.
fn matches(digest: &Digest, clear: &[u8]) -> bool {
    keyed().is_some_and(|mut mac| {
        mac.update(clear);
        mac.verify_slice(digest).is_ok()
    })
}

/// One of the few verifications under way.
struct Turn;

static BUSY: Mutex<usize> = Mutex::new(0);
static FREE: Condvar = Condvar::new();

impl Turn {
    fn wait() -> Self {
        let busy = BUSY.lock().unwrap_or_else(PoisonError::into_inner);
        let mut busy = FREE
            .wait_while(busy, |busy| *busy >= AT_ONCE)
            .unwrap_or_else(PoisonError::into_inner);
        *busy += 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *BUSY.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        FREE.notify_one();
    }
}

/// A password that nobody guesses.
///
/// # Errors
/// When the system has no randomness to give.
pub fn random_password() -> Result<Zeroizing<String>, getrandom::Error> {
    let mut password = Zeroizing::new(String::with_capacity(RANDOM_LENGTH));
    while password.len() < RANDOM_LENGTH {
        let mut byte = [0];
        getrandom::fill(&mut byte)?;
        // Bytes beyond the largest multiple of the alphabet would favour its front.
        let index = usize::from(byte[0]);
        if index < ALPHABET.len() * (256 / ALPHABET.len()) {
            password.push(char::from(ALPHABET[index % ALPHABET.len()]));
        }
    }
    Ok(password)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_itself_before_and_after_it_was_remembered() {
        let password = Password::from_clear("correct horse").unwrap();
        let stored = Password::from_hash(password.to_phc()).unwrap();
        for _ in 0..2 {
            assert!(!stored.is(b"wrong") && !stored.is(b""));
            assert!(stored.is(b"correct horse"));
        }
        assert!(stored.0.remembered.get().is_some());
        assert!(!format!("{stored:?}").contains("argon2"));
    }

    #[test]
    fn only_argon2id_is_a_hash() {
        for bad in [
            "",
            "secret",
            "$argon2id$",
            "$argon2i$v=19$m=8,t=1,p=1$c29tZXNhbHQ$aGFzaGhhc2hoYXNo",
            "$6$salt$hash",
        ] {
            assert_eq!(Password::from_hash(bad).map(|_| ()), Err(BadHash), "{bad}");
        }
        assert!(!Password::none().is(b""));
    }

    #[test]
    fn random_passwords_differ() {
        let (one, two) = (random_password().unwrap(), random_password().unwrap());
        assert!(one != two && one.len() == RANDOM_LENGTH);
    }
}
