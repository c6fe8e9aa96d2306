//! parkranger's own programs as variants.

use std::{fs::File, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use parkranger::{
    go_binary::GoBinaries,
    kernel::{Attachment, Capability, Kernel, Sizes, attach::Probe},
    program::Binaries,
    symbols::SymbolSource,
};
use parkranger_common::{
    counts::{Process, ProcessId},
    story::Story,
};

use super::variants::{Event, Traced, Variant};
use crate::breakpoints::{wait_until_clean, wait_until_probed};

/// Which of parkranger's programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Counts, as it does in production.
    Counting,
    /// Counts, and times waits and lives: the probe of the event for a story, and where goroutines run.
    Story,
    /// Counts, and tells callers apart: births and exits only. An exit alone is cheaper than one of a goroutine whose birth
    /// was told: the benchmark `containers` has both.
    Callers,
}

/// One of parkranger's programs on one event.
pub struct Own {
    program: Program,
    kernel: Kernel,
    attached: Option<(Vec<Attachment>, ProcessId, Event)>,
    runs: u64,
}

impl Own {
    /// Loads the programs.
    ///
    /// # Errors
    /// When this kernel or these privileges do not allow it.
    pub fn new(program: Program) -> Result<Self> {
        let capability = Capability::ask(Path::new("/proc"));
        let kernel = Kernel::load(&capability, Sizes::default().with_stories().with_callers(), None)?;
        Ok(Self { program, kernel, attached: None, runs: 0 })
    }

    fn counted(&self, id: ProcessId, event: Event) -> Result<u64> {
        let counters = self.kernel.counters()?;
        let sites = counters.sites.iter().filter(|(key, _)| key.process == id);
        Ok(match event {
            Event::Birth => sites.map(|(_, counts)| counts.births).sum(),
            Event::Exit => sites.map(|(_, counts)| counts.exits).sum(),
            Event::Run => {
                counters.stories.runs.iter().filter(|(process, _)| *process == id).map(|(_, runs)| *runs).sum()
            }
            Event::Park => {
                counters.waits.iter().filter(|(key, _)| key.site.process == id).map(|(_, parks)| *parks).sum()
            }
        })
    }
}

impl Variant for Own {
    fn name(&self) -> &'static str {
        match self.program {
            Program::Counting => "parkranger",
            Program::Story => "parkranger with a story",
            Program::Callers => "parkranger with callers",
        }
    }

    fn attach(&mut self, target: &Traced, event: Event) -> Result<()> {
        let mut binaries = Binaries::new(Arc::new(GoBinaries::new(SymbolSource::Auto)));
        let file = binaries.understand(Arc::new(File::open(&target.path)?))?;
        let binary = binaries.get(file).context("the target's binary")?;
        // Each attachment is a run of its own in the counters.
        self.runs += 1;
        let id = ProcessId::new(target.pid, self.runs << 20);
        self.kernel.list(Process { id, word: binary.set.word.0 })?;
        let probes: Vec<Probe> = binary.set.probes.iter().filter(|probe| probe.event == event).copied().collect();
        let name = target.path.display().to_string();
        let mut attachments = vec![self.kernel.attach(&binary.set.file, &name, &probes)?];
        if self.program == Program::Story {
            let story = binary.set.story.as_ref().map_err(|why| anyhow::anyhow!("{why}"))?;
            let timed = story.iter().filter(|probe| [event, Event::Run].contains(&probe.event));
            let timed: Vec<Probe> = timed.copied().collect();
            attachments.push(self.kernel.attach_story(&binary.set.file, &name, &timed)?);
            self.kernel.begin_story(Story { process: id, word: binary.set.word.0, since_ns: self.runs, runs: 0 })?;
        }
        if self.program == Program::Callers && event != Event::Park {
            attachments.push(self.kernel.attach_callers(&binary.set.file, &name, &probes)?);
            self.kernel.begin_callers(binary.calling(id))?;
        }
        self.attached = Some((attachments, id, event));
        for probe in &probes {
            wait_until_probed(target.pid, probe.offset.0, Duration::from_secs(5))?;
        }
        Ok(())
    }

    fn detach(&mut self, at_least: u64) -> Result<()> {
        let Some((attachments, id, event)) = self.attached.take() else { return Ok(()) };
        for attachment in attachments {
            self.kernel.detach(attachment);
        }
        self.kernel.end_story(id)?;
        self.kernel.end_callers(&[id])?;
        self.kernel.forget_goroutines()?;
        self.kernel.unwatch(id)?;
        wait_until_clean(id.tgid(), Duration::from_secs(5))?;
        let counted = self.counted(id, event)?;
        ensure!(counted >= at_least, "parkranger counted {counted} of {at_least}");
        Ok(())
    }
}
