//! Work on command that keeps a disk or a processor busy, such as a copy or a checksum of a whole file: how much of it is done at
//! once.
use std::sync::{Arc, Mutex, PoisonError};

/// Counts the pieces that are under way. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Heavy(Arc<Mutex<usize>>);

/// Leave for one of them; dropped, the next may begin.
#[derive(Debug)]
pub struct HeavySlot(Heavy);

impl Heavy {
    /// Leave for one more, or None while there are `limit` already.
    pub fn admit(&self, limit: usize) -> Option<HeavySlot> {
        self.with(|running| {
            let is_free = *running < limit;
            *running += usize::from(is_free);
            is_free
        })
        .then(|| HeavySlot(self.clone()))
    }

    fn with<T>(&self, work: impl FnOnce(&mut usize) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for HeavySlot {
    fn drop(&mut self) {
        self.0.with(|running| *running -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_much_heavy_work_is_done_at_once_and_no_more() {
        let heavy = Heavy::default();
        let first = heavy.admit(2).unwrap();
        let _second = heavy.admit(2).unwrap();
        assert!(heavy.admit(2).is_none());
        drop(first);
        assert!(heavy.admit(2).is_some());
    }
}
