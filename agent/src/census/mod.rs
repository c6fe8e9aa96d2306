//! The census: every goroutine of a process, read out of its memory while it runs.
//!
//! | file | does |
//! |---|---|
//! | `locate` | finds the runtime's list of goroutine structs, `allgs` |
//! | `walk` | reads all of them, each until it holds still |
//! | `goroutine` | one struct, one status |
//! | `running` | stacks of those that run, from samples of their threads |
//! | `unwind`, `stacks` | saved stack pointer ▶ calls, each different stack kept once |
//! | `holders` | who may hold a lock that is waited for |
//! | `labels`, `waits` | pprof labels; channels and locks waited on |
//!
//! The target is not stopped and not written to. `allgs` never shrinks and a goroutine keeps its struct for life, so
//! whatever lives from the beginning of a census to its end is in it exactly once. What changed while it was read is read
//! again; what would not hold still is counted, never guessed ([`Unsettled`]).
//!
//! Memory is hostile input: every pointer, length and list in it may be a lie, so each has a limit, and each layout is
//! believed only after memory has proved it.

#![warn(clippy::indexing_slicing)]

mod error;
#[cfg(test)]
mod fake;
mod goroutine;
mod holders;
mod labels;
mod locate;
mod running;
mod stacks;
mod unwind;
mod waits;
mod walk;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

pub use error::CensusError;
pub use goroutine::Status;
pub use holders::Mention;
pub use labels::{LabelSets, Labels, LabelsId};
pub use stacks::{CallSite, Depth, StackId, Stacks};
pub use waits::{Channel, WaitObject, WaitObjects, WaitsOn};

use crate::{
    address::{Bias, RuntimeAddr, VirtAddr},
    binary::Binary,
    host::{Memory, Threads},
    runtime::{Layout, calls_users, is_system_goroutine},
};
use locate::{AllGs, Search};

/// The Go runtime in one process: where its list of goroutines is and how to read it. Proved by memory, and true as long
/// as the program runs.
#[derive(Clone)]
pub struct Runtime {
    binary: Arc<Binary>,
    bias: Bias,
    layout: Layout,
    allgs: AllGs,
}

/// Goroutines that ended, kept of one census.
pub const MAX_ENDED: usize = 1 << 14;

/// How much is read of each goroutine beside its site and state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Detail {
    /// Its call stack.
    pub stacks: bool,
    /// Its pprof labels.
    pub labels: bool,
    /// What it waits on.
    pub waits: bool,
}

/// Where a goroutine comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// `g.gopc`: the return address of the `go` statement's call; 0 for a C thread that calls Go.
    pub gopc: RuntimeAddr,
    /// `g.startpc`: entry of the function it started with; 0 for a C thread.
    pub startpc: RuntimeAddr,
}

/// Which origin of [`Census::origins`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OriginId(u32);

/// One goroutine.
#[derive(Clone, Copy, Debug)]
pub struct Goroutine {
    /// Its number, never used twice in a process.
    pub goid: u64,
    /// The goroutine that made it; 0 where the runtime does not say (before Go 1.21, timers, C threads).
    pub parent_goid: u64,
    /// When it began to wait, in the monotonic clock; 0 until the first collection after that.
    pub wait_since_ns: u64,
    /// Mark that changes when it runs: equal in two censuses where it has not run in between (the runtime's count wraps at
    /// 256).
    pub run_mark: u32,
    /// Where it comes from.
    pub origin: OriginId,
    /// Its calls; `None` where it would not hold still, where its thread could not be sampled while it runs, and where
    /// they were not asked for.
    pub stack: Option<StackId>,
    /// Its labels.
    pub labels: LabelsId,
    /// What it waits on.
    pub waits: WaitsOn,
    /// Size of its stack.
    pub stack_bytes: u64,
    /// How much of that is in use; 0 where it is not known because it runs.
    pub stack_used_bytes: u32,
    /// What it is doing.
    pub status: Status,
    /// Why it waits: a number of the binary's `WaitReasons`. `None` where it does not wait.
    pub wait_reason: Option<u8>,
    /// Wired to a thread.
    pub locked: bool,
    /// One of the runtime's own that runs a finalizer or a cleanup of the user's now, as far as its stack was read: the runtime
    /// shows it in its dumps then, and does not count it in `runtime.NumGoroutine`.
    pub runs_user_code: bool,
    /// Position of its struct in `allgs`.
    slot: u32,
}

