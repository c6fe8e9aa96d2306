//! Windows: short times in which each birth and exit of one process is told one by one, beside being counted.
//!
//! A census sees a process over some milliseconds, in which goroutines come and go. With the births and exits of that
//! time, each with its goid, it becomes exact: alive = (census ∪ born) ∖ ended. What is counted in a window is counted
//! apart ([`crate::counts::SiteCounts`]), so that counters and records can be held to each other, and so that the counts
//! outside stand still meanwhile.

use crate::counts::{ProcessId, SiteKey};

/// The process that has a window, and where its runtime keeps the numbers of goroutines to come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Window {
    /// Whose births and exits are told; 0 for none.
    pub process: ProcessId,
    /// Whose births alone are still told, after its window: they tell the goids of the window's last ones. 0 for none.
    pub tail: ProcessId,
    /// Offset of `g.goid`.
    pub goid: u64,
    /// Offset of `g.m`.
    pub m: u64,
    /// Offset of `m.p`.
    pub p: u64,
    /// Offset of `p.goidcache`, with `p.goidcacheend` behind it.
    pub goidcache: u64,
}

/// What a [`Life`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum LifeKind {
    /// A goroutine is being made.
    Birth = 1,
    /// A goroutine ends.
    Exit = 2,
    /// A goroutine is being made after the window: not of it.
    BirthAfter = 3,
}

/// A birth or exit, in the ring buffer.
///
/// A goroutine has no number yet when its birth is seen. It gets the next one that its processor (`p`) has kept in
/// stock, or, where the stock is used up, the first of the next sixteen, which the processor's next birth tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Life {
    /// [`LifeKind`].
    pub kind: u64,
    /// The process and the site.
    pub site: SiteKey,
    /// CLOCK_MONOTONIC.
    pub time_ns: u64,
    /// Exit: the goid. Birth: `p.goidcache`.
    pub goid: u64,
    /// Birth: `p.goidcacheend`. The stock is used up where the two are the same.
    pub goid_end: u64,
    /// Birth: address of the `p`; 0 where it could not be read. Exit: 1 where the goid was read, else 0.
    pub p: u64,
}

impl Life {
    /// Reads a record out of the ring buffer's bytes. `None` where they are not one.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        const WORDS: usize = size_of::<Life>() / 8;
        if bytes.len() != size_of::<Self>() {
            return None;
        }
        let mut words = [0u64; WORDS];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_ne_bytes(chunk.try_into().ok()?);
        }
        let [kind, process, gopc, startpc, time_ns, goid, goid_end, p] = words;
        let site = SiteKey { process: ProcessId(process), gopc, startpc };
        Some(Self { kind, site, time_ns, goid, goid_end, p })
    }
}
