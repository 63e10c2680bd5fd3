//! Log lines that strangers can cause: one at once, then one in a while with how many there were meanwhile, so that a flood
//! of connections is no flood of the log.
use std::time::{Duration, Instant};

const WHILE: Duration = Duration::from_secs(10);

/// One kind of line.
#[derive(Debug, Default)]
pub struct Seldom {
    last: Option<Instant>,
    kept_back: u64,
}

impl Seldom {
    /// Whether the line is due, and then with how many were kept back since the last one.
    pub fn is_due(&mut self) -> Option<u64> {
        let now = Instant::now();
        if self
            .last
            .is_some_and(|last| now.duration_since(last) < WHILE)
        {
            self.kept_back += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.kept_back))
    }

    /// Writes the line as a warning when it is due.
    pub fn warn(&mut self, line: impl FnOnce() -> String) {
        match self.is_due() {
            None => {}
            Some(0) => log::warn!("{}", line()),
            Some(more) => log::warn!("{} (and {more} like it before)", line()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_written_and_those_behind_it_are_counted() {
        let mut seldom = Seldom::default();
        assert_eq!(seldom.is_due(), Some(0));
        assert_eq!((seldom.is_due(), seldom.is_due()), (None, None));
        seldom.last = Instant::now().checked_sub(WHILE);
        if seldom.last.is_some() {
            assert_eq!(seldom.is_due(), Some(2));
        }
    }
}
