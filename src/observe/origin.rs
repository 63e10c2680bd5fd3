//! About whom the log lines of a thread are, so that a line need not say it to be counted with those of its kind.
use std::cell::Cell;
use std::net::IpAddr;

/// About whom lines are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// The host and the server itself.
    #[default]
    Host,
    /// Somebody without an account of their own, the anonymous user among them; None: anybody.
    Stranger(Option<IpAddr>),
    /// Somebody who has logged in with a name of their own, from this address.
    User(IpAddr),
}

thread_local! {
    static ORIGIN: Cell<Origin> = const { Cell::new(Origin::Host) };
}

/// About whom this thread's lines are.
pub fn current() -> Origin {
    ORIGIN.get()
}

/// From now on this thread's lines are about this one, until the scope ends in which that was said.
pub fn set(origin: Origin) {
    ORIGIN.set(origin);
}

/// This thread's lines are about this one until the value is dropped.
#[must_use]
pub fn enter(origin: Origin) -> Scope {
    Scope(ORIGIN.replace(origin))
}

/// About whom the lines were before.
#[derive(Debug)]
pub struct Scope(Origin);

impl Drop for Scope {
    fn drop(&mut self) {
        set(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_ends_and_what_was_set_in_it_with_it() {
        let address = IpAddr::from([192, 0, 2, 7]);
        let session = enter(Origin::Stranger(Some(address)));
        set(Origin::User(address));
        drop(enter(Origin::Stranger(None)));
        assert_eq!(current(), Origin::User(address));
        drop(session);
        assert_eq!(current(), Origin::Host);
    }
}
