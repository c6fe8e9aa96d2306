//! Windows: the baseline of each process, and its audits. One window is open at a time, for some milliseconds.
//!
//! ```text
//!  open ──▶ settle down ──▶ census ──▶ tail ──▶ ledger
//!           counts outside    in a      births after the window number
//!           stand still       thread    its last ones
//! ```
//!
//! Nothing here waits: each [`Watch::drain`] takes the open window one step further, and is called more often meanwhile
//! ([`Watch::drain_every`]). A census runs in a thread of its own, because a process can make any read of its memory hang;
//! such a thread is left behind and the process gets no further window.

use std::{
    collections::{BTreeMap, HashMap},
    sync::mpsc::TryRecvError,
    thread,
    time::{Duration, Instant},
};

use parkranger_common::{
    counts::{ProcessId, SiteCounts, SiteKey},
    record::Life,
    window::Window,
};
use tracing::{debug, warn};

use super::{
    Watch, WatchError, Watched,
    worker::{Stocks, Worker},
};
use crate::{
    census::CensusError,
    host::cpu_time_ns,
    ledger::{
        Counted, Site, Verdict,
        window::{Spoiled, alive_at_end, unnumbered},
    },
    runtime::scheduler::GoidStock,
};

/// How long events that began before a window are given to be counted and to show in memory: at least, and at most. Where
/// a thread of the process got no time on a processor until then, the window says nothing.
const SETTLE: Duration = Duration::from_millis(4);
const SETTLE_LIMIT: Duration = Duration::from_millis(400);
/// A thread that has run for so long since is past any event from before: 100 µs, and a tick of the slowest kernels
/// (HZ=100), for the time of a thread that runs is only brought up to date then.
const PAST_EVENTS_NS: u64 = 10_100_000;
/// How long births after a window are told.
const TAIL: Duration = Duration::from_millis(4);
/// How long a census may take before its process is given up.
const CENSUS_LIMIT: Duration = Duration::from_secs(30);
/// Time between two steps of an open window, and between two drains without one. The ring buffer is never waited on:
/// waking the agent would cost the target more than everything else together.
const STEP: Duration = Duration::from_millis(2);
/// The first windows are waited for.
const STEP_OF_START: Duration = Duration::from_micros(500);
const DRAIN: Duration = Duration::from_millis(40);
const SHORTEST_DRAIN: Duration = Duration::from_millis(1);
/// Time between two censuses of a process whose births and exits are not counted, and how many times what it took.
const CENSUS_EVERY: Duration = Duration::from_secs(5);
const CENSUS_PART: u32 = 50;
/// A process that has used less CPU time since it was found right needs no audit: nothing can have gone wrong.
const IDLE_NS: u64 = 1_000_000;
/// Time to the first repetition of a window that said nothing; doubled each time up to the limit.
const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_secs(20);
/// How long a start waits for the baselines of processes named by pid.
pub(super) const PATIENCE: Duration = Duration::from_millis(1500);

/// When each process has its next window, and the one that is open.
#[derive(Default)]
pub(super) struct Windows {
    due: HashMap<ProcessId, Due>,
    open: Option<OpenWindow>,
}

impl Windows {
    /// What is known of a process does not hold any more: its next window is due at once, and an open one says nothing.
    pub(super) fn again(&mut self, id: ProcessId) {
        self.due.insert(id, Due::now());
        if let Some(open) = self.open.as_mut().filter(|open| open.id == id) {
            open.is_void = true;
        }
    }
}

#[derive(Clone, Copy)]
struct Due {
    at: Instant,
    retry: Duration,
    /// CPU time of the process when it was found right.
    settled_cpu_ns: Option<u64>,
}

impl Due {
    fn now() -> Self {
        Self { at: Instant::now(), retry: FIRST_RETRY, settled_cpu_ns: None }
    }
}

