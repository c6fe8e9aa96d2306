//! The window of an audit: a short time in which each birth and exit of one process is told one by one, beside being
//! counted.
//!
//! A census sees a process over some milliseconds, in which goroutines come and go. With the births and exits of that
//! time ([`crate::record::Life`]), each with its goid, it becomes exact: alive = (census ∪ born) ∖ ended. What is counted
//! in a window is counted apart ([`crate::counts::SiteCounts`]), so that counters and records can be held to each other,
//! and so that the counts outside stand still meanwhile.

use crate::counts::ProcessId;

/// The process that has a window, and where its runtime keeps the numbers of goroutines to come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Window {
    /// The process whose births and exits are told; 0 for none.
    pub process: ProcessId,
    /// The process whose births alone are still told, after its window: they tell the goids of the window's last ones.
    /// 0 for none.
    pub tail: ProcessId,
    /// Offset of `g.goid`, in bytes.
    pub goid: u64,
    /// Offset of `g.m`, in bytes.
    pub m: u64,
    /// Offset of `m.p`, in bytes.
    pub p: u64,
    /// Offset of `p.goidcache`, with `p.goidcacheend` behind it, in bytes.
    pub goidcache: u64,
}
