//! Stories: for how long goroutines wait and live. Told of all processes of a binary while the user asks for it, and for no
//! longer than that: a story asked for while the watch goes on has a time at which it ends by itself.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use parkranger_common::{counts::ProcessId, story::Story};
use tracing::{info, warn};

use super::{Watch, WatchError};
use crate::{
    governor::Fidelity,
    host::{FileId, monotonic_ns},
};

/// When the stories of binaries end.
pub(super) type TimeBoxes = BTreeMap<FileId, TimeBox>;

/// When a story ends, and what comes then.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimeBox {
    until: Instant,
    /// What the user had chosen before; `None` for as much as the budget allows.
    before: Option<Fidelity>,
}

/// For how long the story of a process was told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    before: Duration,
    since: Option<Instant>,
}

impl Told {
    pub(super) fn end(&mut self, now: Instant) {
        *self = Self { before: self.until(now), since: None };
    }

    fn until(&self, now: Instant) -> Duration {
        self.before + self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

/// What is said of a story.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Telling {
    /// For how long it was told.
    pub told: Duration,
    /// When it ends; `None` where it has ended, or does not end by itself.
    pub ends_in: Option<Duration>,
}

/// What became of a wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pinned {
    /// So it is recorded.
    Done,
    /// The process is not watched.
    NotWatched,
    /// It cannot be recorded so.
    Impossible(String),
}

impl Watch {
    /// Has the processes of `pid`'s binary recorded as the user says, or (`None`) as the budget allows. A story ends after
    /// `time`, and is followed by what was before.
    ///
    /// # Errors
    ///
    /// [`WatchError::Kernel`].
    pub fn pin(&mut self, pid: u32, fidelity: Option<Fidelity>, time: Duration) -> Result<Pinned, WatchError> {
        let of_pid = |process: &&super::Watched| !process.has_ended() && process.identity.pid == pid;
        let Some(file) = self.processes.values().find(of_pid).map(|process| process.file) else {
            return Ok(Pinned::NotWatched);
        };
        let now = Instant::now();
        let tells = fidelity == Some(Fidelity::Story);
        if tells {
            let Some(probes) = self.probes.get_mut(&file) else { return Ok(Pinned::NotWatched) };
            if let Err(why) = probes.place_story(&mut self.kernel) {
                return Ok(Pinned::Impossible(why));
            }
        }
        let earlier = self.time_boxes.remove(&file);
        let before = earlier.map_or_else(|| self.governing.governor.pinned(file, now), |earlier| earlier.before);
        if let Some(step) = self.governing.governor.pin(file, fidelity, now) {
            self.take_step(&step)?;
        }
        // One that was asked for at the start goes on.
        if tells && before != Some(Fidelity::Story) {
            self.time_boxes.insert(file, TimeBox { until: Instant::now() + time, before });
        }
        Ok(Pinned::Done)
    }

    /// When the first story ends.
    pub(super) fn next_story_end(&self) -> Option<Instant> {
        self.time_boxes.values().map(|time_box| time_box.until).min()
    }

    /// Ends the stories whose time is over.
    pub(super) fn end_stories_in_time(&mut self) -> Result<(), WatchError> {
        let now = Instant::now();
        let over: Vec<(FileId, TimeBox)> = self
            .time_boxes
            .iter()
            .filter(|(_, time_box)| time_box.until <= now)
            .map(|(file, time_box)| (*file, *time_box))
            .collect();
        for (file, TimeBox { before, .. }) in over {
            self.time_boxes.remove(&file);
            if let Some(probes) = self.probes.get(&file) {
                info!("{}: the time of its story is over", probes.name);
            }
            if let Some(step) = self.governing.governor.pin(file, before, now) {
                self.take_step(&step)?;
            }
        }
        Ok(())
    }

    /// Begins the stories of a binary's processes, once its probes count. Where that is not possible they are only counted.
    pub(super) fn begin_stories(&mut self, file: FileId) -> Result<(), WatchError> {
        let Some(probes) = self.probes.get_mut(&file) else { return Ok(()) };
        if let Err(why) = probes.place_story(&mut self.kernel) {
            warn!("{}: no story is told: {why}", probes.name);
            self.governing.governor.pin(file, Some(Fidelity::Full), Instant::now());
            return Ok(());
        }
        let ids: Vec<ProcessId> = self.living(file).collect();
        ids.into_iter().try_for_each(|id| self.join_story(id))
    }

    /// Begins the story of a process, if its binary's is told.
    pub(super) fn join_story(&mut self, id: ProcessId) -> Result<(), WatchError> {
        let Some(process) = self.processes.get_mut(&id).filter(|process| !process.has_ended()) else { return Ok(()) };
        let Some(probes) = self.probes.get(&process.file).filter(|probes| probes.tells_story()) else { return Ok(()) };
        let told = process.story.get_or_insert(Told { before: Duration::ZERO, since: None });
        if told.since.is_none() {
            told.since = Some(Instant::now());
            let word = probes.word().0;
            self.kernel.begin_story(Story { process: id, word, since_ns: monotonic_ns(), runs: 0 })?;
        }
        Ok(())
    }

    /// Ends the stories of a binary's processes. What came of them stays.
    pub(super) fn end_stories(&mut self, file: FileId) -> Result<(), WatchError> {
        let now = Instant::now();
        let ids: Vec<ProcessId> = self.living(file).collect();
        for id in ids {
            self.kernel.end_story(id)?;
            if let Some(told) = self.processes.get_mut(&id).and_then(|process| process.story.as_mut()) {
                told.end(now);
            }
        }
        Ok(self.kernel.forget_goroutines()?)
    }

    /// What there is to say of a process's story; `None` where it was never told.
    pub(super) fn telling(&self, id: ProcessId) -> Option<Telling> {
        let process = self.processes.get(&id)?;
        let told = process.story?;
        let now = Instant::now();
        let until = self.time_boxes.get(&process.file).filter(|_| told.since.is_some());
        let ends_in = until.map(|time_box| time_box.until.saturating_duration_since(now));
        Some(Telling { told: told.until(now), ends_in })
    }
}
