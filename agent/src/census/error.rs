//! Why there is no census of a process.

use crate::{
    binary::BinaryError,
    go_binary::GoBinaryError,
    host::{HostError, MemoryError},
};

/// Why the goroutines of a process could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CensusError {
    /// Its binary is not understood.
    #[error(transparent)]
    GoBinary(#[from] GoBinaryError),
    /// What is looked for in its binary cannot be read.
    #[error(transparent)]
    Binary(#[from] BinaryError),
    /// The process cannot be looked at.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Its memory cannot be read.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Nothing in memory looks like the runtime's list of goroutines.
    #[error("the list of goroutines (runtime.allgs) was not found: {candidates} places looked at, the last one: {why}")]
    NotFound {
        /// How many addresses were tried.
        candidates: usize,
        /// What was wrong with the last.
        why: &'static str,
    },
    /// The runtime has not made its first goroutine yet.
    #[error("the Go runtime of the process is only starting")]
    Starting,
    /// The list is longer than any real one.
    #[error("the process claims {claimed} goroutine structs; more than {limit} are not read")]
    TooMany {
        /// What the list says.
        claimed: u64,
        /// The limit.
        limit: u64,
    },
    /// The list kept changing while it was read.
    #[error("the list of goroutines kept changing while it was read")]
    Unsteady,
    /// The target's memory does not answer: a page of it is held back by the target itself (userfaultfd, FUSE).
    #[error("reading the memory of process {pid} did not end within {seconds} s: the process holds it back")]
    HeldBack {
        /// The process.
        pid: u32,
        /// How long was waited.
        seconds: u64,
    },
}
