//! Keeps the probes of each binary at the fidelity that the governor decides: feeds it with what processes use and what
//! was counted of them, takes its steps, and opens the windows in which events are sampled.
//!
//! Nothing here waits, except where probes are placed anew while the same ones are still on their way out.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parkranger_common::counts::{ProcessId, Unattributed};
use tracing::{info, warn};

use super::{Watch, WatchError, Watched, probes::Sample};
use crate::{
    governor::{Budget, Fidelity, Governed, Governor, Hits, Reading, SAMPLE, Step},
    host::{FileId, cpu_time_ns},
    kernel::{
        Counters, KernelError,
        calibrate::{Calibration, OwnProbes},
    },
};

/// Time between two readings, and shortly after a step up.
const TICK: Duration = Duration::from_millis(250);
const ON_TRIAL: Duration = Duration::from_millis(50);
/// Reading counters may take this part of the time.
const READING_PART: u32 = 50;
/// Windows are so much further apart than on the average, at most.
const MOST_JITTER: f64 = 1.25;
/// CPU time in one tick below which a process is left alone: one per cent. Unless nothing was read for so long.
const IDLE_PART: u32 = 100;
const LONGEST_UNREAD: Duration = Duration::from_secs(5);

/// The governor, and when it is asked next.
pub(super) struct Governing {
    pub(super) governor: Governor,
    calibration: Option<Calibration>,
    next: Instant,
    /// CPU time of each process at the last tick.
    last: HashMap<ProcessId, u64>,
    /// When what was counted was read last.
    read_at: Option<Instant>,
    /// Varies the time between windows, so that no rhythm of a target hides from them.
    jitter: u32,
}

impl Governing {
    pub(super) fn new(governor: Governor) -> Self {
        Self {
            governor,
            calibration: None,
            next: Instant::now(),
            last: HashMap::new(),
            read_at: None,
            jitter: 0x9e37_79b9,
        }
    }

    /// Begins to measure what a hit costs. Where that is not possible a usual cost is supposed.
    pub(super) fn calibrate(&mut self, probes: Result<OwnProbes, KernelError>) {
        match probes.and_then(OwnProbes::measure) {
            Ok(calibration) => self.calibration = Some(calibration),
            Err(why) => warn!("what counting costs is not measured but supposed: {why}"),
        }
    }

    /// A time between three and five quarters of `time`.
    fn jittered(&mut self, time: Duration) -> Duration {
        // Numerical Recipes' linear congruential generator: any will do.
        self.jitter = self.jitter.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        time.mul_f64(MOST_JITTER - 0.5 * f64::from(self.jitter) / f64::from(u32::MAX))
    }
}

impl Watch {
    /// What may be spent on each process; `None` for whatever it costs.
    #[must_use]
    pub fn budget(&self) -> Option<Budget> {
        self.governing.governor.budget()
    }

    /// Changes it.
    pub fn set_budget(&mut self, budget: Option<Budget>) {
        self.governing.governor.set_budget(budget);
        self.governing.next = Instant::now();
    }

    pub(super) fn governed(&self, id: ProcessId, process: &Watched) -> Governed {
        let governed = self.governing.governor.of(id, process.file);
        if process.is_unprobed() { Governed { fidelity: Fidelity::Census, cost: None, ..governed } } else { governed }
    }

    /// When [`Watch::govern`] has something to do.
    pub(super) fn govern_at(&self) -> Instant {
        let samples = self.probes.values().filter_map(|probes| probes.next(SAMPLE));
        samples.chain(self.next_story_end()).fold(self.governing.next, Instant::min)
    }

    /// Does what is due.
    pub(super) fn govern(&mut self) -> Result<(), WatchError> {
        self.sample()?;
        self.end_stories_in_time()?;
        if Instant::now() < self.governing.next {
            return Ok(());
        }
        if let Some(calibration) = &self.governing.calibration
            && let Some(costs) = self.kernel.calibrated(calibration)
        {
            self.governing.calibration = None;
            match costs {
                Ok(costs) => {
                    info!(
                        "counting costs {:.0} ns for a birth, {:.0} ns for a park, {:.0} ns for an exit",
                        costs.birth_ns, costs.park_ns, costs.exit_ns
                    );
                    self.governing.governor.calibrated(costs);
                }
                Err(why) => warn!("what counting costs is not measured but supposed: {why}"),
            }
        }
        let began = Instant::now();
        for step in self.read_and_decide(began)? {
            self.take_step(&step)?;
        }
        let now = Instant::now();
        // Windows that are affordable more often by now do not wait for the next one.
        for (file, probes) in &mut self.probes {
            let every = self.governing.governor.sample_every(*file);
            if let (Sample::At(at), Some(every)) = (probes.sample, every) {
                probes.sample = Sample::At(at.min(now + every.mul_f64(MOST_JITTER)));
            }
        }
        let usual = if self.governing.governor.is_on_trial(now) { ON_TRIAL } else { TICK };
        self.governing.next = now + usual.max((now - began) * READING_PART);
        Ok(())
    }

