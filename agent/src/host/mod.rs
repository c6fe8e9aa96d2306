//! Processes of the host, through /proc: who runs, which binary, where it was loaded.
//!
//! - [`process`]: one process, its identity and its executable,
//! - [`file`]: a binary's bytes without mapping them.
//!
//! The root of /proc is a parameter, so that tests give a folder.

pub mod file;
pub mod process;

pub use file::{FileId, FileSource};
pub use process::{HostError, Identity, Proc};
