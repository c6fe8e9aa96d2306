//! From a saved pc and stack pointer to the calls on a goroutine's stack.
//!
//! Every Go function says in gopclntab how far it has moved the stack pointer at each of its instructions (`pcsp`), so
//! the return address of each frame is found without frame pointers, as the runtime's own `unwinder`
//! (`runtime/traceback.go`) does. Frame pointers are followed beside it as a check where they were saved.
//!
//! Refuses to go on where a word is no address in a Go function, and beyond [`MAX_DEPTH`] calls.

use std::collections::HashMap;

use super::stacks::{CallSite, Depth};
use crate::{
    address::{Bias, RuntimeAddr},
    binary::{Architecture, Binary, bytes::u64_at},
};

/// Calls of one stack. Deeper recursion is cut there.
pub(super) const MAX_DEPTH: usize = 20_000;
/// Places remembered; real programs have some thousand.
const MAX_REMEMBERED: usize = 1 << 20;

/// `abi.FuncFlagTopFrame`: the first function of a stack.
const TOP_FRAME: u8 = 1;
/// `abi.FuncFlagSPWrite`: sets the stack pointer in a way the table does not know.
const SP_WRITE: u8 = 2;

/// What to do at one pc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    /// Bytes from the stack pointer to where it was at the function's entry.
    delta: u32,
    /// The pc is the function's first instruction.
    at_entry: bool,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Call,
    /// The runtime put this call in between, at an instruction that is not a call.
    Injected,
    /// The stack begins here; for `runtime.goexit` there is nothing to show.
    Top {
        shown: bool,
    },
    /// It cannot be followed further.
    End,
    /// Callable, but it moves the stack pointer by itself once begun.
    SpWrite,
}

/// The words of one stack from the saved stack pointer up.
pub(super) struct StackBytes<'a> {
    /// Address of the first byte.
    pub(super) start: u64,
    pub(super) bytes: &'a [u8],
    /// Where the whole stack ends; what is between was not read.
    pub(super) end: u64,
}

impl StackBytes<'_> {
    fn word(&self, address: u64) -> Option<u64> {
        u64_at(self.bytes, usize::try_from(address.checked_sub(self.start)?).ok()?)
    }
}

/// Where the innermost call is, beside the stack pointer.
#[derive(Clone, Copy)]
pub(super) enum Begin {
    /// A goroutine left its thread, by a call that returns to `pc`. `bp` is the saved frame pointer where there is one.
    Saved { pc: u64, bp: Option<u64> },
    /// A thread at the instruction `pc`, with its link register on arm64.
    Sampled { pc: u64, link: Option<u64> },
}

/// Unwinds stacks of one process.
pub(super) struct Unwinder<'a> {
    binary: &'a Binary,
    bias: Bias,
    steps: HashMap<u64, Option<Step>>,
    /// Stacks whose frame pointers lead elsewhere than the table.
    pub(super) frame_pointer_differs: u64,
}

impl<'a> Unwinder<'a> {
    pub(super) fn new(binary: &'a Binary, bias: Bias) -> Self {
        Self { binary, bias, steps: HashMap::new(), frame_pointer_differs: 0 }
    }

