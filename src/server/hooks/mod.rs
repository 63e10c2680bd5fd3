//! Queue of the owner's that follow what happened (setting: `on_upload`).
//!
//! | file | subject |
//! |---|---|
//! | `orders` | the server's side: which program is wanted, and with what values |
//! | `helper` | the process beside the server that starts them, outside of its sandbox |
//! | `queue` | few at once, the others in line, none for longer than it was given |
pub mod helper;
pub mod orders;
pub mod queue;
