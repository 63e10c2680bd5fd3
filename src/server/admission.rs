//! Who may come in: sessions at once in all, per address and per user. A slot is given back by dropping it.
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Why nobody more may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// As many sessions as `sessions` allows.
    Full(usize),
    /// As many sessions from this address as `sessions_per_ip` allows.
    Address(usize),
    /// No descriptors or threads left.
    Resources,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(limit) => write!(
                f,
                "Too many sessions: the limit is {limit}; try again later."
            ),
            Self::Address(limit) => write!(
                f,
                "Too many sessions from your address: the limit is {limit}."
            ),
            Self::Resources => f.write_str("The server is out of resources; try again later."),
        }
    }
}

impl Refused {
    /// The setting that would change the refusal.
    pub fn setting(self) -> &'static str {
        match self {
            Self::Full(_) => "sessions",
            Self::Address(_) => "sessions_per_ip",
            Self::Resources => "the limit on open files (ulimit -n)",
        }
    }
}

/// The counters. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Admission {
    counters: Arc<Mutex<Counters>>,
}

#[derive(Debug, Default)]
struct Counters {
    sessions: usize,
    addresses: HashMap<IpAddr, usize>,
    users: HashMap<Vec<u8>, usize>,
}

/// A place for a session; dropped, it is free again.
#[derive(Debug)]
pub struct Slot {
    admission: Admission,
    address: IpAddr,
}

/// One of a user's places; dropped, it is free again.
#[derive(Debug)]
pub struct UserSlot {
    admission: Admission,
    user: Vec<u8>,
}

impl Admission {
    /// # Errors
    /// The limit that is reached.
    pub fn admit(
        &self,
        address: IpAddr,
        sessions: usize,
        per_address: usize,
    ) -> Result<Slot, Refused> {
        self.with(|counters| {
            if counters.sessions >= sessions {
                return Err(Refused::Full(sessions));
            }
            if !count_up(&mut counters.addresses, address, per_address) {
                return Err(Refused::Address(per_address));
            }
            counters.sessions += 1;
            Ok(())
        })?;
        Ok(Slot {
            admission: self.clone(),
            address,
        })
    }

    /// A place for one more session of the user, or None when there are `limit` already.
    pub fn admit_user(&self, user: &[u8], limit: usize) -> Option<UserSlot> {
        let user = user.to_vec();
        self.with(|counters| count_up(&mut counters.users, user.clone(), limit))
            .then(|| UserSlot {
                admission: self.clone(),
                user,
            })
    }

    /// Sessions at this moment.
    pub fn sessions(&self) -> usize {
        self.with(|counters| counters.sessions)
    }

    fn with<T>(&self, work: impl FnOnce(&mut Counters) -> T) -> T {
        work(&mut self.counters.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn count_up<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: K, limit: usize) -> bool {
    if counts.get(&key).copied().unwrap_or(0) >= limit {
        return false;
    }
    *counts.entry(key).or_insert(0) += 1;
    true
}

/// Removes what falls to zero, so that the tables hold only who is here.
fn count_down<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.admission.with(|counters| {
            counters.sessions -= 1;
            count_down(&mut counters.addresses, &self.address);
        });
    }
}

impl Drop for UserSlot {
    fn drop(&mut self) {
        self.admission
            .with(|counters| count_down(&mut counters.users, &self.user));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold_in_all_per_address_and_per_user_and_slots_come_back() {
        let admission = Admission::default();
        let (one, two) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let first = admission.admit(one, 3, 2).unwrap();
        let _second = admission.admit(one, 3, 2).unwrap();
        assert_eq!(admission.admit(one, 3, 2).unwrap_err(), Refused::Address(2));
        let _third = admission.admit(two, 3, 2).unwrap();
        assert_eq!(admission.admit(two, 3, 2).unwrap_err(), Refused::Full(3));
        drop(first);
        assert_eq!(admission.sessions(), 2);
        assert!(admission.admit(one, 3, 2).is_ok());

        let slot = admission.admit_user(b"anna", 1);
        assert!(slot.is_some() && admission.admit_user(b"anna", 1).is_none());
        drop(slot);
        assert!(admission.admit_user(b"anna", 1).is_some());
    }
}
