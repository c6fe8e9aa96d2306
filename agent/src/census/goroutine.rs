//! One goroutine as a census finds it, and its struct in the target's memory.

use crate::{
    address::RuntimeAddr,
    binary::bytes::{u8_at, u32_at, u64_at},
    runtime::Layout,
};

/// What a goroutine is doing (`atomicstatus`, `runtime/runtime2.go`), without the collector's scan bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Status {
    /// On a run queue.
    Runnable = 1,
    /// Running Go code.
    Running = 2,
    /// In a system call, or in C.
    Syscall = 3,
    /// Parked; the wait reason says for what.
    Waiting = 4,
    /// Its stack is being moved.
    CopyStack = 8,
    /// Stopped itself for the collector or a debugger.
    Preempted = 9,
    /// Parked for ever, as the leak detector of Go 1.26 found.
    Leaked = 10,
}

impl Status {
    /// All there are.
    pub const ALL: [Self; 7] =
        [Self::Runnable, Self::Running, Self::Syscall, Self::Waiting, Self::CopyStack, Self::Preempted, Self::Leaked];

    /// The runtime's own word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Runnable => "runnable",
            Self::Running => "running",
            Self::Syscall => "syscall",
            Self::Waiting => "waiting",
            Self::CopyStack => "copystack",
            Self::Preempted => "preempted",
            Self::Leaked => "leaked",
        }
    }

    /// Whether `waitreason` means something.
    #[must_use]
    pub fn has_wait_reason(self) -> bool {
        matches!(self, Self::Waiting | Self::Leaked)
    }
}

/// What a slot of `allgs` holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// A struct without a goroutine: idle, dead, or a spare one for C threads.
    Vacant,
    /// A goroutine.
    Occupied(Status),
}

impl Slot {
    /// `None` for a number that is no status.
    pub(super) fn of(atomicstatus: u32) -> Option<Self> {
        /// The collector is looking at its stack.
        const SCAN: u32 = 0x1000;
        Some(match atomicstatus & !SCAN {
            // idle, dead, and from Go 1.26 on dead for C threads.
            0 | 6 | 11 => Self::Vacant,
            1 => Self::Occupied(Status::Runnable),
            2 => Self::Occupied(Status::Running),
            3 => Self::Occupied(Status::Syscall),
            4 => Self::Occupied(Status::Waiting),
            8 => Self::Occupied(Status::CopyStack),
            9 => Self::Occupied(Status::Preempted),
            10 => Self::Occupied(Status::Leaked),
            _ => return None,
        })
    }
}

/// A stack of `runtime.g` larger than this is no stack (the runtime's own limit is 1 GB).
const MAX_STACK_BYTES: u64 = 4 << 30;

/// The fields of a `runtime.g` that a census uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Raw {
    pub(super) slot: Slot,
    pub(super) goid: u64,
    pub(super) parent: u64,
    pub(super) gopc: u64,
    pub(super) startpc: u64,
    pub(super) stack_lo: u64,
    pub(super) stack_hi: u64,
    pub(super) sched_sp: u64,
    pub(super) sched_pc: u64,
    pub(super) sched_g: u64,
    pub(super) sched_bp: u64,
    pub(super) syscall_sp: u64,
    pub(super) syscall_pc: u64,
    pub(super) wait_since: u64,
    pub(super) wait_reason: u8,
    pub(super) locked: bool,
    pub(super) waiting: u64,
    pub(super) labels: u64,
}

impl Raw {
    /// Reads the fields out of the bytes of a struct. `None` where they are too few or the status is none.
    pub(super) fn parse(bytes: &[u8], layout: &Layout) -> Option<Self> {
        let word = |at: u32| u64_at(bytes, at as usize);
        Some(Self {
            slot: Slot::of(u32_at(bytes, layout.atomicstatus as usize)?)?,
            goid: word(layout.goid)?,
            parent: match layout.parent_goid {
                Some(at) => word(at)?,
                None => 0,
            },
            gopc: word(layout.gopc)?,
            startpc: word(layout.startpc)?,
            stack_lo: word(layout.stack_lo)?,
            stack_hi: word(layout.stack_hi)?,
            sched_sp: word(layout.sched_sp)?,
            sched_pc: word(layout.sched_pc)?,
            sched_g: word(layout.sched_g)?,
            sched_bp: word(layout.sched_bp)?,
            syscall_sp: word(layout.syscallsp)?,
            syscall_pc: word(layout.syscallpc)?,
            wait_since: word(layout.waitsince)?,
            wait_reason: u8_at(bytes, layout.waitreason as usize)?,
            locked: word(layout.lockedm)? != 0,
            waiting: word(layout.waiting)?,
            labels: word(layout.labels)?,
        })
    }

