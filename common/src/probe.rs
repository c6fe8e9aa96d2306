//! The word that a probe carries.
//!
//! Every probe has 64 bits of its own (the kernel's attach cookie). They say which event the probe stands for, which
//! binary it sits in and where the few fields of `struct g` are that the programs read, so that one program serves
//! every Go version without looking anything up.
//!
//! ```text
//!  bits  0..2   event
//!  bit   2      the probe sits on the stack check's branch: skip hits that will take it
//!  bit   3      adopt: count processes that the agent has not listed
//!  bit   4      park: goroutine and reason are in registers (runtime.gopark), not in g (runtime.park_m)
//!  bits  8..16  offset of g.gopc / 8 (g.startpc is 16 bytes behind it, since Go 1.17)
//!  bits 16..24  offset of g.sched.bp / 8
//!  bits 24..32  offset of g.sched.pc / 8
//!  bits 32..44  offset of g.waitreason
//!  bits 44..64  binary
//! ```

/// The event that a probe stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Event {
    /// A goroutine is created: `runtime.newproc1`.
    Birth = 0,
    /// A goroutine parks: `runtime.gopark`, or `runtime.park_m` behind it.
    Park = 1,
    /// A goroutine ends: `runtime.gdestroy`, or `runtime.goexit0` before Go 1.22.
    Exit = 2,
    /// A goroutine gets to run: `runtime.execute`. Only for a story.
    Run = 3,
}

impl Event {
    /// Those that are counted, whether or not a story is told.
    pub const COUNTED: [Self; 3] = [Self::Birth, Self::Park, Self::Exit];

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Birth => "birth",
            Self::Park => "park",
            Self::Exit => "exit",
            Self::Run => "run",
        }
    }
}

/// Distance from `g.gopc` to `g.startpc` in bytes (runtime/runtime2.go: gopc, ancestors, startpc).
pub const STARTPC_AFTER_GOPC: u64 = 16;
/// Number of binaries that can be told apart.
pub const MAX_BINARIES: u32 = 1 << 20;
/// The number of no binary, for probes that count for none. 0 is the number of no binary either: that of muted processes.
pub const NO_BINARY: u32 = MAX_BINARIES - 1;

const EVENT_MASK: u64 = 0b11;
const SKIP_TAKEN: u64 = 1 << 2;
const ADOPT: u64 = 1 << 3;
const PARK_IN_REGISTERS: u64 = 1 << 4;
const GOPC_SHIFT: u32 = 8;
const SCHED_BP_SHIFT: u32 = 16;
const SCHED_PC_SHIFT: u32 = 24;
const WAITREASON_SHIFT: u32 = 32;
const WAITREASON_MASK: u64 = 0xfff;
const BINARY_SHIFT: u32 = 44;

/// Offsets of the fields of `struct g` that the programs read, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GOffsets {
    /// `g.gopc`: the creation site.
    pub gopc: u32,
    /// `g.startpc`: the start function.
    pub startpc: u32,
    /// `g.waitreason`, one byte.
    pub waitreason: u32,
    /// `g.sched.bp`: the frame pointer of a goroutine that is not running.
    pub sched_bp: u32,
    /// `g.sched.pc`: where a goroutine that is not running goes on.
    pub sched_pc: u32,
}

/// The 64 bits of a probe. See the module's picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct ProbeWord(pub u64);

impl ProbeWord {
    /// Packs a binary's part of the word: everything but the event and its flags. `None` where an offset or the binary
    /// does not fit, which no known Go version comes near.
    #[must_use]
    pub fn for_binary(binary: u32, offsets: GOffsets) -> Option<Self> {
        let GOffsets { gopc, startpc, waitreason, sched_bp, sched_pc } = offsets;
        let eighth = |offset: u32| (offset.is_multiple_of(8) && offset / 8 <= 0xff).then_some(u64::from(offset / 8));
        if binary >= MAX_BINARIES
            || u64::from(waitreason) > WAITREASON_MASK
            || u64::from(startpc) != u64::from(gopc) + STARTPC_AFTER_GOPC
        {
            return None;
        }
        Some(Self(
            eighth(gopc)? << GOPC_SHIFT
                | eighth(sched_bp)? << SCHED_BP_SHIFT
                | eighth(sched_pc)? << SCHED_PC_SHIFT
                | u64::from(waitreason) << WAITREASON_SHIFT
                | u64::from(binary) << BINARY_SHIFT,
        ))
    }

