//! What every session needs, whatever its protocol: the settings of the moment, who may come, what may flow.
//!
//! | file | subject |
//! |---|---|
//! | `settings` | the settings that new sessions take, reading them again, and who is answered by them |
//! | `shared` | what all sessions share |
//! | `heavy` | how much work is done at once that keeps a disk or a processor busy |
//! | `login` | who may log in, and what that yields |
//! | `rates` | how many bytes a second may flow |
//! | `record` | what is written of a transfer, and what follows an upload |
pub mod heavy;
pub mod login;
pub mod rates;
pub mod record;
pub mod settings;
pub mod shared;

pub use settings::{Reload, Service, Settings};
pub use shared::Shared;
