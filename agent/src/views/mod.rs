//! One snapshot, shown: as a table for people, as JSON for programs.

mod by_binary;
pub mod check;
pub mod json;
pub mod ps;
mod story;
pub mod table;

pub use table::{Sort, TableOptions};
