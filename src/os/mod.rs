//! The operating system, with nothing of ours in it: waiting, ending, sockets, addresses.
//!
//! | file | subject |
//! |---|---|
//! | `system` | system calls without a safe wrapper |
//! | `ready` | poll(2) with a deadline |
//! | `stop` | the end of the process as every thread sees it |
//! | `ending` | the end of one thread's work as others wish it |
//! | `socket` | options of sockets |
//! | `clock` | what time it is, and how long the system is up |
//! | `users` | users and groups of the system |
//! | `addresses` | the host's own addresses, and whose others are |
//! | `remedy` | what an owner can do about an error of the system |
pub mod addresses;
pub mod clock;
pub mod ending;
pub mod ready;
pub mod remedy;
pub mod socket;
pub mod stop;
pub mod system;
pub mod users;
