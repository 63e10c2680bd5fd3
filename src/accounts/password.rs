//! Passwords: stored as argon2id, remembered as a keyed digest, never shown.
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

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

/// The most that a hash may ask for: 64 MiB (in KiB), passes and lanes. RFC 9106 §4 recommends no more for hosts of little
/// memory, and strangers have them worked out.
const MOST: [(&str, u32); 3] = [("m", 64 * 1024), ("t", 16), ("p", 16)];

/// Not an argon2id hash in PHC form (`$argon2id$v=19$...`), or one that asks for more than 64 MiB, 16 passes or 16 lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadHash;

/// With the cost of those that are made here. What has this hash nobody can find out, and nobody has chosen.
const NOBODYS: &str = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

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
    /// Anything but an argon2id hash in PHC form, and one that asks for more than this host is to work.
    pub fn from_hash(phc: &str) -> Result<Self, BadHash> {
        let parsed = PasswordHash::new(phc).map_err(|_| BadHash)?;
        if parsed.algorithm.as_str() != "argon2id" || parsed.salt.is_none() || parsed.hash.is_none()
        {
            return Err(BadHash);
        }
        for (name, most) in MOST {
            let asked = parsed.params.get_decimal(name);
            if asked.is_some_and(|asked| asked > most) {
                return Err(BadHash);
            }
        }
        Ok(Self::of(phc.to_owned()))
    }

    /// Hashes a clear password with a salt of its own.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn from_clear(clear: &str) -> Result<Self, BadHash> {
        let _turn = Turn::wait(None).map_err(|_| BadHash)?;
        let hash = Argon2::default()
            .hash_password(clear.as_bytes())
            .map_err(|_| BadHash)?;
        Ok(Self::of(hash.to_string()))
    }

    /// Of a password that came with the start and goes with the end: nothing is stored of it, and so nothing is hashed, which
    /// would take longer than all the rest of a start. A wrong one is worked on like any other.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn for_this_run(clear: &str) -> Result<Self, BadHash> {
        let digest = digest(clear.as_bytes()).ok_or(BadHash)?;
        let password = Self::of(NOBODYS.to_owned());
        let _ = password.0.remembered.set(digest);
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

    /// How much work it is to check, to be compared: memory times passes.
    pub(super) fn cost(&self) -> u64 {
        let Ok(hash) = PasswordHash::new(&self.0.phc) else {
            return 0;
        };
        let asked = |name| u64::from(hash.params.get_decimal(name).unwrap_or(1));
        asked("m") * asked("t")
    }

    /// Whether this is the password.
    ///
    /// # Errors
    /// When too many others were checked meanwhile.
    pub fn is<'a>(&self, clear: &[u8], leave: impl Into<Leave<'a>>) -> Result<bool, Busy> {
        if self
            .0
            .remembered
            .get()
            .is_some_and(|digest| matches(digest, clear))
        {
            return Ok(true);
        }
        let right = verify(&self.0.phc, clear, leave.into())?;
        if right {
            if let Some(digest) = digest(clear) {
                let _ = self.0.remembered.set(digest);
            }
        }
        Ok(right)
    }

    /// The work of checking the password and nothing else: what it comes to is not told, and not remembered.
    ///
    /// # Errors
    /// As [`Password::is`].
    pub fn do_the_work(&self, clear: &[u8], leave: Leave<'_>) -> Result<(), Busy> {
        verify(&self.0.phc, clear, leave).map(drop)
    }
}

fn verify(phc: &str, clear: &[u8], leave: Leave<'_>) -> Result<bool, Busy> {
    let Ok(hash) = PasswordHash::new(phc) else {
        return Ok(false);
    };
    let _turn = Turn::wait(Some(leave))?;
    Ok(Argon2::default().verify_password(clear, &hash).is_ok())
}

/// The work of checking a password where nobody has one. Made at the first call, with a password that nobody knows.
///
/// # Errors
/// As [`Password::is`].
pub fn do_the_work(clear: &[u8], leave: Leave<'_>) -> Result<(), Busy> {
    static NOBODY: OnceLock<Option<Password>> = OnceLock::new();
    let nobody = NOBODY.get_or_init(|| Password::from_clear(&random_password().ok()?).ok());
    match nobody {
        Some(nobody) => nobody.do_the_work(clear, leave),
        None => Ok(()),
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

/// How long somebody waits for the turn.
#[derive(Clone, Copy)]
pub struct Leave<'a> {
    pub deadline: Instant,
    /// Whether nobody waits for the answer any more; asked ten times a second.
    pub is_over: &'a dyn Fn() -> bool,
}

impl From<Instant> for Leave<'_> {
    fn from(deadline: Instant) -> Self {
        let is_over = &|| false;
        Self { deadline, is_over }
    }
}