/// What a census could not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unsettled {
    /// Structs that would not hold still long enough to tell who is in them, or that make no sense.
    pub structs: u64,
    /// Goroutines whose state or stack kept changing: they are listed, without a stack and wait reason.
    pub states: u64,
    /// Goroutines whose stack, labels or wait objects could not be read or were beyond a limit.
    pub details: u64,
    /// Stacks that lead to something that is no call.
    pub broken_stacks: u64,
    /// Stacks whose frame pointers disagree with the runtime's tables (the tables are what is shown).
    pub frame_pointers: u64,
}

impl Unsettled {
    /// Whether the census has every goroutine.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.structs == 0
    }
}

/// All goroutines of a process.
#[derive(Debug)]
pub struct Census {
    /// When it began.
    pub time: SystemTime,
    /// The same in the process's own monotonic clock; `None` where that is not known.
    pub monotonic_ns: Option<u64>,
    /// How long it took.
    pub took: Duration,
    /// The goroutines, in the runtime's own order.
    pub goroutines: Vec<Goroutine>,
    /// Structs without a goroutine.
    pub vacant: u64,
    /// Goroutines that ended and whose structs were not used again yet: number and parent's number. At most
    /// [`MAX_ENDED`], and none before Go 1.21, which does not note parents.
    pub ended: Vec<(u64, u64)>,
    /// The different stacks.
    pub stacks: Stacks,
    /// The different sets of labels.
    pub labels: LabelSets,
    /// What is waited on.
    pub wait_objects: WaitObjects,
    /// Locks that are waited for, on the stacks of goroutines that may hold them.
    pub mentions: Vec<Mention>,
    /// What is not in it.
    pub unsettled: Unsettled,
    origins: Origins,
}

#[derive(Debug, Default)]
struct Origins {
    known: HashMap<Origin, OriginId>,
    origins: Vec<(Origin, bool)>,
}

impl Runtime {
    /// Finds the goroutines of a process in its memory.
    ///
    /// # Errors
    ///
    /// [`CensusError::NotFound`], [`CensusError::Starting`], [`CensusError::Memory`], [`CensusError::Binary`].
    pub fn find(memory: &impl Memory, binary: Arc<Binary>, bias: Bias, layout: Layout) -> Result<Self, CensusError> {
        let allgs = Search { memory, binary: &binary, bias, layout: &layout }.find();
        // A process that ended meanwhile is no puzzle.
        memory.still_there()?;
        Ok(Self { allgs: allgs?, binary, bias, layout })
    }

    /// Runtime address of the number of goroutine structs.
    #[must_use]
    pub fn struct_count_address(&self) -> RuntimeAddr {
        self.allgs.length_address()
    }

    /// Reads all goroutines.
    ///
    /// # Errors
    ///
    /// [`CensusError::Memory`], [`CensusError::TooMany`], [`CensusError::Unsteady`].
    pub fn census(&self, memory: &impl Memory, detail: Detail) -> Result<Census, CensusError> {
        let census = walk::walk(self, memory, detail, None);
        memory.still_there()?;
        census
    }

    /// Reads all goroutines, with the stacks of those that run where their `threads` can be sampled.
    ///
    /// # Errors
    ///
    /// As [`Runtime::census`].
    pub fn census_with_running(
        &self,
        memory: &impl Memory,
        detail: Detail,
        threads: &Threads,
    ) -> Result<Census, CensusError> {
        let census = walk::walk(self, memory, detail, Some(threads));
        memory.still_there()?;
        census
    }