    /// The calls of a stack, innermost first, into `calls`.
    pub(super) fn unwind(&mut self, begin: Begin, stack: &StackBytes<'_>, calls: &mut Vec<CallSite>) -> Depth {
        calls.clear();
        let mut sp = stack.start;
        let mut differs = false;
        // After an injected call, too, the pc is the interrupted instruction itself.
        let (mut pc, mut bp, mut exact, mut link) = match begin {
            Begin::Saved { pc, bp } => (pc, bp, false, None),
            Begin::Sampled { pc, link } => (pc, None, true, link),
        };
        let depth = loop {
            let Some(step) = self.step(pc) else { break Depth::Broken };
            let place = if exact || step.at_entry { CallSite::at } else { CallSite::returning_to };
            let innermost = calls.is_empty();
            if step.kind != (Kind::Top { shown: false }) {
                calls.push(place(RuntimeAddr(pc)));
            }
            match step.kind {
                Kind::Top { .. } => break Depth::Whole,
                Kind::End => break Depth::Cut,
                Kind::SpWrite if !innermost => break Depth::Cut,
                // Begun already, so where its stack pointer is it knows alone.
                Kind::SpWrite if exact => break Depth::Broken,
                _ => {}
            }
            if calls.len() >= MAX_DEPTH {
                break Depth::Cut;
            }
            // Before it has a frame, and after, a function has its return address in the link register.
            let caller = match link.take().filter(|_| step.delta == 0) {
                Some(link) => Some((link, sp, None)),
                None => self.caller(&step, sp, stack),
            };
            let Some((return_address, caller_sp, saved_bp)) = caller else {
                break if sp.saturating_add(u64::from(step.delta)) < stack.end { Depth::Cut } else { Depth::Broken };
            };
            if let (Some(expected), Some((at, saved))) = (bp, saved_bp) {
                differs |= expected != at;
                bp = Some(saved);
            } else if self.binary.architecture() == Architecture::Arm64 {
                // There every frame has one; where it was not read the check ends.
                bp = None;
            }
            if return_address == 0 {
                break Depth::Whole;
            }
            if caller_sp <= sp && return_address == pc {
                break Depth::Broken;
            }
            exact = step.kind == Kind::Injected;
            pc = return_address;
            sp = caller_sp;
        };
        self.frame_pointer_differs += u64::from(differs);
        depth
    }

    /// Return address, stack pointer after the return, and where the caller's frame pointer was saved, with it.
    #[allow(clippy::type_complexity, reason = "three words of one frame")]
    fn caller(&self, step: &Step, sp: u64, stack: &StackBytes<'_>) -> Option<(u64, u64, Option<(u64, u64)>)> {
        let entry_sp = sp.checked_add(u64::from(step.delta))?;
        let saved = |at: u64| stack.word(at).map(|bp| (at, bp));
        match self.binary.architecture() {
            Architecture::Amd64 => {
                let bp = if step.delta >= 8 { saved(entry_sp - 8) } else { None };
                Some((stack.word(entry_sp)?, entry_sp + 8, bp))
            }
            // The return address is at the bottom of the frame, the frame pointer just below it. A function without
            // a frame has its return address in a register that is not saved: no goroutine stops there.
            Architecture::Arm64 => {
                let mut caller_sp = entry_sp;
                if step.kind == Kind::Injected {
                    // The interrupted function's link register was pushed first.
                    caller_sp += 16;
                }
                Some((stack.word(sp)?, caller_sp, sp.checked_sub(8).and_then(saved)))
            }
        }
    }

    fn step(&mut self, pc: u64) -> Option<Step> {
        if let Some(known) = self.steps.get(&pc) {
            return *known;
        }
        let step = self.look_up(pc);
        if self.steps.len() >= MAX_REMEMBERED {
            self.steps.clear();
        }
        self.steps.insert(pc, step);
        step
    }

    fn look_up(&self, pc: u64) -> Option<Step> {
        let virt = self.bias.to_virt(RuntimeAddr(pc));
        // What cannot be read of the binary is as unknown as what is not in it.
        let record = self.binary.record_at(virt).ok().flatten()?;
        let function = self.binary.function(&record).ok()?;
        let delta = self.binary.table().sp_delta(self.binary.image(), &record, virt.0).ok()?;
        let kind = match delta {
            _ if record.flags & TOP_FRAME != 0 => Kind::Top { shown: function.name != "runtime.goexit" },
            None => Kind::End,
            // Carefully arranged to be unwindable all the way.
            Some(_) if function.name == "runtime.cgocallback" => Kind::Call,
            Some(_) if record.flags & SP_WRITE != 0 => Kind::SpWrite,
            Some(_) => match function.name.as_str() {
                "runtime.sigpanic" | "runtime.asyncPreempt" | "runtime.debugCallV2" => Kind::Injected,
                _ => Kind::Call,
            },
        };
        Some(Step { delta: delta.unwrap_or_default(), at_entry: virt.0 == record.entry, kind })
    }
}
