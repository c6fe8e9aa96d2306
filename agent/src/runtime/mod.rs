//! Everything that changes with a Go version: offsets in runtime structs, wait reasons, system goroutines.
//!
//! The one place of versions. A binary is asked first (its DWARF, its code); the table in `layouts` is for binaries
//! without DWARF. Either way a layout is a hypothesis until it is checked against the memory of a live process.

#![warn(clippy::indexing_slicing)]

mod dwarf_layout;
mod layout;
mod layouts;
pub(crate) mod number_places;
pub(crate) mod scheduler;
mod settings;
mod system;
mod table;
#[cfg(test)]
mod tests;
mod wait_reasons;
pub(crate) mod waiting;

pub use layout::{Layout, LayoutError, LayoutSource};
pub use number_places::NumberPlaces;
pub use settings::{Allowance, Settings};
pub use system::{calls_users, is_system_goroutine};
pub use wait_reasons::{WaitReasonError, WaitReasons};