struct OpenWindow {
    id: ProcessId,
    offsets: Window,
    begun: Instant,
    /// When its phase began.
    since: Instant,
    phase: Phase,
    lives: Vec<Life>,
    /// What the kernel had counted in earlier windows.
    counted_before: u64,
    /// The kernel's counts at the beginning of the census.
    before: Vec<(SiteKey, SiteCounts)>,
    worker: Option<Worker>,
    /// No births and exits are counted: the census is all there is to know.
    only_census: bool,
    /// What it finds is not to be used.
    is_void: bool,
}

impl OpenWindow {
    fn new(id: ProcessId, offsets: Window, phase: Phase) -> Self {
        let now = Instant::now();
        Self {
            id,
            offsets,
            begun: now,
            since: now,
            phase,
            lives: Vec::new(),
            counted_before: 0,
            before: Vec::new(),
            worker: None,
            only_census: false,
            is_void: false,
        }
    }
}

enum Phase {
    /// Threads that may still be in an event from before, and how long each had run.
    Settling(Vec<(u32, u64)>),
    Census,
    Tail {
        found: Vec<(u64, Site)>,
        at_end: Vec<(SiteKey, SiteCounts)>,
    },
    Stocks {
        found: Vec<(u64, Site)>,
        at_end: Vec<(SiteKey, SiteCounts)>,
    },
    /// The stocks are here; a birth that was told while they were read comes first.
    Last {
        found: Vec<(u64, Site)>,
        at_end: Vec<(SiteKey, SiteCounts)>,
        stocks: Stocks,
    },
}

enum Step {
    Goes(Box<OpenWindow>),
    Done,
    Observed,
    Unconfirmed,
    Spoiled(Spoiled),
    Impossible(CensusError),
}

impl Watch {
    /// How often [`Watch::drain`] is to be called now.
    #[must_use]
    pub fn drain_every(&self) -> Duration {
        let usual = if self.windows.open.is_some() { STEP } else { DRAIN };
        self.govern_at().saturating_duration_since(Instant::now()).clamp(SHORTEST_DRAIN, usual)
    }

    /// Takes windows until every process has its baseline, but no longer than `limit`.
    pub(super) fn take_baselines(&mut self, limit: Duration) -> Result<(), WatchError> {
        let begin = Instant::now();
        loop {
            self.drain()?;
            if self.all_have_baselines() || begin.elapsed() >= limit {
                return Ok(());
            }
            thread::sleep(STEP_OF_START);
        }
    }

    /// Whether every process that can have a baseline has one.
    fn all_have_baselines(&self) -> bool {
        self.processes
            .iter()
            .all(|(id, process)| process.has_ended() || process.no_census || self.ledger.process(*id).baseline)
    }

    /// Takes in births and exits of the open window.
    pub(super) fn take_lives(&mut self, lives: Vec<Life>) {
        if let Some(open) = &mut self.windows.open {
            open.lives.extend(lives.into_iter().filter(|life| life.site().process == open.id));
        }
    }

