//! Files as one user may see them: virtual paths, the confined root, listings, uploads. Knows no protocol and no sockets.
//!
//! | room | subject |
//! |---|---|
//! | `view` | [`View`]: roots and folders under one tree; what front ends speak to |
//! | `change` | what a user changes through the view |
//! | `rename` | moving names |
//! | `metadata` | facts of a file, and what kernel and configuration allow on it |
//! | `listing` | the entries of a directory |
//! | `link` | symbolic links that users make |
//! | `path` | paths as a client sees them |
//! | `permissions` | what a user may do |
//! | `rules` | what holds in a root or folder: how uploads are made, what is kept |
//! | `error` | why something was refused |
//! | `upload/` | a file being received, and what it leaves when it is cut off |
//! | `retention/` | what is kept: locks, old versions, pruning |
//! | `integrity/` | checksums and records of uploads |
//! | `quota/` | how much users may store |
//! | `disk/` | what the kernel and its file systems do |
//! | `fuzzing` | doors for the fuzz targets |
mod change;
mod disk;
mod error;
#[doc(hidden)]
pub mod fuzzing;
pub mod integrity;
mod link;
mod listing;
mod metadata;
mod path;
mod permissions;
mod quota;
mod rename;
mod retention;
mod rules;
mod upload;
mod view;

pub use disk::acl::Modes;
pub use disk::metadata::{Kind, forget_identity};
pub use disk::mount::is_mounted;
pub use disk::writers::Holder;
pub use error::{Error, ErrorKind};
pub use integrity::record::{LastUpload, Uploaded, uploaded};
pub use integrity::verify::{Checked, Told, count_checksums, verify};
pub use listing::{Entry, Links, Listing};
pub use metadata::{Asked, Metadata};
pub use path::VirtualPath;
pub use permissions::{Permission, Permissions};
pub use quota::counts::{
    close as close_counts, guard as guard_counts, is_left_by_the_dead, rescan as rescan_counts,
    serve as serve_counts, usage as usage_of, wait_for_rest,
};
pub use quota::meter::Metered;
pub use retention::doubt::{Clock, believed, establish};
pub use retention::prune::{Fate, Pruned, Pruning, prune};
pub use rules::{Expiry, Quota, Room, Rules, Uploads, Usage};
pub use upload::copy::Copying;
pub use upload::sweep::{Partials, count_partials, remove_old_partials, restore_replaced};
pub use upload::{How, Stored, Upload};
pub use view::{Download, FolderSpec, View, ViewSpec};
