//! How much users may store.
//!
//! | file | subject |
//! |---|---|
//! | `counts` | what is stored in an area, counted as it changes |
//! | `meter` | what one upload or change adds to it, and whether that is allowed |
//! | `state` | where what is remembered of a root lies |
pub mod counts;
pub mod meter;
pub mod state;