    /// Reads what processes used and what was counted of them, and asks the governor.
    fn read_and_decide(&mut self, now: Instant) -> Result<Vec<Step>, WatchError> {
        let living = self.processes.iter().filter(|(_, process)| !process.has_ended());
        let used = cpu_times(living.map(|(id, _)| *id));
        self.ledger.used(&used, now);
        let before = std::mem::replace(&mut self.governing.last, used.iter().copied().collect());
        let busy = used.iter().any(|(id, cpu_ns)| {
            let used = before.get(id).map_or(u64::MAX, |before| cpu_ns.saturating_sub(*before));
            u128::from(used) > TICK.as_nanos() / u128::from(IDLE_PART)
        });
        // Where nobody did much, not much was counted: it is read when somebody does.
        if !(busy || self.governing.governor.may_rise())
            && self.governing.read_at.is_some_and(|then| now - then < LONGEST_UNREAD)
        {
            return Ok(Vec::new());
        }
        self.governing.read_at = Some(now);
        let hits = hits(&self.kernel.counters()?);
        let readings: Vec<Reading> = used
            .into_iter()
            .filter_map(|(process, cpu_ns)| {
                let binary = self.processes.get(&process)?.file;
                Some(Reading { process, binary, cpu_ns, hits: hits.get(&process).copied().unwrap_or_default() })
            })
            .collect();
        Ok(self.governing.governor.observe(&readings, now))
    }

    /// Places and takes off probes, so that what the step says is recorded, and says so to the ledger.
    pub(super) fn take_step(&mut self, step: &Step) -> Result<(), WatchError> {
        if step.from == Fidelity::Story {
            // Before its probes go, one by one.
            self.end_stories(step.binary)?;
        }
        let Some(probes) = self.probes.get_mut(&step.binary) else { return Ok(()) };
        let why = step.because_of.map_or_else(
            || "as asked".to_owned(),
            |process| format!("watching process {} costs it {:.1} %", process.tgid(), step.cost * 100.0),
        );
        info!("{}: {} instead of {}: {why}", probes.name, step.to, step.from);
        let now = Instant::now();
        let sampled = probes.sample != Sample::Never;
        probes.sample = match step.to.has_windows() {
            // The probes that are there serve for the first window.
            true if probes.have_window() => Sample::Since(now),
            true => Sample::At(now),
            false => Sample::Never,
        };
        if let Err(why) = probes.place(step.to, &mut self.kernel) {
            // It was possible once: out of memory, or another uprobe in the way. What is attached is said below.
            warn!("{}: {} stays out of reach: {why}", probes.name, step.to);
        }
        let recording = probes.recording();
        let first_window = probes.sample == Sample::Since(now);
        let ids: Vec<ProcessId> = self.living(step.binary).collect();
        let counters = if sampled { self.kernel.counters()? } else { Counters::default() };
        self.ledger.used(&self.used_by(step.binary), Instant::now());
        self.ledger.record(&ids, recording, &counters, Instant::now());
        if first_window {
            let used = self.used_by(step.binary);
            let counters = self.sampled_counters(step.binary)?;
            self.ledger.begin_window(&used, &counters, Instant::now());
        }
        if (step.from < Fidelity::Lifecycle) != (step.to < Fidelity::Lifecycle) {
            for id in ids {
                self.ledger.forget_baseline(id);
                self.windows.again(id);
            }
        }
        if step.to == Fidelity::Story { self.begin_stories(step.binary) } else { Ok(()) }
    }

