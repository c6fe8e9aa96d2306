//! Keeps the probes of each binary at the fidelity that the governor decides: feeds it with what processes use and what
//! was counted of them, and takes its steps. The slices of sampling are in `sampling`.
//!
//! Nothing here waits, except where probes are placed anew while the same ones are still on their way out.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parkranger_common::counts::{ProcessId, Unattributed};
use tracing::{info, warn};

use super::{
    WatchError,
    probes::Slices,
    shared::{Host, Shared, Watched},
    stories::{Pinned, TimeBox, TimeBoxes},
};
use crate::{
    governor::{Budget, Fidelity, FidelityReport, Governor, Hits, Reading, SLICE, Step},
    host::FileId,
    kernel::{Attach, Count, Counters, HitCosts},
};

/// Time between two readings, and shortly after a step up.
const TICK: Duration = Duration::from_millis(250);
const ON_TRIAL: Duration = Duration::from_millis(50);
/// Reading counters may take this part of the time.
const READING_PART: u32 = 50;
/// CPU time in one tick below which a process is left alone: one per cent. Unless nothing was read for so long.
const IDLE_PART: u32 = 100;
const LONGEST_UNREAD: Duration = Duration::from_secs(5);

/// The governor, and when it is asked next.
pub(super) struct FidelityControl {
    pub(super) governor: Governor,
    pub(super) time_boxes: TimeBoxes,
    next: Instant,
    /// CPU time of each process at the last tick, in ns.
    last: HashMap<ProcessId, u64>,
    /// Time of the last reading of the counters.
    read_at: Option<Instant>,
    /// Varies the time between slices, so that no rhythm of a target hides from them.
    pub(super) jitter: u32,
}

impl FidelityControl {
    pub(super) fn new(governor: Governor, now: Instant) -> Self {
        Self {
            governor,
            time_boxes: TimeBoxes::default(),
            next: now,
            last: HashMap::new(),
            read_at: None,
            jitter: 0x9e37_79b9,
        }
    }

    /// Takes the measured cost of one hit.
    pub(super) fn calibrated(&mut self, costs: HitCosts) {
        info!(
            "counting costs {:.0} ns for a birth, {:.0} ns for a park, {:.0} ns for an exit",
            costs.birth_ns, costs.park_ns, costs.exit_ns
        );
        self.governor.calibrated(costs);
    }

    pub(super) fn set_budget(&mut self, budget: Option<Budget>, now: Instant) {
        self.governor.set_budget(budget);
        self.next = now;
    }

    /// Fidelity of a process, and its cost.
    pub(super) fn report(&self, id: ProcessId, process: &Watched) -> FidelityReport {
        let report = self.governor.report(id, process.file);
        if process.is_unprobed() { FidelityReport { fidelity: Fidelity::Census, cost: None, ..report } } else { report }
    }

    /// Time at which [`FidelityControl::govern`] has something to do.
    pub(super) fn next<K: Attach, H>(&self, shared: &Shared<K, H>) -> Instant {
        let slices = shared.probes.values().filter_map(|probes| probes.next(SLICE));
        slices.chain(self.time_boxes.next_end()).fold(self.next, Instant::min)
    }

    /// Does what is due. Gives the processes whose baselines do not hold any more.
    pub(super) fn govern<K: Attach + Count, H: Host>(
        &mut self,
        shared: &mut Shared<K, H>,
    ) -> Result<Vec<ProcessId>, WatchError> {
        self.sample(shared)?;
        let mut forgotten = self.end_stories_in_time(shared)?;
        let began = shared.host.now();
        if began < self.next {
            return Ok(forgotten);
        }
        for step in self.read_and_decide(shared, began)? {
            forgotten.extend(self.take_step(shared, &step)?);
        }
        let now = shared.host.now();
        self.advance_slices(shared, now);
        let usual = if self.governor.is_on_trial(now) { ON_TRIAL } else { TICK };
        self.next = now + usual.max(now.saturating_duration_since(began) * READING_PART);
        Ok(forgotten)
    }

    /// Reads what processes used and what was counted of them, and asks the governor.
    fn read_and_decide<K: Attach + Count, H: Host>(
        &mut self,
        shared: &mut Shared<K, H>,
        now: Instant,
    ) -> Result<Vec<Step>, WatchError> {
        let living = shared.processes.iter().filter(|(_, process)| !process.has_ended());
        let used = shared.cpu_times(living.map(|(id, _)| *id));
        shared.ledger.used(&used, now);
        let before = std::mem::replace(&mut self.last, used.iter().copied().collect());
        let busy = used.iter().any(|(id, cpu_ns)| {
            let used = before.get(id).map_or(u64::MAX, |before| cpu_ns.saturating_sub(*before));
            u128::from(used) > TICK.as_nanos() / u128::from(IDLE_PART)
        });
        // Where nobody did much, not much was counted: it is read when somebody does.
        let is_recent = self.read_at.is_some_and(|then| now.saturating_duration_since(then) < LONGEST_UNREAD);
        if !(busy || self.governor.may_rise()) && is_recent {
            return Ok(Vec::new());
        }
        self.read_at = Some(now);
        let hits = hits(&shared.kernel.counters()?);
        let readings: Vec<Reading> = used
            .into_iter()
            .filter_map(|(process, cpu_ns)| {
                let binary = shared.processes.get(&process)?.file;
                Some(Reading { process, binary, cpu_ns, hits: hits.get(&process).copied().unwrap_or_default() })
            })
            .collect();
        Ok(self.governor.observe(&readings, now))
    }

