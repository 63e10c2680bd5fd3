//! What is kept, for how long, and what is taken away.
//!
//! | file | subject |
//! |---|---|
//! | `lock` | files that are too young to be changed |
//! | `versions` | old versions of files that were replaced |
//! | `arrival` | when a file was stored whose time a client has set |
//! | `doubt` | whether the clock can be believed |
//! | `fresh` | what may still be done to files that were just stored |
//! | `prune` | taking old files away |
pub mod arrival;
pub mod doubt;
pub mod fresh;
pub mod lock;
pub mod prune;
pub mod versions;
