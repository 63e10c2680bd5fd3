//! What every session needs, whatever its protocol: the settings of the moment, who may come, what may flow.
//!
//! | file | subject |
//! |---|---|
//! | `settings` | the settings that new sessions take, reading them again, and who is answered by them |
//! | `shared` | what all sessions share |
//! | `rates` | how many bytes a second may flow |
pub mod rates;
pub mod settings;
pub mod shared;

pub use settings::{Reload, Service, Settings};
pub use shared::Shared;