    /// Places and takes off probes, so that what the step says is recorded, and says so to the ledger. Gives the processes
    /// whose baselines do not hold any more.
    pub(super) fn take_step<K: Attach + Count, H: Host>(
        &mut self,
        shared: &mut Shared<K, H>,
        step: &Step,
    ) -> Result<Vec<ProcessId>, WatchError> {
        if step.from == Fidelity::Story {
            // Before its probes go, one by one.
            shared.end_stories(step.binary)?;
        }
        let Some(probes) = shared.probes.get_mut(&step.binary) else { return Ok(Vec::new()) };
        let why = step.because_of.map_or_else(
            || "as asked".to_owned(),
            |process| format!("watching process {} costs it {:.1} %", process.tgid(), step.cost * 100.0),
        );
        info!("{}: {} instead of {}: {why}", probes.name, step.to, step.from);
        let now = shared.host.now();
        let sampled = probes.slices != Slices::None;
        probes.slices = match step.to.is_sampled() {
            // The probes that are there serve for the first slice.
            true if probes.count_all() => Slices::OpenSince(now),
            true => Slices::NextAt(now),
            false => Slices::None,
        };
        if let Err(why) = probes.place(step.to, &mut shared.kernel) {
            // It was possible once: out of memory, or another uprobe in the way. What is attached is said below.
            warn!("{}: {} stays out of reach: {why}", probes.name, step.to);
        }
        let recording = probes.recording();
        let first_slice = probes.slices == Slices::OpenSince(now);
        let ids: Vec<ProcessId> = shared.living(step.binary).collect();
        let counters = if sampled { shared.kernel.counters()? } else { Counters::default() };
        let used = shared.used_by(step.binary);
        let now = shared.host.now();
        shared.ledger.used(&used, now);
        shared.ledger.record(&ids, recording, &counters, now);
        if first_slice {
            self.begin_slice(shared, step.binary)?;
        }
        if step.to >= Fidelity::Lifecycle {
            shared.begin_callers(step.binary)?;
        } else {
            // Exits go uncounted: who is left of those that were born is not known any more.
            shared.kernel.end_callers(&ids)?;
        }
        let mut forgotten = Vec::new();
        if (step.from < Fidelity::Lifecycle) != (step.to < Fidelity::Lifecycle) {
            for id in ids {
                shared.ledger.forget_baseline(id);
                forgotten.push(id);
            }
        }
        if step.to == Fidelity::Story {
            self.begin_stories(shared, step.binary)?;
        }
        Ok(forgotten)
    }

    /// Begins the stories of a binary's processes. Where that is not possible they are only counted.
    pub(super) fn begin_stories<K: Attach + Count, H: Host>(
        &mut self,
        shared: &mut Shared<K, H>,
        file: FileId,
    ) -> Result<(), WatchError> {
        if shared.begin_stories(file)?.is_err() {
            self.governor.pin(file, Some(Fidelity::Full), shared.host.now());
        }
        Ok(())
    }

    /// Ends the stories whose time is over. Gives the processes whose baselines do not hold any more.
    fn end_stories_in_time<K: Attach + Count, H: Host>(
        &mut self,
        shared: &mut Shared<K, H>,
    ) -> Result<Vec<ProcessId>, WatchError> {
        let now = shared.host.now();
        let mut forgotten = Vec::new();
        for (file, TimeBox { before, .. }) in self.time_boxes.take_over(now) {
            if let Some(probes) = shared.probes.get(&file) {
                info!("{}: the time of its story is over", probes.name);
            }
            if let Some(step) = self.governor.pin(file, before, now) {
                forgotten.extend(self.take_step(shared, &step)?);
            }
        }
        Ok(forgotten)
    }

    /// Has the processes of `pid`'s binary recorded as the user says, or (`None`) as the budget allows. A story ends after
    /// `time`, and is followed by what was before. Gives the processes whose baselines do not hold any more, too.
    pub(super) fn pin<K: Attach + Count, H: Host>(
        &mut self,
        shared: &mut Shared<K, H>,
        pid: u32,
        fidelity: Option<Fidelity>,
        time: Duration,
    ) -> Result<(Pinned, Vec<ProcessId>), WatchError> {
        let of_pid = |process: &&Watched| !process.has_ended() && process.identity.pid == pid;
        let Some(file) = shared.processes.values().find(of_pid).map(|process| process.file) else {
            return Ok((Pinned::NotWatched, Vec::new()));
        };
        let now = shared.host.now();
        let tells = fidelity == Some(Fidelity::Story);
        if tells {
            let Some(probes) = shared.probes.get_mut(&file) else { return Ok((Pinned::NotWatched, Vec::new())) };
            if let Err(why) = probes.place_story(&mut shared.kernel) {
                return Ok((Pinned::Impossible(why), Vec::new()));
            }
        }
        let earlier = self.time_boxes.remove(file);
        let before = earlier.map_or_else(|| self.governor.pinned(file, now), |earlier| earlier.before);
        let forgotten = match self.governor.pin(file, fidelity, now) {
            Some(step) => self.take_step(shared, &step)?,
            None => Vec::new(),
        };
        // One that was asked for at the start goes on.
        if tells && before != Some(Fidelity::Story) {
            self.time_boxes.set(file, TimeBox { until: shared.host.now() + time, before });
        }
        Ok((Pinned::Done, forgotten))
    }
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
