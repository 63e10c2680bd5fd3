//! Who writes to a file, as storage knows of it: an account, and a way to end the session. What a session is, and how it ends,
//! is the front end's business.
use std::fmt;
use std::sync::Arc;

/// The session behind the uploads of a view.
#[derive(Clone)]
pub struct Holder {
    account: String,
    end: Arc<dyn Fn() + Send + Sync>,
}

impl Holder {
    /// `end` returns at once; the session ends soon after, and what it held is given up then.
    pub fn new(account: String, end: Arc<dyn Fn() + Send + Sync>) -> Self {
        Self { account, end }
    }

    /// Whose session it is. Only the same may take its uploads over.
    pub fn account(&self) -> &str {
        &self.account
    }

    /// Has the session end, whatever it waits for. Does not wait for that.
    pub fn end(&self) {
        (self.end)();
    }
}

impl fmt::Debug for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Holder").field(&self.account).finish()
    }
}