    /// Takes the open window one step further, or opens the next one that is due.
    pub(super) fn step_window(&mut self) -> Result<(), WatchError> {
        let Some(open) = self.windows.open.take() else { return self.open_window() };
        let id = open.id;
        let gone = self.processes.get(&id).is_none_or(Watched::has_ended);
        if gone {
            self.windows.due.remove(&id);
        }
        if gone || open.is_void {
            return self.close();
        }
        let begun = open.begun;
        match self.step(open)? {
            Step::Goes(open) => self.windows.open = Some(*open),
            Step::Done => {
                self.close()?;
                // Births, exits and census agree by this layout: nobody needs to be asked again.
                if let Some((_, _, binary)) = self.processes().find(|(other, ..)| *other == id) {
                    binary.set_proved();
                }
                let next = Due { at: Instant::now() + self.config.audit_every, ..Due::now() };
                self.windows.due.insert(id, Due { settled_cpu_ns: cpu_time_ns(id.tgid()), ..next });
            }
            Step::Observed => {
                let next = CENSUS_EVERY.max(begun.elapsed() * CENSUS_PART);
                self.windows.due.insert(id, Due { at: Instant::now() + next, ..Due::now() });
            }
            Step::Unconfirmed => {
                debug!("a window of process {} is to be confirmed", id.tgid());
                self.close()?;
                self.windows.due.insert(id, Due::now());
            }
            Step::Spoiled(why) => {
                debug!("a window of process {} is repeated: {why}", id.tgid());
                self.close()?;
                self.ledger.spoiled(id);
                let retry = self.windows.due.get(&id).map_or(FIRST_RETRY, |due| due.retry);
                let next = Due { at: Instant::now() + retry, retry: (retry * 2).min(LAST_RETRY), ..Due::now() };
                self.windows.due.insert(id, next);
            }
            Step::Impossible(why) => {
                warn!("process {}: no baseline and no audits: {why}", id.tgid());
                self.close()?;
                if let Some(process) = self.processes.get_mut(&id) {
                    process.no_census = true;
                }
            }
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), WatchError> {
        Ok(self.kernel.set_window(Window::default())?)
    }

    /// The process whose window is due: baselines before audits, whoever waits longest first.
    fn next_window(&mut self) -> Option<ProcessId> {
        let now = Instant::now();
        self.windows.due.retain(|id, _| self.processes.contains_key(id));
        loop {
            let waiting = self.processes.iter().filter(|(_, process)| !process.has_ended() && !process.no_census);
            let due = waiting.filter_map(|(id, _)| {
                let due = self.windows.due.get(id);
                let at = due.map_or(now, |due| due.at);
                (at <= now).then(|| (due.is_some_and(|due| due.settled_cpu_ns.is_some()), at, *id))
            });
            let (is_audit, _, id) = due.min()?;
            let due = self.windows.due.get_mut(&id).filter(|_| is_audit);
            match due.map(|due| (due.settled_cpu_ns, cpu_time_ns(id.tgid()), due)) {
                Some((Some(then), Some(used), due)) if used.saturating_sub(then) < IDLE_NS => {
                    due.at = now + self.config.audit_every;
                }
                _ => return Some(id),
            }
        }
    }

    fn open_window(&mut self) -> Result<(), WatchError> {
        let Some(id) = self.next_window() else { return Ok(()) };
        let Some(file) = self.processes.get(&id).map(|process| process.file) else { return Ok(()) };
        let Some(probes) = self.probes.get_mut(&file) else { return Ok(()) };
        let is_unprobed = self.processes.get(&id).is_some_and(Watched::is_unprobed);
        let only_census = probes.recording().lives != Counted::All || is_unprobed;
        if only_census && !(probes.are_settled() && probes.sample_is_closed()) {
            return Ok(());
        }
        let Some((_, process, binary)) = self.processes().find(|(other, ..)| *other == id) else { return Ok(()) };
        let stock = GoidStock::of(binary.understood.binary.go_version());
        let offsets = Window {
            process: id,
            tail: ProcessId(0),
            goid: u64::from(binary.understood.layout.goid),
            m: u64::from(binary.understood.layout.m),
            p: u64::from(stock.m_p),
            goidcache: u64::from(stock.p_goidcache),
        };
        if only_census {
            let probed = self.probed(process, &binary);
            let worker = Worker::start(&self.finder.proc, process, &binary, offsets.goidcache, probed);
            self.windows.open = Some(OpenWindow { worker, only_census, ..OpenWindow::new(id, offsets, Phase::Census) });
            return Ok(());
        }
        let counted_before = in_windows(&self.kernel.sites_of(id)?);
        // The offsets first, the process last: an event sees both or none.
        self.kernel.set_window(Window { process: ProcessId(0), ..offsets })?;
        self.kernel.set_window(offsets)?;
        let settling = Phase::Settling(self.finder.proc.thread_times(id.tgid()));
        self.windows.open = Some(OpenWindow { counted_before, ..OpenWindow::new(id, offsets, settling) });
        Ok(())
    }

    fn step(&mut self, mut open: OpenWindow) -> Result<Step, WatchError> {
        match open.phase {
            Phase::Settling(_) if open.since.elapsed() < SETTLE => Ok(Step::Goes(Box::new(open))),
            Phase::Settling(threads) if !threads.is_empty() && open.since.elapsed() < SETTLE_LIMIT => {
                let pid = open.id.tgid();
                let stays = |&(tid, then): &(u32, u64)| {
                    self.finder
                        .proc
                        .thread_time(pid, tid)
                        .is_some_and(|now| !now.sleeps && now.ran_ns < then + PAST_EVENTS_NS)
                };
                open.phase = Phase::Settling(threads.into_iter().filter(stays).collect());
                Ok(Step::Goes(Box::new(open)))
            }
            Phase::Settling(threads) if !threads.is_empty() => Ok(Step::Spoiled(Spoiled::Unsettled)),
            Phase::Settling(_) => {
                let Some((_, process, binary)) = self.processes().find(|(id, ..)| *id == open.id) else {
                    return Ok(Step::Spoiled(Spoiled::Incomplete));
                };
                let probed = self.probed(process, &binary);
                open.worker = Worker::start(&self.finder.proc, process, &binary, open.offsets.goidcache, probed);
                open.before = self.kernel.sites_of(open.id)?;
                open.phase = Phase::Census;
                open.since = Instant::now();
                Ok(Step::Goes(Box::new(open)))
            }
            Phase::Census => self.after_census(open),
            Phase::Tail { .. } if open.since.elapsed() < TAIL => Ok(Step::Goes(Box::new(open))),
            Phase::Tail { found, at_end } => {
                let missing = unnumbered(&open.lives);
                if missing.is_empty() {
                    open.phase = Phase::Last { found, at_end, stocks: Stocks::new() };
                    return self.step(open);
                }
                // A thread that is gone answers nothing, and the window is spoiled.
                if !open.worker.as_ref().is_some_and(|worker| worker.ask(missing)) {
                    return Ok(Step::Spoiled(Spoiled::Unnumbered));
                }
                open.phase = Phase::Stocks { found, at_end };
                Ok(Step::Goes(Box::new(open)))
            }
            Phase::Stocks { found, at_end } => {
                match open.worker.as_ref().map_or(Err(TryRecvError::Disconnected), Worker::stocks) {
                    Ok(stocks) => open.phase = Phase::Last { found, at_end, stocks },
                    Err(TryRecvError::Empty) if open.since.elapsed() < CENSUS_LIMIT => {
                        open.phase = Phase::Stocks { found, at_end };
                    }
                    Err(_) => return Ok(Step::Spoiled(Spoiled::Unnumbered)),
                }
                Ok(Step::Goes(Box::new(open)))
            }
            Phase::Last { ref found, ref at_end, ref stocks } => {
                let now = self.kernel.sites_of(open.id)?;
                let counted = in_windows(&now).saturating_sub(open.counted_before);
                let alive = match alive_at_end(found.iter().copied(), &open.lives, counted, stocks) {
                    Ok(alive) => alive,
                    Err(why) => return Ok(Step::Spoiled(why)),
                };
                let pid = open.id.tgid();
                let goroutines: u64 = alive.values().sum();
                let counts = at_the_end(at_end, &now);
                match self.ledger.settle(open.id, &alive, &counts, open.lives.is_empty()) {
                    Verdict::Unconfirmed => return Ok(Step::Unconfirmed),
                    Verdict::Settled { drift: 0 } => {}
                    Verdict::Settled { drift } => {
                        warn!("process {pid}: {drift} of {goroutines} goroutines were not where the ledger had them");
                    }
                }
                debug!("process {pid}: {goroutines} goroutines, {} births and exits meanwhile", open.lives.len());
                Ok(Step::Done)
            }
        }
    }

    fn after_census(&mut self, mut open: OpenWindow) -> Result<Step, WatchError> {
        let mut answer = open.worker.as_ref().map_or(Err(TryRecvError::Disconnected), Worker::census);
        if let (Ok(Ok(found)), Some(process)) = (&mut answer, self.processes.get_mut(&open.id)) {
            process.stacks = Some(std::mem::take(&mut found.stacks));
        }
        if let Ok(Ok(found)) = &answer
            && self.heed_breakpoints(open.id, found.breakpoints_missing)?
        {
            return Ok(Step::Unconfirmed);
        }
        match answer {
            Err(TryRecvError::Empty) if open.since.elapsed() < CENSUS_LIMIT => Ok(Step::Goes(Box::new(open))),
            Err(TryRecvError::Empty) => {
                let (pid, seconds) = (open.id.tgid(), CENSUS_LIMIT.as_secs());
                Ok(Step::Impossible(CensusError::HeldBack { pid, seconds }))
            }
            Err(TryRecvError::Disconnected) => Ok(Step::Spoiled(Spoiled::Incomplete)),
            Ok(Err(CensusError::Starting | CensusError::Memory(_) | CensusError::Unsteady)) => {
                Ok(Step::Spoiled(Spoiled::Incomplete))
            }
            Ok(Err(why)) => Ok(Step::Impossible(why)),
            Ok(Ok(found)) if !found.complete => Ok(Step::Spoiled(Spoiled::Incomplete)),
            Ok(Ok(found)) if open.only_census => {
                let mut alive: BTreeMap<Site, u64> = BTreeMap::new();
                for (_, site) in found.goroutines {
                    *alive.entry(site).or_default() += 1;
                }
                let counters = self.kernel.sites_of(open.id)?;
                self.ledger.observe(open.id, &alive, &counters);
                Ok(Step::Observed)
            }
            Ok(Ok(found)) => {
                let at_end = self.kernel.sites_of(open.id)?;
                if outside(&open.before) != outside(&at_end) {
                    return Ok(Step::Spoiled(Spoiled::Moved));
                }
                // The tail begins before the window ends: no birth in between is untold.
                self.kernel.set_window(Window { tail: open.id, ..open.offsets })?;
                self.kernel.set_window(Window { tail: open.id, process: ProcessId(0), ..open.offsets })?;
                open.since = Instant::now();
                open.phase = Phase::Tail { found: found.goroutines, at_end };
                Ok(Step::Goes(Box::new(open)))
            }
        }
    }
}

/// Births and exits counted in windows.
fn in_windows(sites: &[(SiteKey, SiteCounts)]) -> u64 {
    sites.iter().map(|(_, counts)| counts.window_births + counts.window_exits).sum()
}

/// What was counted outside of windows, by site.
fn outside(sites: &[(SiteKey, SiteCounts)]) -> HashMap<SiteKey, (u64, u64)> {
    let counts = sites.iter().map(|(key, counts)| (*key, (counts.births, counts.exits)));
    counts.filter(|(_, counts)| *counts != (0, 0)).collect()
}

/// The counts at the end of a window: outside as they stood still in it, inside as they stand still since.
fn at_the_end(outside: &[(SiteKey, SiteCounts)], inside: &[(SiteKey, SiteCounts)]) -> Vec<(SiteKey, SiteCounts)> {
    let outside = outside.iter().map(|(key, counts)| {
        (*key, SiteCounts { births: counts.births, exits: counts.exits, ..SiteCounts::default() })
    });
    let inside = inside.iter().map(|(key, counts)| {
        let SiteCounts { window_births, window_exits, .. } = *counts;
        (*key, SiteCounts { window_births, window_exits, ..SiteCounts::default() })
    });
    outside.chain(inside).collect()
}
