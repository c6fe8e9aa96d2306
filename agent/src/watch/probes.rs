//! The probes of one binary. Births and exits are one attachment, parks another, a story's a third, so that each can come and
//! go by itself.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parkranger_common::probe::{Event, ProbeWord};

use crate::{
    governor::Fidelity,
    kernel::{Attach, KernelError, attach::Probe},
    ledger::{Counted, Recording},
    program::ProbeSet,
};

/// Attachments of one binary, and those on their way out.
pub(super) struct Probes<K: Attach> {
    set: Arc<ProbeSet>,
    /// The binary's path, for errors and logs.
    pub(super) name: String,
    /// True where processes that the agent has not listed are counted.
    adopt: bool,
    lives: Option<K::Attachment>,
    parks: Option<K::Attachment>,
    story: Option<K::Attachment>,
    callers: Option<K::Attachment>,
    leaving: Vec<K::Removal>,
    /// Fidelity placed last.
    fidelity: Fidelity,
    /// Schedule of the slices of sampling.
    pub(super) slices: Slices,
    /// Time at which the last process went; the probes go some time later.
    pub(super) unused_since: Option<Instant>,
}

/// The slices of time in which sampled events are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slices {
    /// Nothing is sampled.
    None,
    /// The next slice begins then.
    NextAt(Instant),
    /// A slice has begun then.
    OpenSince(Instant),
}

impl<K: Attach> Probes<K> {
    pub(super) fn new(set: Arc<ProbeSet>, name: String, adopt: bool) -> Self {
        Self {
            set,
            name,
            adopt,
            lives: None,
            parks: None,
            story: None,
            callers: None,
            leaving: Vec::new(),
            fidelity: Fidelity::Census,
            slices: Slices::None,
            unused_since: None,
        }
    }

    /// Events that are counted now.
    pub(super) fn recording(&self) -> Recording {
        let counted = |in_slices: bool, attachment: &Option<K::Attachment>| match attachment {
            _ if in_slices => Counted::InSlices,
            Some(_) => Counted::All,
            None => Counted::None,
        };
        Recording {
            lives: counted(self.fidelity == Fidelity::Sparse, &self.lives),
            parks: counted(self.fidelity.is_sampled(), &self.parks),
        }
    }

    /// Places what `fidelity` takes, and takes off what it does not. What is to be sampled is left as it is: probes that
    /// are there serve for the first slice.
    pub(super) fn place(&mut self, fidelity: Fidelity, kernel: &mut K) -> Result<(), KernelError> {
        self.fidelity = fidelity;
        if fidelity < Fidelity::Story {
            self.take_story_off(kernel);
        }
        match fidelity {
            Fidelity::Sparse => return Ok(()),
            Fidelity::Census => self.take_off(kernel),
            Fidelity::Lifecycle => self.take_parks_off(kernel),
            Fidelity::Sampled | Fidelity::Full | Fidelity::Story => {}
        }
        if fidelity >= Fidelity::Lifecycle {
            self.place_lives(kernel)?;
        }
        if fidelity >= Fidelity::Full { self.place_parks(kernel) } else { Ok(()) }
    }

    /// Places the probes that time waits and lives.
    pub(super) fn place_story(&mut self, kernel: &mut K) -> Result<(), String> {
        if self.story.is_none() {
            let probes = self.set.story.as_ref().map_err(Clone::clone)?;
            self.leaving.clear();
            let placed = kernel.attach_story(&self.set.file, &self.name, probes);
            self.story = Some(placed.map_err(|error| error.to_string())?);
        }
        Ok(())
    }

    /// True while waits and lives are timed.
    pub(super) fn tells_story(&self) -> bool {
        self.story.is_some()
    }

    /// Has callers told apart, where births and exits are all counted.
    pub(super) fn place_callers(&mut self, kernel: &mut K) -> Result<(), String> {
        if self.callers.is_none() && self.recording().lives == Counted::All {
            self.leaving.clear();
            let placed = kernel.attach_callers(&self.set.file, &self.name, &self.set.probes);
            self.callers = Some(placed.map_err(|error| error.to_string())?);
        }
        Ok(())
    }

    /// True where callers are told apart.
    pub(super) fn tells_callers(&self) -> bool {
        self.callers.is_some()
    }

    /// The binary's part of every probe's word.
    pub(super) fn word(&self) -> ProbeWord {
        self.set.word
    }

    /// True where what is sampled is counted now.
    pub(super) fn count_all(&self) -> bool {
        self.parks.is_some() && self.lives.is_some()
    }

    /// True where no slice is open.
    pub(super) fn slice_is_closed(&self) -> bool {
        !matches!(self.slices, Slices::OpenSince(_))
    }

    /// Has everything counted for a slice.
    pub(super) fn open_slice(&mut self, kernel: &mut K) -> Result<(), KernelError> {
        self.place_lives(kernel)?;
        self.place_parks(kernel)
    }

    /// Takes off what was placed for a slice.
    pub(super) fn close_slice(&mut self, kernel: &mut K) {
        self.take_parks_off(kernel);
        if self.fidelity == Fidelity::Sparse {
            self.take_lives_off(kernel);
        }
    }

    fn place_lives(&mut self, kernel: &mut K) -> Result<(), KernelError> {
        if self.lives.is_none() {
            self.lives = Some(self.attach(kernel, |event| event != Event::Park)?);
        }
        Ok(())
    }

    fn place_parks(&mut self, kernel: &mut K) -> Result<(), KernelError> {
        if self.parks.is_none() {
            self.parks = Some(self.attach(kernel, |event| event == Event::Park)?);
        }
        Ok(())
    }

    fn attach(&mut self, kernel: &mut K, wanted: fn(Event) -> bool) -> Result<K::Attachment, KernelError> {
        // What is still on its way out would count a second time. Dropping waits.
        self.leaving.clear();
        let probes: Vec<Probe> =
            self.set.probes.iter().map(|probe| Probe { word: probe.word.adopt(self.adopt), ..*probe }).collect();
        kernel.accept(&self.name, &probes)?;
        let probes: Vec<Probe> = probes.into_iter().filter(|probe| wanted(probe.event)).collect();
        kernel.attach(&self.set.file, &self.name, &probes)
    }

    /// Takes everything off.
    pub(super) fn take_off(&mut self, kernel: &mut K) {
        self.take_story_off(kernel);
        self.take_parks_off(kernel);
        self.take_lives_off(kernel);
    }

    fn take_story_off(&mut self, kernel: &mut K) {
        self.leaving.extend(self.story.take().map(|story| kernel.take_off(story)));
    }

    fn take_lives_off(&mut self, kernel: &mut K) {
        self.leaving.extend(self.callers.take().map(|callers| kernel.take_off(callers)));
        self.leaving.extend(self.lives.take().map(|lives| kernel.take_off(lives)));
    }

    fn take_parks_off(&mut self, kernel: &mut K) {
        self.leaving.extend(self.parks.take().map(|parks| kernel.take_off(parks)));
    }

    /// True once no probe is left of those that were taken off.
    pub(super) fn are_settled(&mut self) -> bool {
        self.leaving.retain(|removal| !K::is_removed(removal));
        self.leaving.is_empty()
    }

    /// Time at which a slice, `length` long, is to be opened or closed next.
    pub(super) fn next(&self, length: Duration) -> Option<Instant> {
        match self.slices {
            Slices::None => None,
            Slices::NextAt(at) => Some(at),
            Slices::OpenSince(since) => Some(since + length),
        }
    }
}
