//! What the kernel and its file systems do. Knows nothing of users, uploads or settings.
//!
//! | file | subject |
//! |---|---|
//! | `root` | a directory that nothing leads out of |
//! | `mount` | whether the disk of a root is there |
//! | `entries` | the names in a directory |
//! | `walk` | going through a tree |
//! | `tree` | removing a directory with all in it |
//! | `metadata` | facts of a file |
//! | `acl` | access control lists and modes of what is made |
//! | `names` | holding one name, and giving it in one step |
//! | `writers` | who writes to a file |
//! | `reserved` | names of the server's own files |
//! | `copy` | copying from file to file inside the kernel |
//! | `durable` | getting onto the disk what was written |
//! | `boot` | how much of an unfinished file is sure to be there after a power cut, and what it is to replace |
//! | `system` | the system calls that no safe wrapper offers |
pub mod acl;
pub mod boot;
pub mod copy;
pub mod durable;
pub mod entries;
pub mod metadata;
pub mod mount;
pub mod names;
pub mod reserved;
pub mod root;
pub mod system;
pub mod tree;
pub mod walk;
pub mod writers;