/// Between two looks whether somebody is still there who waits.
const LOOK: Duration = Duration::from_millis(100);

/// Too many passwords are being checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// One of the few verifications under way. Who came first has the next.
struct Turn;

#[derive(Default)]
struct Line {
    busy: usize,
    /// Those who wait, in the order in which they came.
    waiting: VecDeque<u64>,
    next: u64,
}

static LINE: Mutex<Line> = Mutex::new(Line {
    busy: 0,
    waiting: VecDeque::new(),
    next: 0,
});
static MOVED: Condvar = Condvar::new();

fn line() -> MutexGuard<'static, Line> {
    LINE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Turn {
    fn wait(leave: Option<Leave<'_>>) -> Result<Self, Busy> {
        let mut line = line();
        let number = line.next;
        line.next += 1;
        line.waiting.push_back(number);
        while line.busy >= AT_ONCE || line.waiting.front() != Some(&number) {
            let Some(Leave { deadline, is_over }) = leave else {
                line = MOVED.wait(line).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || is_over() {
                line.waiting.retain(|waiting| *waiting != number);
                MOVED.notify_all();
                return Err(Busy);
            }
            line = MOVED
                .wait_timeout(line, left.min(LOOK))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        line.waiting.pop_front();
        line.busy += 1;
        // There may be room for one more.
        MOVED.notify_all();
        Ok(Self)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        line().busy -= 1;
        MOVED.notify_all();
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
    use std::thread;
    use std::time::Duration;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn a_password_of_this_run_is_known_without_its_hash_and_wrong_ones_cost_the_same_work() {
        let password = Password::for_this_run("correct horse").unwrap();
        let deadline = Instant::now() + std::time::Duration::from_secs(60);
        assert_eq!(password.is(b"correct horse", deadline), Ok(true));
        assert_eq!(password.is(b"correct horse ", deadline), Ok(false));
        assert_eq!(password.is(b"", deadline), Ok(false));
        let stored = Password::from_clear("x").unwrap();
        assert_eq!(password.cost(), stored.cost());
        assert!(Password::from_hash(NOBODYS).is_ok() && !password.is_none());
    }

    #[test]
    fn few_are_checked_at_once_and_who_cannot_wait_is_told() {
        let password = Password::from_clear("correct horse").unwrap();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    assert_eq!(password.is(b"wrong", soon()), Ok(false));
                    assert!(line().busy <= AT_ONCE);
                });
            }
        });
        let turns: Vec<Turn> = (0..AT_ONCE)
            .map(|_| Turn::wait(Some(soon().into())).unwrap())
            .collect();
        assert_eq!(password.is(b"wrong", Instant::now()), Err(Busy));
        drop(turns);
        assert_eq!(password.is(b"wrong", soon()), Ok(false));
    }

    #[test]
    fn a_password_is_itself_before_and_after_it_was_remembered() {
        let password = Password::from_clear("correct horse").unwrap();
        let stored = Password::from_hash(password.to_phc()).unwrap();
        for _ in 0..2 {
            assert_eq!(stored.is(b"wrong", soon()), Ok(false));
            assert_eq!(stored.is(b"", soon()), Ok(false));
            assert_eq!(stored.is(b"correct horse", soon()), Ok(true));
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
            "$argon2id$v=19$m=65537,t=1,p=1$c29tZXNhbHQ$aGFzaGhhc2hoYXNo",
            "$argon2id$v=19$m=4294967295,t=1,p=1$c29tZXNhbHQ$aGFzaGhhc2hoYXNo",
            "$argon2id$v=19$m=8,t=17,p=1$c29tZXNhbHQ$aGFzaGhhc2hoYXNo",
        ] {
            assert_eq!(Password::from_hash(bad).map(|_| ()), Err(BadHash), "{bad}");
        }
        assert_eq!(Password::none().is(b"", soon()), Ok(false));
        let costs = ["m=16,t=2,p=1", "m=8,t=2,p=1"].map(|parameters| {
            let hash = format!("$argon2id$v=19${parameters}$c29tZXNhbHQ$aGFzaGhhc2hoYXNo");
            Password::from_hash(&hash).unwrap().cost()
        });
        assert_eq!(costs, [32, 16]);
    }

    #[test]
    fn random_passwords_differ() {
        let (one, two) = (random_password().unwrap(), random_password().unwrap());
        assert!(one != two && one.len() == RANDOM_LENGTH);
    }
}