    /// The processes of a binary that have not ended, and whose events are counted where its probes are attached.
    pub(super) fn living(&self, binary: FileId) -> impl Iterator<Item = ProcessId> {
        let counts = |process: &Watched| !process.has_ended() && !process.is_unprobed();
        let of_binary = self.processes.iter().filter(move |(_, process)| process.file == binary && counts(process));
        of_binary.map(|(id, _)| *id)
    }

    /// The CPU time of each of them, in ns.
    fn used_by(&self, binary: FileId) -> Vec<(ProcessId, u64)> {
        cpu_times(self.living(binary))
    }

    /// What is counted so far of what is sampled of a binary.
    fn sampled_counters(&mut self, binary: FileId) -> Result<Counters, WatchError> {
        Ok(match self.governing.governor.fidelity(binary) {
            Fidelity::Sparse => self.kernel.counters()?,
            _ => Counters { waits: self.kernel.waits()?, ..Counters::default() },
        })
    }

    /// Opens and closes the windows that are due.
    fn sample(&mut self) -> Result<(), WatchError> {
        let now = Instant::now();
        let due = self.probes.iter().filter(|(_, probes)| probes.next(SAMPLE).is_some_and(|next| next <= now));
        let due: Vec<(FileId, Sample)> = due.map(|(file, probes)| (*file, probes.sample)).collect();
        for (file, sample) in due {
            match sample {
                Sample::Since(_) => self.close_sample(file)?,
                Sample::At(_) | Sample::Never => self.open_sample(file)?,
            }
        }
        Ok(())
    }

    fn open_sample(&mut self, file: FileId) -> Result<(), WatchError> {
        let now = Instant::now();
        let nobody = self.used_by(file).is_empty();
        let Some(probes) = self.probes.get_mut(&file) else { return Ok(()) };
        if nobody {
            probes.sample = Sample::At(now + TICK);
            return Ok(());
        }
        if let Err(why) = probes.open_window(&mut self.kernel) {
            warn!("{}: nothing is sampled for a while: {why}", probes.name);
            probes.close_window(&mut self.kernel);
            probes.sample = Sample::At(now + Duration::from_secs(1));
            return Ok(());
        }
        // What was counted while the probes were placed is before the window.
        let counters = self.sampled_counters(file)?;
        let used = self.used_by(file);
        let now = Instant::now();
        self.ledger.begin_window(&used, &counters, now);
        if let Some(probes) = self.probes.get_mut(&file) {
            probes.sample = Sample::Since(now);
        }
        Ok(())
    }

    fn close_sample(&mut self, file: FileId) -> Result<(), WatchError> {
        let used = self.used_by(file);
        let counters = self.sampled_counters(file)?;
        let now = Instant::now();
        let Some(probes) = self.probes.get_mut(&file) else { return Ok(()) };
        probes.close_window(&mut self.kernel);
        let costs = self.governing.governor.costs();
        for (id, seen) in self.ledger.close_window(&used, &counters, costs, now) {
            self.governing.governor.sampled(id, file, &seen);
        }
        let every = self.governing.governor.sample_every(file).unwrap_or(SAMPLE);
        let next = now + self.governing.jittered(every);
        if let Some(probes) = self.probes.get_mut(&file) {
            probes.sample = Sample::At(next);
        }
        Ok(())
    }
}

/// The CPU time of each of these processes, in ns.
fn cpu_times(ids: impl Iterator<Item = ProcessId>) -> Vec<(ProcessId, u64)> {
    ids.filter_map(|id| Some((id, cpu_time_ns(id.tgid())?))).collect()
}

/// Everything counted of each process.
fn hits(counters: &Counters) -> HashMap<ProcessId, Hits> {
    let mut hits: HashMap<ProcessId, Hits> = HashMap::new();
    for (key, counts) in &counters.sites {
        let of_process = hits.entry(key.process).or_default();
        of_process.births += counts.all_births();
        of_process.exits += counts.all_exits();
    }
    for (key, parks) in &counters.waits {
        hits.entry(key.site.process).or_default().parks += parks;
    }
    for (id, Unattributed { births, exits, parks, .. }) in &counters.unattributed {
        let of_process = hits.entry(*id).or_default();
        of_process.births += births;
        of_process.exits += exits;
        of_process.parks += parks;
    }
    for (id, runs) in &counters.stories.runs {
        hits.entry(*id).or_default().runs = *runs;
    }
    hits
}
