//! Layouts of the objects a parked goroutine waits on: `runtime.sudog` and the head of `runtime.hchan`
//! (`runtime/runtime2.go`, `chan.go`).
//!
//! The offsets changed once, in Go 1.26, when two pointers of `sudog` became pairs for the leak detector. Memory proves
//! them: the first word of a sudog is the goroutine it was reached from.

use super::layouts::Row;
use crate::binary::GoVersion;

/// Offsets of the fields of `struct sudog`, in bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SudogLayout {
    /// `g`: whose it is.
    pub(crate) g: usize,
    /// `elem`: what is sent or received; for a lock its address.
    pub(crate) elem: usize,
    /// `waitlink`: the next sudog of the same goroutine.
    pub(crate) waitlink: usize,
    /// `c`: the channel; 0 for a lock.
    pub(crate) channel: usize,
    /// Size of the struct.
    pub(crate) size: u32,
    /// True if locks (mutexes, wait groups, conditions) hang on `g.waiting` too.
    pub(crate) has_locks: bool,
}

impl SudogLayout {
    /// The layout of a Go version; of the newest for newer ones.
    pub(crate) fn of(version: &GoVersion) -> Self {
        let [g, elem, waitlink, channel, size] = Row::nearest(version).sudog;
        let has_locks = (version.major, version.minor) >= (1, 26);
        let [g, elem, waitlink, channel] = [g, elem, waitlink, channel].map(|at| at as usize);
        Self { g, elem, waitlink, channel, size, has_locks }
    }
}

/// The head of `struct hchan`, the same in all versions.
pub(crate) mod channel {
    /// `qcount`: elements in the buffer.
    pub(crate) const QCOUNT: usize = 0;
    /// `dataqsiz`: room in the buffer.
    pub(crate) const DATAQSIZ: usize = 8;
    /// `elemsize`, 2 bytes.
    pub(crate) const ELEM_BYTES: usize = 24;
    /// `closed`, 4 bytes.
    pub(crate) const CLOSED: usize = 28;
    /// Bytes of it that are read.
    pub(crate) const HEAD_BYTES: u32 = 32;
}
