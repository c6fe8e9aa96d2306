//! Keys and values of the counter maps.
//!
//! Counters are the truth: they cannot be lost. The values of per-CPU maps are still added to atomically, because a
//! uprobe's program can be preempted by another one on the same CPU.

use crate::{loss::ProcessLoss, probe::ProbeWord};

/// Names one run of one program: a pid is reused, and execve keeps it.
///
/// The low 32 bits are the tgid, the high ones the time of first sight in units of 2^20 ns (about a millisecond) of
/// CLOCK_MONOTONIC. A pid that comes back within one millisecond would collide; the kernel hands pids out in turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct ProcessId(pub u64);

impl ProcessId {
    /// The id of the process `tgid` first seen at `monotonic_ns`.
    #[inline(always)]
    #[must_use]
    pub const fn new(tgid: u32, monotonic_ns: u64) -> Self {
        Self((monotonic_ns >> 20) << 32 | tgid as u64)
    }

    /// The process's tgid in the initial pid namespace.
    #[must_use]
    pub const fn tgid(self) -> u32 {
        self.0 as u32
    }
}

/// A watched process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Process {
    /// Its id in every key below.
    pub id: ProcessId,
    /// The word of its binary without event and flags: says which probes are its own, and serves programs that have no
    /// cookie.
    pub word: u64,
}

impl Process {
    /// True where the process is counted by the probes of the binary with this number.
    #[must_use]
    pub const fn is_of(&self, binary: u32) -> bool {
        ProbeWord(self.word).binary() == binary
    }
}

/// A creation site of one process, split by what is started there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct SiteKey {
    /// The process.
    pub process: ProcessId,
    /// `g.gopc`: return address of the call of `runtime.newproc`, a runtime address.
    pub gopc: u64,
    /// `g.startpc`: entry of the function the goroutine starts with, a runtime address. 0 where it could not be read.
    pub startpc: u64,
}

/// Births and exits at a site since the attach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SiteCounts {
    /// Goroutines created outside of windows.
    pub births: u64,
    /// Goroutines ended outside of windows.
    pub exits: u64,
    /// Goroutines created in windows, each with a record.
    pub window_births: u64,
    /// Goroutines ended in windows, each with a record.
    pub window_exits: u64,
    /// Creation stacks sent; the kernel side sends one from each CPU.
    pub stacks: u64,
}

impl SiteCounts {
    /// Goroutines created, in windows and outside.
    #[must_use]
    pub const fn all_births(&self) -> u64 {
        self.births + self.window_births
    }

    /// Goroutines ended, in windows and outside.
    #[must_use]
    pub const fn all_exits(&self) -> u64 {
        self.exits + self.window_exits
    }

    /// The counts of two CPUs together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            births: self.births + other.births,
            exits: self.exits + other.exits,
            window_births: self.window_births + other.window_births,
            window_exits: self.window_exits + other.window_exits,
            stacks: self.stacks + other.stacks,
        }
    }
}

/// A site and a reason to park.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct WaitKey {
    /// The site of the goroutine that parks.
    pub site: SiteKey,
    /// `runtime.waitReason`, one byte in the runtime.
    pub reason: u64,
}

/// Events of a process that no site could be found for, and losses. Rare, so not per CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Unattributed {
    /// Births counted without a site.
    pub births: u64,
    /// Exits counted without a site.
    pub exits: u64,
    /// Parks counted without a site.
    pub parks: u64,
    /// By [`ProcessLoss`].
    pub losses: [u64; ProcessLoss::COUNT],
}

#[cfg(feature = "user")]
#[allow(unsafe_code, reason = "aya reads and writes map entries as bytes")]
mod pod {
    use super::{Process, ProcessId, SiteCounts, SiteKey, Unattributed, WaitKey};
    use crate::{
        callers::{CallerCounts, CallerKey, Calling, GoidKey, ProcessorKey},
        story::{Goroutine, GoroutineKey, Histogram, HistogramKey, Spent, SpentKey, Story},
        window::Window,
    };

    // SAFETY: each is `#[repr(C)]` or transparent, made of u64s alone: no padding, every bit pattern valid.
    unsafe impl aya::Pod for Process {}
    // SAFETY: as above.
    unsafe impl aya::Pod for ProcessId {}
    // SAFETY: as above.
    unsafe impl aya::Pod for SiteCounts {}
    // SAFETY: as above.
    unsafe impl aya::Pod for SiteKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Unattributed {}
    // SAFETY: as above.
    unsafe impl aya::Pod for WaitKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Window {}
    // SAFETY: as above.
    unsafe impl aya::Pod for CallerCounts {}
    // SAFETY: as above.
    unsafe impl aya::Pod for CallerKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Calling {}
    // SAFETY: as above.
    unsafe impl aya::Pod for GoidKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for ProcessorKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Goroutine {}
    // SAFETY: as above.
    unsafe impl aya::Pod for GoroutineKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Histogram {}
    // SAFETY: as above.
    unsafe impl aya::Pod for HistogramKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Spent {}
    // SAFETY: as above.
    unsafe impl aya::Pod for SpentKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Story {}
}
