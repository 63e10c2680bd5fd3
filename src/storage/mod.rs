//! Files as one user may see them: virtual paths, the confined root, listings, uploads. Knows no protocol and no sockets.
//!
//! | file | subject |
//! |---|---|
//! | `path` | paths as a client sees them |
//! | `permissions` | what a user may do, and the modes of what they create |
//! | `rules` | what holds in a root or folder: how uploads are made, what is kept |
//! | `reserved` | names of the server's own files
//! | `root` | a directory that nothing leads out of |
//! | `view` | [`View`]: roots and folders under one tree; what front ends speak to |
//! | `change` | what a user changes through the view |
//! | `metadata` | facts of a file, and what kernel and configuration allow on it |
//! | `listing` | the entries of a directory |
//! | `upload` | a file being received |
//! | `partial` | where it grows until it is whole |
//! | `sweep` | what uploads have left in a whole tree |
//! | `system` | the system calls that no safe wrapper offers
//! | `tree` | removing a directory with all in it |
//! | `owners` | names of users and groups |
//! | `error` | why something was refused |
mod change;
mod error;
mod listing;
mod metadata;
mod owners;
mod partial;
mod path;
mod permissions;
mod reserved;
mod root;
mod rules;
mod sweep;
mod system;
mod tree;
mod upload;
mod view;

pub use error::{Error, ErrorKind};
pub use listing::{Entry, Listing};
pub use metadata::{Kind, Metadata};
pub use owners::{group_id, group_name, user_name};
pub use path::VirtualPath;
pub use permissions::{Modes, Permission, Permissions};
pub use rules::{Keep, Quota, Room, Rules};
pub use sweep::{Partials, count_partials, remove_old_partials};
pub use upload::{How, Upload, Uploads};
pub use view::{Download, FolderSpec, View, ViewSpec};
