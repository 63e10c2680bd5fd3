//! Large buffers for what has to pass through memory of ours. They are used again by whichever transfer comes next, so that
//! their pages are not asked of the system each time; idle sessions hold none.
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// Bytes of each: sixteen full records of TLS, which go out in one writev(2).
pub const SIZE: usize = 256 * 1024;

/// Buffers kept for later; hosts with more transfers at once have memory to spare.
const KEPT: usize = 4;

static SPARE: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());

/// A buffer for one transfer.
#[derive(Debug)]
pub struct Buffer(Box<[u8]>);

impl Buffer {
    /// One of [`SIZE`] bytes, or of less where less will be needed. What is in it is left over from others.
    pub fn take(needed: u64) -> Self {
        match usize::try_from(needed) {
            Ok(needed) if needed < SIZE => Self(vec![0; needed].into()),
            _ => {
                let spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner).pop();
                Self(spare.unwrap_or_else(|| vec![0; SIZE].into()))
            }
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        if buffer.len() == SIZE && spare.len() < KEPT {
            spare.push(buffer);
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_large_ones_are_kept_and_small_ones_are_not() {
        let many: Vec<Buffer> = (0..3 * KEPT).map(|_| Buffer::take(u64::MAX)).collect();
        assert!(many.iter().all(|buffer| buffer.len() == SIZE));
        drop(many);
        drop(Buffer::take(10));
        let spare = SPARE.lock().unwrap();
        assert_eq!(spare.len(), KEPT);
        assert!(spare.iter().all(|buffer| buffer.len() == SIZE));
    }
}
