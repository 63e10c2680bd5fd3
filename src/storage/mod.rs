//! Files as one user may see them: virtual paths, the confined root, listings, uploads. Knows no protocol and no sockets.
//!
//! | file | subject |
//! |---|---|
//! | `path` | paths as a client sees them |
//! | `permissions` | what a user may do, and the modes of what they create |
//! | `rules` | what holds in a root or folder: how uploads are made, what is kept |
//! | `reserved` | names of the server's own files
//! | `root` | a directory that nothing leads out of |
//! | `mount` | whether the disk of a root is there |
//! | `view` | [`View`]: roots and folders under one tree; what front ends speak to |
//! | `change` | what a user changes through the view |
//! | `checksum` | checksums of files, and those that are kept with them |
//! | `duplicate` | copies of files within the server |
//! | `link` | symbolic links that users make |
//! | `metadata` | facts of a file, and what kernel and configuration allow on it |
//! | `listing` | the entries of a directory |
//! | `upload` | a file being received |
//! | `names` | names that are given in one step
//! | `partial` | where it grows until it is whole |
//! | `boot` | how much of it is sure to be there after a power cut |
//! | `acl` | access control lists and modes of what is made |
//! | `lock` | files that are too young to be changed
//! | `versions` | old versions of overwritten files
//! | `copy` | copying from file to file inside the kernel
//! | `durable` | getting onto the disk what was written
//! | `counts` | what is stored in an area, counted as it changes |
//! | `quota` | how much users may have |
//! | `state` | where what is remembered of a root lies |
//! | `arrival` | when a file was stored whose time a client has set |
//! | `prune` | taking old files away |
//! | `record` | what was uploaded last, and how much of late |
//! | `walk` | going through a tree
//! | `sweep` | what uploads have left in a whole tree |
//! | `verify` | reading again what has a stored checksum |
//! | `system` | the system calls that no safe wrapper offers
//! | `tree` | removing a directory with all in it |
//! | `owners` | names of users and groups |
//! | `error` | why something was refused |
//! | `fuzzing` | doors for the fuzz targets |
mod acl;
mod arrival;
mod boot;
mod change;
pub mod checksum;
mod copy;
mod counts;
mod duplicate;
mod durable;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod link;
mod listing;
mod lock;
mod metadata;
mod mount;
mod names;
mod owners;
mod partial;
mod path;
mod permissions;
mod prune;
mod quota;
mod record;
mod reserved;
mod root;
mod rules;
mod state;
mod sweep;
mod system;
mod tree;
mod upload;
mod verify;
mod versions;
mod view;
mod walk;

pub use counts::{
    Usage, close as close_counts, guard as guard_counts, recover as recover_counts,
    rescan as rescan_counts, usage as usage_of,
};
pub use duplicate::Copying;
pub use error::{Error, ErrorKind};
pub use listing::{Entry, Listing};
pub use metadata::{Kind, Metadata, forget_identity};
pub use mount::is_mounted;
pub use owners::{group_id, group_name, user_name};
pub use path::VirtualPath;
pub use permissions::{Modes, Permission, Permissions};
pub use prune::{Fate, Pruned, Pruning, prune};
pub use quota::Metered;
pub use record::{LastUpload, Uploaded, uploaded};
pub use rules::{Keep, Quota, Room, Rules};
pub use sweep::{Partials, count_partials, remove_old_partials};
pub use upload::{How, Stored, Upload, Uploads};
pub use verify::{Checked, Told, count_checksums, verify};
pub use view::{Download, FolderSpec, View, ViewSpec};