    /// The same word for `event`.
    #[must_use]
    pub const fn event(self, event: Event) -> Self {
        Self(self.0 & !EVENT_MASK | event as u64)
    }

    /// The same word for a probe on the stack check's conditional branch.
    #[must_use]
    pub const fn skip_taken(self, skip: bool) -> Self {
        Self(if skip { self.0 | SKIP_TAKEN } else { self.0 & !SKIP_TAKEN })
    }

    /// The same word for a probe that counts processes the agent has not listed.
    #[must_use]
    pub const fn adopt(self, adopt: bool) -> Self {
        Self(if adopt { self.0 | ADOPT } else { self.0 & !ADOPT })
    }

    /// The same word for a park probe that finds goroutine and reason in registers.
    #[must_use]
    pub const fn park_in_registers(self, registers: bool) -> Self {
        Self(if registers { self.0 | PARK_IN_REGISTERS } else { self.0 & !PARK_IN_REGISTERS })
    }

    /// The event's number, as in [`Event`].
    #[inline(always)]
    #[must_use]
    pub const fn event_number(self) -> u64 {
        self.0 & EVENT_MASK
    }

    /// True where hits that take the branch do not count.
    #[inline(always)]
    #[must_use]
    pub const fn skips_taken(self) -> bool {
        self.0 & SKIP_TAKEN != 0
    }

    /// True where unlisted processes count.
    #[inline(always)]
    #[must_use]
    pub const fn adopts(self) -> bool {
        self.0 & ADOPT != 0
    }

    /// True where a park's goroutine and reason are in registers.
    #[inline(always)]
    #[must_use]
    pub const fn is_park_in_registers(self) -> bool {
        self.0 & PARK_IN_REGISTERS != 0
    }

    /// Offset of `g.gopc` in bytes.
    #[inline(always)]
    #[must_use]
    pub const fn gopc_offset(self) -> u64 {
        (self.0 >> GOPC_SHIFT & 0xff) * 8
    }

    /// Offset of `g.sched.bp` in bytes.
    #[inline(always)]
    #[must_use]
    pub const fn sched_bp_offset(self) -> u64 {
        (self.0 >> SCHED_BP_SHIFT & 0xff) * 8
    }

    /// Offset of `g.sched.pc` in bytes.
    #[inline(always)]
    #[must_use]
    pub const fn sched_pc_offset(self) -> u64 {
        (self.0 >> SCHED_PC_SHIFT & 0xff) * 8
    }

    /// Offset of `g.waitreason` in bytes.
    #[inline(always)]
    #[must_use]
    pub const fn waitreason_offset(self) -> u64 {
        self.0 >> WAITREASON_SHIFT & WAITREASON_MASK
    }

    /// The binary the probe sits in.
    #[inline(always)]
    #[must_use]
    pub const fn binary(self) -> u32 {
        (self.0 >> BINARY_SHIFT) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFSETS: GOffsets = GOffsets { gopc: 288, startpc: 304, waitreason: 176, sched_bp: 96, sched_pc: 64 };

    #[test]
    fn what_goes_in_comes_out() {
        let word = ProbeWord::for_binary(0xf_fffe, OFFSETS).unwrap();
        let word = word.event(Event::Exit).skip_taken(true).adopt(true).park_in_registers(true);
        assert_eq!(word.event_number(), Event::Exit as u64);
        assert!(word.skips_taken() && word.adopts() && word.is_park_in_registers());
        assert_eq!((word.gopc_offset(), word.sched_bp_offset(), word.sched_pc_offset()), (288, 96, 64));
        assert_eq!(word.waitreason_offset(), 176);
        assert_eq!(word.binary(), 0xf_fffe);
        let word = word.event(Event::Birth).skip_taken(false).adopt(false).park_in_registers(false);
        assert_eq!(word, ProbeWord::for_binary(0xf_fffe, OFFSETS).unwrap());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert_eq!(ProbeWord::for_binary(MAX_BINARIES, OFFSETS), None);
        assert_eq!(ProbeWord::for_binary(1, GOffsets { gopc: 289, startpc: 305, ..OFFSETS }), None);
        assert_eq!(ProbeWord::for_binary(1, GOffsets { gopc: 4096, startpc: 4112, ..OFFSETS }), None);
        assert_eq!(ProbeWord::for_binary(1, GOffsets { startpc: 312, ..OFFSETS }), None);
        assert_eq!(ProbeWord::for_binary(1, GOffsets { waitreason: 4096, ..OFFSETS }), None);
    }
}
