//! Stories: how long goroutines wait and live. They are told of all processes of a binary while the user asks for it; one
//! asked for while the watch goes on ends by itself at its time.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use parkranger_common::{counts::ProcessId, story::Story};
use tracing::warn;

use super::{
    WatchError,
    shared::{Host, Shared, Watched},
};
use crate::{
    governor::Fidelity,
    host::{FileId, monotonic_ns},
    kernel::{Attach, Count},
    snapshot::Telling,
};

/// The stories of binaries that end by themselves.
#[derive(Default)]
pub(super) struct TimeBoxes(BTreeMap<FileId, TimeBox>);

/// Time at which a story ends, and the fidelity after it.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimeBox {
    pub(super) until: Instant,
    /// Fidelity the user had chosen before; `None` for as much as the budget allows.
    pub(super) before: Option<Fidelity>,
}

/// Time for which the story of a process was told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    before: Duration,
    since: Option<Instant>,
}

impl Told {
    pub(super) fn end(&mut self, now: Instant) {
        *self = Self { before: self.until(now), since: None };
    }

    pub(super) fn until(&self, now: Instant) -> Duration {
        self.before + self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

/// Answer to a request for a fidelity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pinned {
    /// It is recorded so.
    Done,
    /// The process is not watched.
    NotWatched,
    /// It cannot be recorded so.
    Impossible(String),
}

impl TimeBoxes {
    /// The story of a binary ends at a time.
    pub(super) fn set(&mut self, file: FileId, time_box: TimeBox) {
        self.0.insert(file, time_box);
    }

    /// The story of a binary does not end by itself any more.
    pub(super) fn remove(&mut self, file: FileId) -> Option<TimeBox> {
        self.0.remove(&file)
    }

    /// Time at which the first story ends.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.0.values().map(|time_box| time_box.until).min()
    }

    /// Removes those that are over.
    pub(super) fn take_over(&mut self, now: Instant) -> Vec<(FileId, TimeBox)> {
        self.0.extract_if(.., |_, time_box| time_box.until <= now).collect()
    }

    /// State of the story of a process; `None` where it was never told.
    pub(super) fn telling(&self, process: &Watched, now: Instant) -> Option<Telling> {
        let told = process.story?;
        let time_box = self.0.get(&process.file).filter(|_| told.since.is_some());
        let ends_in = time_box.map(|time_box| time_box.until.saturating_duration_since(now));
        Some(Telling { told: told.until(now), ends_in })
    }
}

impl<K: Attach + Count, H: Host> Shared<K, H> {
    /// Begins the stories of a binary's processes, once its probes count.
    ///
    /// # Errors
    ///
    /// The inner one says why none can be told: then they are only counted.
    pub(super) fn begin_stories(&mut self, file: FileId) -> Result<Result<(), String>, WatchError> {
        let Some(probes) = self.probes.get_mut(&file) else { return Ok(Ok(())) };
        if let Err(why) = probes.place_story(&mut self.kernel) {
            warn!("{}: no story is told: {why}", probes.name);
            return Ok(Err(why));
        }
        let ids: Vec<ProcessId> = self.living(file).collect();
        ids.into_iter().try_for_each(|id| self.join_story(id))?;
        Ok(Ok(()))
    }

    /// Begins the story of a process, if its binary's is told.
    pub(super) fn join_story(&mut self, id: ProcessId) -> Result<(), WatchError> {
        let now = self.host.now();
        let Some(process) = self.processes.get_mut(&id).filter(|process| !process.has_ended()) else { return Ok(()) };
        let Some(probes) = self.probes.get(&process.file).filter(|probes| probes.tells_story()) else { return Ok(()) };
        let told = process.story.get_or_insert(Told { before: Duration::ZERO, since: None });
        if told.since.is_none() {
            told.since = Some(now);
            let word = probes.word().0;
            self.kernel.begin_story(Story { process: id, word, since_ns: monotonic_ns(), runs: 0 })?;
        }
        Ok(())
    }

    /// Ends the stories of a binary's processes. What came of them stays.
    pub(super) fn end_stories(&mut self, file: FileId) -> Result<(), WatchError> {
        let now = self.host.now();
        let ids: Vec<ProcessId> = self.living(file).collect();
        for id in ids {
            self.kernel.end_story(id)?;
            if let Some(told) = self.processes.get_mut(&id).and_then(|process| process.story.as_mut()) {
                told.end(now);
            }
        }
        Ok(self.kernel.forget_goroutines()?)
    }
}
