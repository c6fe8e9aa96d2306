//! Goroutines of one process at one time, in words: what history, findings and comparisons are made from, whether a census
//! or a saved dump gave it.
//!
//! Plain data. What a source does not say is `None` or 0, as each field tells.

use std::{collections::HashMap, sync::Arc, time::Duration};

pub use crate::census::Channel;
use crate::symbols::Frame;

/// Which of [`Population::kinds`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KindId(pub u32);

/// All goroutines of a process at one time.
#[derive(Clone, Debug, Default)]
pub struct Population {
    /// When, in a clock that never goes back.
    pub time: Duration,
    /// Path of the main module, as `example.com/service`; "" where it is not known.
    pub main_module: Arc<str>,
    /// The goroutines.
    pub goroutines: Vec<Member>,
    /// Goroutines that ended lately: number and parent's number; not all of them.
    pub ended: Vec<(u64, u64)>,
    /// Kind of goroutines: site, stack and state that they share.
    pub kinds: Vec<Kind>,
    /// Channels and locks that goroutines wait on.
    pub objects: Vec<Object>,
    /// Locks of `objects`, by index, on the stacks of goroutines that may hold them: with the goroutine's number.
    pub mentions: Vec<(u64, u32)>,
    /// Indexes of `objects`, which [`Member::waits_on`] has ranges of.
    pub links: Vec<u32>,
}

/// One goroutine; several alike where the source only counts them.
#[derive(Clone, Debug)]
pub struct Member {
    /// Number of goroutines that it stands for.
    pub count: u64,
    /// Its number; 0 where the source has none.
    pub goid: u64,
    /// Its parent's; 0 where that is not known.
    pub parent_goid: u64,
    /// Kind that it shares with others.
    pub kind: KindId,
    /// Mark that changes when it runs; `None` where the source has none.
    pub run_mark: Option<u32>,
    /// Longest that it can have waited: the runtime notes the collection before the one that first found it waiting. `None`
    /// where the source does not say.
    pub waited: Option<Duration>,
    /// Size of its stack; 0 where that is not known.
    pub stack_bytes: u64,
    /// Objects that it waits on: start and end in [`Population::links`].
    pub waits_on: (u32, u32),
}

impl Member {
    /// Goroutines of one kind of which nothing else is known.
    #[must_use]
    pub fn of_kind(kind: KindId, count: u64) -> Self {
        Self { count, goid: 0, parent_goid: 0, kind, run_mark: None, waited: None, stack_bytes: 0, waits_on: (0, 0) }
    }
}

/// Kind of goroutines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Kind {
    /// The `go` statement: the physical function with the line. `None` for the first goroutine, C threads, and where the
    /// source does not say.
    pub created_by: Option<Frame>,
    /// The function it started with; "" where that is not known.
    pub start_function: String,
    /// State in the runtime's words: "chan receive".
    pub state: String,
    /// Its calls, innermost first, inlined ones in their place; empty where there is no stack.
    pub frames: Vec<Frame>,
    /// True for the runtime's own goroutines.
    pub system: bool,
    /// Its pprof labels.
    pub labels: Vec<(String, String)>,
}

/// A channel or lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Object {
    /// Its address in the process.
    pub address: u64,
    /// Goroutines that wait on it.
    pub waiters: u32,
    /// The channel's state; `None` for a lock.
    pub channel: Option<Channel>,
}

impl Population {
    /// The kind of a goroutine.
    #[must_use]
    pub fn kind(&self, member: &Member) -> Option<&Kind> {
        self.kinds.get(member.kind.0 as usize)
    }

    /// Object that a goroutine waits on.
    pub fn objects_of(&self, member: &Member) -> impl Iterator<Item = (u32, &Object)> {
        let (start, end) = member.waits_on;
        let links = self.links.get(start as usize..end as usize).unwrap_or_default();
        links.iter().filter_map(|index| Some((*index, self.objects.get(*index as usize)?)))
    }

    /// Number of goroutines.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.goroutines.iter().map(|member| member.count).fold(0, u64::saturating_add)
    }

    /// True where there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.goroutines.is_empty()
    }
}

/// Gives equal kinds one number.
#[derive(Debug, Default)]
pub struct Kinds {
    known: HashMap<Kind, KindId>,
    bytes: usize,
    kinds: Vec<Kind>,
}

impl Kinds {
    /// The number of a kind.
    pub fn intern(&mut self, kind: Kind) -> KindId {
        if let Some(id) = self.known.get(&kind) {
            return *id;
        }
        let id = KindId(u32::try_from(self.kinds.len()).unwrap_or(u32::MAX));
        let frames: usize = kind.frames.iter().map(|frame| frame.text_bytes() + size_of::<Frame>()).sum();
        // It is kept twice.
        self.bytes += 2 * (frames + kind.state.len() + kind.start_function.len() + size_of::<Kind>());
        self.known.insert(kind.clone(), id);
        self.kinds.push(kind);
        id
    }

    /// Memory that they take, in bytes, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// All of them, in the order of their numbers.
    #[must_use]
    pub fn into_kinds(self) -> Vec<Kind> {
        self.kinds
    }
}
