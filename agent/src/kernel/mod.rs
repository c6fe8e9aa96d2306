//! The kernel's side of the agent: what this kernel allows, loading the programs, attaching probes, reading counters and
//! the ring buffer. The only user of aya.
//!
//! - [`callers`]: births and exits by caller,
//! - [`capability`]: what this kernel and these privileges allow, asked of the kernel itself,
//! - [`load`]: from the eBPF object to loaded programs and maps,
//! - [`attach`]: probes on one binary,
//! - `page_cache`: pages that are to be probed,
//! - `removal`: taking probes off,
//! - `vforked`: work that goes on when the agent is killed,
//! - [`calibrate`]: what one hit costs on this machine, measured on `calibration_loops`,
//! - `batch`: a whole map in a few system calls,
//! - [`breakpoint`]: the instruction that the kernel puts over a probed one,
//! - `sizes`: how large the maps are,
//! - [`read`]: counters out of the maps,
//! - [`rings`]: records out of the ring buffers,
//! - [`story`]: waits and lifetimes,
//! - `traits`: what the watch needs of all this, to be made up in tests.
//!
//! Nothing here knows Go: a probe is an offset in a file and a word.

pub mod attach;
mod batch;
pub mod breakpoint;
pub mod calibrate;
mod calibration_loops;
pub mod callers;
pub mod capability;
pub mod load;
mod page_cache;
pub mod read;
mod removal;
pub mod rings;
mod sizes;
pub mod story;
mod traits;
mod vforked;

pub use attach::Attachment;
pub use calibrate::HitCosts;
pub use callers::Callers;
pub use capability::{Capability, Method};
pub use load::Kernel;
pub use read::Counters;
pub use removal::Removal;
pub use rings::Records;
pub use sizes::Sizes;
pub use story::Stories;
pub use traits::{Attach, Count};

/// An error between the agent and the kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The agent may not use BPF at all.
    #[error("not permitted to load BPF programs: run as root, or with CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE")]
    NotPermitted,
    /// The kernel has no uprobes for BPF.
    #[error("this kernel ({release}) cannot attach uprobes: {missing}")]
    Unsupported {
        /// `uname -r`.
        release: String,
        /// The missing part, and the setting that would give it.
        missing: String,
    },
    /// The eBPF object could not be loaded: a kernel this was never run on, or out of memory.
    #[error("cannot load the eBPF programs: {0}")]
    Load(String),
    /// A probe could not be placed.
    #[error("cannot attach to {path}: {why}")]
    Attach {
        /// The binary, as its process names it.
        path: String,
        /// The kernel's answer.
        why: String,
    },
    /// A map could not be read or written.
    #[error("cannot {action} the map {map}: {why}")]
    Map {
        /// read, write.
        action: &'static str,
        /// Its name in `parkranger_common::names`.
        map: &'static str,
        /// The kernel's answer.
        why: String,
    },
}
