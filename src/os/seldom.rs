//! Log lines that strangers can cause: one at once, then one in a while with how many there were meanwhile, so that a flood
//! of connections is no flood of the log.
use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use log::Level;

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
        self.write(Level::Warn, line);
    }

    /// Writes the line when it is due.
    pub fn write(&mut self, level: Level, line: impl FnOnce() -> String) {
        match self.is_due() {
            None => {}
            Some(0) => log::log!(level, "{}", line()),
            Some(more) => log::log!(level, "{} (and {more} like it before)", line()),
        }
    }
}

/// Lines of several kinds; each kind has its own turn.
#[derive(Debug)]
pub struct SeldomEach<K> {
    kinds: HashMap<K, Seldom>,
}

impl<K> Default for SeldomEach<K> {
    fn default() -> Self {
        Self {
            kinds: HashMap::new(),
        }
    }
}

impl<K: Eq + Hash> SeldomEach<K> {
    /// There must be few kinds, none of a stranger's making: each is remembered for good.
    pub fn of(&mut self, kind: K) -> &mut Seldom {
        self.kinds.entry(kind).or_default()
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

    #[test]
    fn a_flood_of_one_kind_keeps_no_other_back() {
        let mut each = SeldomEach::default();
        assert_eq!(each.of("one").is_due(), Some(0));
        assert_eq!(each.of("one").is_due(), None);
        assert_eq!(each.of("other").is_due(), Some(0));
    }
}
