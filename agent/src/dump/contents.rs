//! One census with the names of what is in it, ready to be written in any form.

use std::{borrow::Cow, collections::BTreeMap, ops::Range, rc::Rc};

use super::names::{self, Names, Place};
use crate::{
    binary::GoVersion,
    census::{CallSite, Census, Goroutine, LabelsId, StackId, Status},
    host::Mapping,
    runtime::WaitReasons,
};

/// A census in words, and the goroutines of it that are to be shown.
pub struct Dump<'a> {
    /// The goroutines.
    pub census: &'a Census,
    /// Names of addresses.
    pub names: &'a Names<'a>,
    /// Names of wait reasons.
    pub wait_reasons: &'a WaitReasons,
    /// The process.
    pub process: &'a ProcessFacts,
    /// The goroutines that are written, by their position in the census.
    pub selected: Vec<usize>,
    /// True if frames of the runtime itself are written too.
    pub runtime_frames: bool,
    /// The goid of the next page's first goroutine; `None` if this is the last page or the only one.
    pub next: Option<u64>,
}

/// The facts about the process that a dump states.
#[derive(Clone, Debug)]
pub struct ProcessFacts {
    /// Its pid.
    pub pid: u32,
    /// Clock ticks since boot, as in /proc/PID/stat.
    pub start_time: u64,
    /// Its executable as it sees it.
    pub exe: String,
    /// The file that holds its Go runtime: the executable, or a library in another program.
    pub runtime: String,
    /// The Go version it was built with.
    pub go_version: GoVersion,
    /// True if the runtime itself would print labels in a dump (`GODEBUG=tracebacklabels`, on from Go 1.27).
    pub prints_labels: bool,
    /// The code in its memory.
    pub mappings: Vec<Mapping>,
    /// The build id of that file.
    pub build_id: String,
}

impl Dump<'_> {
    /// The goroutines that are written.
    pub fn goroutines(&self) -> impl Iterator<Item = &Goroutine> {
        self.selected.iter().filter_map(|index| self.census.goroutines.get(*index))
    }

    /// The state of a goroutine in the runtime's words: "chan receive", "runnable".
    #[must_use]
    pub fn state(&self, goroutine: &Goroutine) -> Cow<'_, str> {
        state(self.wait_reasons, goroutine)
    }

    /// The calls of a goroutine, innermost first.
    #[must_use]
    pub fn calls(&self, goroutine: &Goroutine) -> &[CallSite] {
        goroutine.stack.map_or(&[], |stack| self.census.stacks.calls(stack))
    }

    /// The calls of a stack as profiles have them: with their names, and without what the compiler put in between.
    pub(crate) fn places(&self, calls: &[CallSite]) -> Vec<(CallSite, Rc<Place>, Range<usize>)> {
        let mut callee: Option<String> = None;
        let mut places = Vec::with_capacity(calls.len());
        for call in calls {
            let place = self.names.place(*call);
            // Only the physical function can be in between, and it is the last.
            let between =
                place.frames.last().is_some_and(|last| names::is_in_between(last, place.wrapper, callee.as_deref()));
            let frames = 0..place.frames.len() - usize::from(between);
            callee = place.frames.last().map(|frame| frame.function.clone());
            if !(between && frames.is_empty()) {
                places.push((*call, place, frames));
            }
        }
        places
    }

    /// Goroutines with the same stack and labels, counted.
    pub(crate) fn by_stack(&self) -> BTreeMap<(Option<StackId>, LabelsId), Group> {
        let mut groups: BTreeMap<_, Group> = BTreeMap::new();
        for goroutine in self.goroutines() {
            let group = groups.entry((goroutine.stack, goroutine.labels)).or_default();
            group.count += 1;
            group.stack_bytes += goroutine.stack_bytes;
            group.used_bytes += u64::from(goroutine.stack_used_bytes);
        }
        groups
    }
}

/// The state of a goroutine in the runtime's words.
#[must_use]
pub fn state<'a>(wait_reasons: &'a WaitReasons, goroutine: &Goroutine) -> Cow<'a, str> {
    let reason = goroutine.wait_reason.and_then(|reason| wait_reasons.name(reason)).filter(|name| !name.is_empty());
    let leaked = goroutine.status == Status::Leaked;
    match reason {
        Some(name) if leaked => format!("{name} (leaked)").into(),
        Some(name) => name.into(),
        None => goroutine.status.name().into(),
    }
}

/// Goroutines that are written as one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Group {
    pub(crate) count: u64,
    pub(crate) stack_bytes: u64,
    pub(crate) used_bytes: u64,
}
