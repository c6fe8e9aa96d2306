//! Call stacks, each kept once: a million goroutines have some hundred different ones.

use std::collections::HashMap;

use crate::address::RuntimeAddr;

/// Return addresses kept in all, 256 MiB of them. A target that has more distinct ones is lying.
const MAX_PCS: usize = 32 << 20;

/// One place of a call stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallSite(u64);

/// No address of a program has it.
const EXACT: u64 = 1 << 63;

impl CallSite {
    /// An address that a call returns to; the call is before it.
    #[must_use]
    pub fn returning_to(pc: RuntimeAddr) -> Self {
        Self(pc.0 & !EXACT)
    }

    /// The very instruction: a function not begun yet, or interrupted by a signal.
    #[must_use]
    pub fn at(pc: RuntimeAddr) -> Self {
        Self(pc.0 | EXACT)
    }

    /// The address as it is on the stack.
    #[must_use]
    pub fn pc(self) -> RuntimeAddr {
        RuntimeAddr(self.0 & !EXACT)
    }

    /// Whether it is the instruction itself that is meant, not the call before it.
    #[must_use]
    pub fn is_exact(self) -> bool {
        self.0 & EXACT != 0
    }

    /// The address whose predecessor lies in the instruction that is meant: what symbolizers take.
    #[must_use]
    pub fn return_address(self) -> RuntimeAddr {
        RuntimeAddr(self.pc().0 + u64::from(self.is_exact()))
    }
}

/// How far a stack was followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Depth {
    /// To the goroutine's start.
    Whole,
    /// To a limit of ours, or to the stack pointer of code that does not say what it does with it.
    Cut,
    /// To something that is no call of a Go function.
    Broken,
}

/// Which stack of [`Stacks`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StackId(u32);

/// All different stacks of a census.
#[derive(Debug, Default)]
pub struct Stacks {
    known: HashMap<Box<[CallSite]>, StackId>,
    stacks: Vec<(Box<[CallSite]>, Depth)>,
    pcs: usize,
}

impl Stacks {
    /// The number of a stack, innermost call first. `None` once too many different ones were kept.
    pub(super) fn intern(&mut self, calls: &[CallSite], depth: Depth) -> Option<StackId> {
        if let Some(id) = self.known.get(calls) {
            return Some(*id);
        }
        if self.pcs + calls.len() > MAX_PCS {
            return None;
        }
        self.pcs += calls.len();
        let id = StackId(u32::try_from(self.stacks.len()).ok()?);
        self.known.insert(calls.into(), id);
        self.stacks.push((calls.into(), depth));
        Some(id)
    }

    /// The calls of a stack, innermost first.
    #[must_use]
    pub fn calls(&self, id: StackId) -> &[CallSite] {
        self.stacks.get(id.0 as usize).map_or(&[], |(calls, _)| calls)
    }

    /// How far it was followed.
    #[must_use]
    pub fn depth(&self, id: StackId) -> Depth {
        self.stacks.get(id.0 as usize).map_or(Depth::Cut, |(_, depth)| *depth)
    }

    /// How many different ones there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.stacks.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stacks.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_stacks_are_kept_once() {
        let mut stacks = Stacks::default();
        let calls = [CallSite::returning_to(RuntimeAddr(7)), CallSite::returning_to(RuntimeAddr(9))];
        let one = stacks.intern(&calls, Depth::Whole).unwrap();
        let other = stacks.intern(&calls[..1], Depth::Cut).unwrap();
        assert_eq!(stacks.intern(&calls, Depth::Whole), Some(one));
        assert_eq!((stacks.len(), stacks.calls(one), stacks.depth(other)), (2, &calls[..], Depth::Cut));
    }

    #[test]
    fn an_interrupted_instruction_is_not_a_return_address() {
        let exact = CallSite::at(RuntimeAddr(16));
        assert_eq!((exact.pc(), exact.return_address()), (RuntimeAddr(16), RuntimeAddr(17)));
        let call = CallSite::returning_to(RuntimeAddr(16));
        assert_eq!((call.pc(), call.return_address()), (RuntimeAddr(16), RuntimeAddr(16)));
        assert_ne!(exact, call);
    }
}