    /// Marks the goroutines of the runtime that run finalizers or cleanups of the user's now: those with anything but the
    /// runtime's own functions on their stacks (`isSystemGoroutine` of `runtime/traceback.go`, which asks flags instead).
    fn mark_user_code(&self, census: &mut Census) {
        let name = |pc: VirtAddr| self.binary.function_at(pc).ok().flatten().map(|function| function.name);
        let (stacks, origins) = (&census.stacks, &census.origins);
        for goroutine in &mut census.goroutines {
            let (origin, system) = origins.get(goroutine.origin);
            let Some(stack) = goroutine.stack.filter(|_| system) else { continue };
            let start = name(self.bias.to_virt_or_zero(origin.startpc));
            if !start.is_some_and(|start| calls_users(&start)) {
                continue;
            }
            let is_users = |call: &CallSite| {
                let inside = VirtAddr(self.bias.to_virt(call.return_address()).0.saturating_sub(1));
                name(inside).is_some_and(|name| !name.starts_with("runtime.") && name.contains('.'))
            };
            goroutine.runs_user_code = stacks.calls(stack).iter().any(is_users);
        }
    }

    /// Whether a call is in the function that begins at `start`.
    fn is_in_function(&self, call: CallSite, start: RuntimeAddr) -> bool {
        let pc = self.bias.to_virt(RuntimeAddr(call.return_address().0.saturating_sub(1)));
        let record = self.binary.record_at(pc).ok().flatten();
        start.0 == 0 || record.is_some_and(|record| record.entry == self.bias.to_virt(start).0)
    }

    /// How far its binary was moved when it was loaded.
    #[must_use]
    pub fn bias(&self) -> Bias {
        self.bias
    }

    /// Its binary.
    #[must_use]
    pub fn binary(&self) -> &Arc<Binary> {
        &self.binary
    }
}

impl Origins {
    /// The number of an origin, and whether its goroutines are the runtime's own.
    fn intern(&mut self, origin: Origin, runtime: &Runtime) -> (OriginId, bool) {
        if let Some(id) = self.known.get(&origin) {
            return (*id, self.get(*id).1);
        }
        let start = runtime.bias.to_virt_or_zero(origin.startpc);
        let function = if start.0 == 0 { None } else { runtime.binary.function_at(start).ok().flatten() };
        let system = function.is_some_and(|function| is_system_goroutine(&function.name));
        let id = OriginId(u32::try_from(self.origins.len()).unwrap_or(u32::MAX));
        self.origins.push((origin, system));
        self.known.insert(origin, id);
        (id, system)
    }

    fn get(&self, id: OriginId) -> (Origin, bool) {
        let none = Origin { gopc: RuntimeAddr(0), startpc: RuntimeAddr(0) };
        self.origins.get(id.0 as usize).copied().unwrap_or((none, false))
    }
}

impl Census {
    /// Where a goroutine comes from.
    #[must_use]
    pub fn origin(&self, goroutine: &Goroutine) -> Origin {
        self.origins.get(goroutine.origin).0
    }

    /// Whether a goroutine is the runtime's own, which `runtime.NumGoroutine` does not count.
    #[must_use]
    pub fn is_system(&self, goroutine: &Goroutine) -> bool {
        self.origins.get(goroutine.origin).1
    }

    /// How many goroutines `runtime.NumGoroutine` would count.
    #[must_use]
    pub fn users(&self) -> usize {
        self.goroutines.iter().filter(|goroutine| !self.is_system(goroutine)).count()
    }

    /// How long a goroutine has waited, as far as the runtime says.
    #[must_use]
    pub fn waited(&self, goroutine: &Goroutine) -> Option<Duration> {
        let since = Some(goroutine.wait_since_ns).filter(|&since| since != 0)?;
        self.monotonic_ns?.checked_sub(since).map(Duration::from_nanos)
    }
}
