//! Births and exits of a site split by caller: who called the function that holds the `go` statement. Kept only of processes
//! that are asked about.
//!
//! A birth's caller is on the creator's stack. The exit's is not: so each goroutine born is remembered by its goid until it
//! ends. It has no goid yet when its birth is seen, but gets the next one that its processor (`p`) has in stock; where the
//! stock is used up, the first of the next sixteen, which the processor's next birth tells. Until then it is unnumbered.

use crate::counts::{ProcessId, SiteKey};

/// A process whose callers are told apart, by tgid: where its runtime keeps the numbers of goroutines to come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Calling {
    /// The process.
    pub process: ProcessId,
    /// The word of its binary without event and flags.
    pub word: u64,
    /// Offset of `g.goid`, in bytes.
    pub goid: u64,
    /// Offset of `g.m`, in bytes.
    pub m: u64,
    /// Offset of `m.p`, in bytes.
    pub p: u64,
    /// Offset of `p.goidcache`, with `p.goidcacheend` behind it, in bytes.
    pub goidcache: u64,
}

/// Goids that a processor takes at once: `_GoidCacheBatch` of runtime/proc.go. The first of a batch is 1 more than a multiple
/// of it.
pub const GOID_BATCH: u64 = 16;

/// A site and a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct CallerKey {
    /// The site.
    pub site: SiteKey,
    /// Return address in the caller of the function with the `go` statement, a runtime address; 0 where there is none (a
    /// timer's goroutine) or it could not be read.
    pub caller: u64,
}

/// Births and exits at a site by way of one caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CallerCounts {
    /// Goroutines created.
    pub births: u64,
    /// Those of them that ended.
    pub exits: u64,
}

/// A goroutine by its goid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct GoidKey {
    /// The process.
    pub process: ProcessId,
    /// `g.goid`.
    pub goid: u64,
}

/// A processor of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ProcessorKey {
    /// The process.
    pub process: ProcessId,
    /// Address of the `p`, a runtime address.
    pub p: u64,
}
