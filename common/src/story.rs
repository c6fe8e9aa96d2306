//! Stories: how long goroutines wait, and how long they live. Kept only of processes that have one told.
//!
//! A goroutine that parks leaves the time under its address; where the runtime has it run again, the time between is a
//! wait. Its first run, which is known by the program counter it is to go on at, and its end make a lifetime. What began
//! before the story is in none of them.

use crate::counts::{ProcessId, SiteKey};

/// A process that has its story told, by tgid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Story {
    /// Which run of which process.
    pub process: ProcessId,
    /// The word of its binary without event and flags.
    pub word: u64,
    /// Time its story began, in ns of CLOCK_MONOTONIC: tells what is left of an earlier one.
    pub since_ns: u64,
    /// Hits of the probe where goroutines run.
    pub runs: u64,
}

/// A goroutine by the address of its `g`. The runtime uses that again, for one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct GoroutineKey {
    /// The process.
    pub process: ProcessId,
    /// Address of the `g`.
    pub g: u64,
}

/// A goroutine of a story: since when it waits and lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Goroutine {
    /// [`Story::since_ns`] of the story it is in.
    pub story_ns: u64,
    /// Time of its first run, in ns of CLOCK_MONOTONIC; 0 where that was before the story.
    pub begun_ns: u64,
    /// Time it parked, in ns of CLOCK_MONOTONIC; 0 while it runs.
    pub parked_ns: u64,
    /// Reason it parked, as in [`crate::counts::WaitKey`].
    pub reason: u64,
    /// `g.gopc`.
    pub gopc: u64,
    /// `g.startpc`.
    pub startpc: u64,
}

/// Stands for a reason where what is counted is lifetimes: wait reasons are one byte.
pub const LIFETIME: u64 = 1 << 8;

/// The process, and the wait reason or lifetimes, that a [`Histogram`] is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct HistogramKey {
    /// The process.
    pub process: ProcessId,
    /// A wait reason, or [`LIFETIME`].
    pub of: u64,
}

/// A number of times, and their sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Spent {
    /// Number of times.
    pub count: u64,
    /// Their sum, in ns.
    pub ns: u64,
}

impl Spent {
    /// Adds others.
    pub const fn add(&mut self, more: Self) {
        self.count += more.count;
        self.ns += more.ns;
    }
}

/// A site and what was spent there: time waiting for a reason, or lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct SpentKey {
    /// The site of the goroutine.
    pub site: SiteKey,
    /// A wait reason, or [`LIFETIME`].
    pub of: u64,
}

/// Number of buckets of a histogram, a power of two.
pub const BUCKETS: usize = 128;
/// Binary logarithm of the width of the first buckets, in ns.
const STEP_BITS: u32 = 8;

/// Times by length: four buckets for each doubling from 1.024 µs on, and four of 256 ns before. The last one is for
/// everything from 32 minutes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Histogram {
    /// The sum of all times, in ns.
    pub ns: u64,
    /// Number of times in each bucket, by [`bucket`].
    pub buckets: [u64; BUCKETS],
}

impl Histogram {
    /// Nothing yet.
    pub const EMPTY: Self = Self { ns: 0, buckets: [0; BUCKETS] };

    /// Number of times in all buckets.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Adds others.
    pub fn add(&mut self, more: &Self) {
        self.ns += more.ns;
        for (count, more) in self.buckets.iter_mut().zip(more.buckets) {
            *count += more;
        }
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::EMPTY
    }
}

/// The bucket of a time in ns.
#[inline(always)]
#[must_use]
pub const fn bucket(ns: u64) -> usize {
    let steps = ns >> STEP_BITS;
    if steps < 4 {
        return steps as usize;
    }
    // The highest bit that is set, found by halves: the kernel's machine has no instruction for it.
    let mut rest = steps;
    let mut highest = 0;
    if rest >= 1 << 32 {
        rest >>= 32;
        highest += 32;
    }
    if rest >= 1 << 16 {
        rest >>= 16;
        highest += 16;
    }
    if rest >= 1 << 8 {
        rest >>= 8;
        highest += 8;
    }
    if rest >= 1 << 4 {
        rest >>= 4;
        highest += 4;
    }
    if rest >= 1 << 2 {
        rest >>= 2;
        highest += 2;
    }
    if rest >= 1 << 1 {
        highest += 1;
    }
    let index = 4 * (highest - 1) + (steps >> (highest - 2) & 3);
    if index < BUCKETS as u64 { index as usize } else { BUCKETS - 1 }
}

/// Upper bound of the times in a bucket, exclusive, in ns; `None` for the last one.
#[must_use]
pub const fn bound(bucket: usize) -> Option<u64> {
    if bucket + 1 >= BUCKETS {
        return None;
    }
    let next = bucket as u64 + 1;
    Some(if next < 4 { next << STEP_BITS } else { (4 + next % 4) << (next / 4 - 1) << STEP_BITS })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other() {
        let mut from = 0;
        for index in 0..BUCKETS - 1 {
            let to = bound(index).unwrap();
            assert!(to > from, "{index}");
            assert_eq!((bucket(from), bucket(to - 1)), (index, index));
            from = to;
        }
        assert_eq!((bucket(from), bucket(u64::MAX)), (BUCKETS - 1, BUCKETS - 1));
        assert_eq!((bound(3), bound(7), bound(BUCKETS - 1)), (Some(1024), Some(2048), None));
        assert!((1800..2400).contains(&(from / 1_000_000_000)), "{from}");
    }
}
