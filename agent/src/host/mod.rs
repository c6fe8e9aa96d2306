//! Processes of the host, through /proc: who runs, which binary, where it was loaded.
//!
//! - [`process`]: one process, its identity and its executable,
//! - [`file`]: a binary's bytes without mapping them,
//! - [`debug_file`]: debug information beside it,
//! - [`mapping`]: the code in its memory,
//! - [`memory`]: what is in a process's memory, read while it runs,
//! - `cpu_time`: the CPU time of a process, and the agent's own,
//! - `clock`: our clocks, and how its monotonic clock stands to ours,
//! - `threads`: what its threads do right now,
//! - [`cgroup`]: its container or unit, and its limits,
//! - [`patience`]: work that may never end, waited for no longer than one has patience,
//! - `owner`: its name and its user,
//! - [`new_file`]: files of ours, written where others may write, too,
//! - [`environment`]: what its Go runtime was told at the start.
//!
//! The root of /proc is a parameter, so that tests give a folder.

mod batch;
pub mod cgroup;
mod clock;
mod cpu_time;
pub mod debug_file;
pub mod environment;
pub mod file;
pub mod mapping;
pub mod memory;
pub mod new_file;
mod owner;
pub mod patience;
pub mod process;
mod threads;

pub use batch::Batch;
pub use cgroup::{Cgroup, Limits, Place};
pub use clock::{monotonic_ns, ticks_since_boot};
pub use cpu_time::{cpu_time_ns, thread_cpu_time_ns};
pub use debug_file::DebugFolder;
pub use environment::Environment;
pub use file::{FileId, FileSource, FileVersion};
pub use mapping::{MappedFile, Mapping};
pub use memory::{Memory, MemoryError, ProcessMemory};
pub use owner::user_id;
pub use process::{HostError, Identity, Proc};
pub use threads::{Sample, Sampling, Threads};
