//! What the client of a session was told of the length of what was cut off. What it appends begins there, whatever has become of
//! that meanwhile: more may have arrived, or it is another's by now.
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::storage::disk::names::{Key, key};
use crate::storage::disk::root::Place;

/// Names of which it is remembered, the last ones.
const REMEMBERED: usize = 100;

/// Lengths in bytes, by name.
#[derive(Debug, Default)]
pub struct Told(Mutex<Vec<(Key, u64)>>);

impl Told {
    fn lengths(&self) -> MutexGuard<'_, Vec<(Key, u64)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_empty(&self) -> bool {
        self.lengths().is_empty()
    }

    /// The length, where the client was told any, that it believes in.
    pub fn of(&self, place: &Place) -> Option<u64> {
        let asked = key(&place.directory, &place.name).ok()?;
        let lengths = self.lengths();
        let found = lengths.iter().find(|(known, _)| *known == asked);
        found.map(|(_, length)| *length)
    }

    /// To be called with the length when it is told, and with none when something else has become of the name for the client.
    pub fn set(&self, place: &Place, length: Option<u64>) {
        let Ok(key) = key(&place.directory, &place.name) else {
            return;
        };
        let mut lengths = self.lengths();
        lengths.retain(|(known, _)| *known != key);
        if let Some(length) = length {
            if lengths.len() == REMEMBERED {
                lengths.remove(0);
            }
            lengths.push((key, length));
        }
    }
}
