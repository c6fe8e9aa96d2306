//! The probes of one binary. Births and exits are one attachment, parks another, a story's a third, so that each can come and
//! go by itself.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parkranger_common::probe::{Event, ProbeWord};

use super::Watchable;
use crate::{
    governor::Fidelity,
    kernel::{Attachment, Kernel, KernelError, Removal, attach::Probe},
    ledger::{Counted, Recording},
};

/// What is attached to one binary, and what is on its way out.
pub(super) struct Probes {
    binary: Arc<Watchable>,
    /// The binary's path, for errors and logs.
    pub(super) name: String,
    /// Whether processes that the agent has not listed are counted.
    adopt: bool,
    lives: Option<Attachment>,
    parks: Option<Attachment>,
    story: Option<Attachment>,
    leaving: Vec<Removal>,
    /// What was placed last.
    fidelity: Fidelity,
    /// The window in which events are sampled.
    pub(super) sample: Sample,
    /// When the last process went; the probes go some time later.
    pub(super) unused_since: Option<Instant>,
}

/// Whether events are counted in windows, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sample {
    /// They are not.
    Never,
    /// The next window begins then.
    At(Instant),
    /// One has begun then.
    Since(Instant),
}

impl Probes {
    pub(super) fn new(binary: Arc<Watchable>, name: String, adopt: bool) -> Self {
        Self {
            binary,
            name,
            adopt,
            lives: None,
            parks: None,
            story: None,
            leaving: Vec::new(),
            fidelity: Fidelity::Census,
            sample: Sample::Never,
            unused_since: None,
        }
    }

    /// What is counted.
    pub(super) fn recording(&self) -> Recording {
        let counted = |in_windows: bool, attachment: &Option<Attachment>| match attachment {
            _ if in_windows => Counted::InWindows,
            Some(_) => Counted::All,
            None => Counted::None,
        };
        Recording {
            lives: counted(self.fidelity == Fidelity::Sparse, &self.lives),
            parks: counted(self.fidelity.has_windows(), &self.parks),
        }
    }

    /// Places what `fidelity` takes, and takes off what it does not. What is to be sampled is left as it is: probes that
    /// are there serve for the first window.
    pub(super) fn place(&mut self, fidelity: Fidelity, kernel: &mut Kernel) -> Result<(), KernelError> {
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

    /// Has waits and lives timed.
    pub(super) fn place_story(&mut self, kernel: &mut Kernel) -> Result<(), String> {
        if self.story.is_none() {
            let probes = self.binary.story.as_ref().map_err(Clone::clone)?;
            self.leaving.clear();
            let placed = kernel.attach_story(&self.binary.file, &self.name, probes);
            self.story = Some(placed.map_err(|error| error.to_string())?);
        }
        Ok(())
    }

    /// Whether they are.
    pub(super) fn tells_story(&self) -> bool {
        self.story.is_some()
    }

    /// The binary's part of every probe's word.
    pub(super) fn word(&self) -> ProbeWord {
        self.binary.word
    }

    /// Whether what is sampled is counted now.
    pub(super) fn have_window(&self) -> bool {
        self.parks.is_some() && self.lives.is_some()
    }

    /// Whether no window is open.
    pub(super) fn sample_is_closed(&self) -> bool {
        !matches!(self.sample, Sample::Since(_))
    }

    /// Has everything counted for a window.
    pub(super) fn open_window(&mut self, kernel: &mut Kernel) -> Result<(), KernelError> {
        self.place_lives(kernel)?;
        self.place_parks(kernel)
    }

    /// The window is over.
    pub(super) fn close_window(&mut self, kernel: &mut Kernel) {
        self.take_parks_off(kernel);
        if self.fidelity == Fidelity::Sparse {
            self.take_lives_off(kernel);
        }
    }

    fn place_lives(&mut self, kernel: &mut Kernel) -> Result<(), KernelError> {
        if self.lives.is_none() {
            self.lives = Some(self.attach(kernel, |event| event != Event::Park)?);
        }
        Ok(())
    }

    fn place_parks(&mut self, kernel: &mut Kernel) -> Result<(), KernelError> {
        if self.parks.is_none() {
            self.parks = Some(self.attach(kernel, |event| event == Event::Park)?);
        }
        Ok(())
    }

    fn attach(&mut self, kernel: &mut Kernel, wanted: fn(Event) -> bool) -> Result<Attachment, KernelError> {
        // What is still on its way out would count a second time. Dropping waits.
        self.leaving.clear();
        let probes: Vec<Probe> =
            self.binary.probes.iter().map(|probe| Probe { word: probe.word.adopt(self.adopt), ..*probe }).collect();
        kernel.accept(&self.name, &probes)?;
        let probes: Vec<Probe> = probes.into_iter().filter(|probe| wanted(probe.event)).collect();
        kernel.attach(&self.binary.file, &self.name, &probes)
    }

    /// Takes everything off.
    pub(super) fn take_off(&mut self, kernel: &mut Kernel) {
        self.take_story_off(kernel);
        self.take_parks_off(kernel);
        self.take_lives_off(kernel);
    }

    fn take_story_off(&mut self, kernel: &mut Kernel) {
        self.leaving.extend(self.story.take().map(|story| kernel.take_off(story)));
    }

    fn take_lives_off(&mut self, kernel: &mut Kernel) {
        self.leaving.extend(self.lives.take().map(|lives| kernel.take_off(lives)));
    }

    fn take_parks_off(&mut self, kernel: &mut Kernel) {
        self.leaving.extend(self.parks.take().map(|parks| kernel.take_off(parks)));
    }

    /// Whether no probe is left of those that were taken off.
    pub(super) fn are_settled(&mut self) -> bool {
        self.leaving.retain(|removal| !removal.is_done());
        self.leaving.is_empty()
    }

    /// When the sampling has something to do.
    pub(super) fn next(&self, length: Duration) -> Option<Instant> {
        match self.sample {
            Sample::Never => None,
            Sample::At(at) => Some(at),
            Sample::Since(since) => Some(since + length),
        }
    }
}