    /// Whether this can be the `g` at `address`: it says so itself, and its stack is one.
    pub(super) fn is_at(&self, address: RuntimeAddr) -> bool {
        self.sched_g == address.0 && address.0.is_multiple_of(8) && self.has_sane_stack()
    }

    /// A goroutine's stack is not empty and its stack pointer in it; a dead one may have none.
    pub(super) fn has_sane_stack(&self) -> bool {
        let size = self.stack_hi.checked_sub(self.stack_lo);
        let size = size.filter(|&size| size <= MAX_STACK_BYTES && self.stack_lo.is_multiple_of(8));
        match (self.slot, size) {
            (_, None) => false,
            (Slot::Vacant, Some(_)) => true,
            (Slot::Occupied(_), Some(size)) => size > 0,
        }
    }

    /// Same goroutine, same life.
    pub(super) fn same_goroutine(&self, other: &Self) -> bool {
        self.goid == other.goid
            && self.gopc == other.gopc
            && self.startpc == other.startpc
            && self.parent == other.parent
            && matches!((self.slot, other.slot), (Slot::Occupied(_), Slot::Occupied(_)))
    }

    /// Same goroutine in the same state.
    pub(super) fn same_state(&self, other: &Self) -> bool {
        let reason = match self.slot {
            Slot::Occupied(status) if status.has_wait_reason() => self.wait_reason == other.wait_reason,
            _ => true,
        };
        self.same_goroutine(other) && self.slot == other.slot && reason
    }

    /// Where to unwind from: what the goroutine saved when it last left its thread or entered the kernel.
    pub(super) fn resumes_at(&self) -> Option<(u64, u64)> {
        let (pc, sp) = match self.slot {
            Slot::Vacant | Slot::Occupied(Status::Running | Status::CopyStack) => return None,
            Slot::Occupied(Status::Syscall) => (self.syscall_pc, self.syscall_sp),
            Slot::Occupied(_) if self.syscall_sp != 0 => (self.syscall_pc, self.syscall_sp),
            Slot::Occupied(_) => (self.sched_pc, self.sched_sp),
        };
        (self.stack_lo..self.stack_hi).contains(&sp).then_some((pc, sp))
    }
}

/// Mark that changes when the goroutine runs: a hash of where it goes on, why it waits, and of `trackingSeq`, a byte
/// that counts how often it left a thread. What the collector writes into a parked goroutine's struct is left out, and
/// stack addresses count from the stack's end, which a shrinking stack does not change.
pub(super) fn run_mark(bytes: &[u8], raw: &Raw, layout: &Layout) -> u32 {
    /// `stack` and both stack guards.
    const STACK_BYTES: usize = 32;
    /// `waitreason`, six flags that are the collector's or about preemption, then flags with `trackingSeq` among them.
    const FLAGS: usize = 7;
    const FLAGS_END: usize = 24;
    let (status, since) = (layout.atomicstatus as usize, layout.waitsince as usize);
    let flags = layout.waitreason as usize;
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut mix = |word: u64| hash = (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    for at in (STACK_BYTES..flags & !7).step_by(8).filter(|at| *at != since && *at != status & !7) {
        let word = u64_at(bytes, at).unwrap_or_default();
        let on_stack = (raw.stack_lo..=raw.stack_hi).contains(&word);
        mix(if on_stack { raw.stack_hi - word } else { word });
    }
    mix(u64::from(raw.wait_reason));
    for at in flags + FLAGS..flags + FLAGS_END {
        mix(u64::from(u8_at(bytes, at).unwrap_or_default()));
    }
    (hash >> 32) as u32 ^ hash as u32
}

/// Whether two readings of a struct are the same but for the collector's scan bit.
pub(super) fn same_bytes(one: &[u8], other: &[u8], layout: &Layout) -> bool {
    let (status, end) = (layout.atomicstatus as usize, layout.atomicstatus as usize + 4);
    let same = |range: std::ops::Range<usize>| one.get(range.clone()) == other.get(range);
    one.len() == other.len() && one.len() >= end && same(0..status) && same(end..one.len())
}
