//! Audits: the baseline of each process, and later checks of the ledger against a census. One audit is open at a time, for
//! some milliseconds.
//!
//! ```text
//!  open ──▶ settle down ──▶ census ──▶ tail ──▶ ledger
//!           counts outside    in a      births after the audit number
//!           stand still       thread    its last ones
//! ```
//!
//! Nothing here waits: each [`Auditor::step`] takes the open audit one step further, and is called more often meanwhile. A
//! census runs in a thread of its own, because a process can make any read of its memory hang; such a thread is left behind
//! and the process is not audited again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::mpsc::TryRecvError,
    time::{Duration, Instant},
};

use parkranger_common::{
    counts::{ProcessId, SiteCounts, SiteKey},
    record::Life,
    window::Window,
};
use tracing::{debug, warn};

use super::{
    WatchError,
    census_thread::{Findings, Stocks},
    probes::Probes,
    shared::{CensusInProgress, Host, Shared, Watched},
};
use crate::{
    census::CensusError,
    kernel::{Attach, Count},
    ledger::{
        Counted, Recording, Site, Verdict,
        audit::{Spoiled, alive_at_end, unnumbered},
    },
};

/// Time that events from before an audit are given to be counted and to show in memory: at least, and at most. Where a
/// thread of the process got no time on a processor until then, the audit says nothing.
const SETTLE: Duration = Duration::from_millis(4);
const SETTLE_LIMIT: Duration = Duration::from_millis(400);
/// A thread that has run for so long since is past any event from before: 100 µs, and a tick of the slowest kernels
/// (HZ=100), for the time of a thread that runs is only brought up to date then.
const PAST_EVENTS_NS: u64 = 10_100_000;
/// Time for which births after an audit are told.
const TAIL: Duration = Duration::from_millis(4);
/// Time after which a census is given up, and with it the audits of its process.
const CENSUS_LIMIT: Duration = Duration::from_secs(30);
/// Time between two censuses of a process whose births and exits are not all counted: at least, and as a multiple of the
/// time that one took.
const CENSUS_EVERY: Duration = Duration::from_secs(5);
const CENSUS_PART: u32 = 50;
/// CPU time since the last audit below which a process needs no other one: nothing can have gone wrong.
const IDLE_NS: u64 = 1_000_000;
/// Time to the first repetition of an audit that said nothing; doubled each time up to the limit.
const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_secs(20);

/// Times of each process's next audit, and the audit that is open. `C` is a census under way.
pub(super) struct Auditor<C> {
    /// Time between two audits of a process.
    every: Duration,
    due: HashMap<ProcessId, Due>,
    open: Option<OpenAudit<C>>,
}

#[derive(Clone, Copy)]
struct Due {
    at: Instant,
    retry: Duration,
    /// CPU time of the process when it was found right.
    settled_cpu_ns: Option<u64>,
}

impl Due {
    fn at(at: Instant) -> Self {
        Self { at, retry: FIRST_RETRY, settled_cpu_ns: None }
    }
}

struct OpenAudit<C> {
    id: ProcessId,
    begun: Instant,
    /// Time at which its phase began.
    since: Instant,
    phase: Phase,
    lives: Vec<Life>,
    /// Births and exits that the kernel had counted in earlier audits.
    counted_before: u64,
    /// The kernel's counts at the beginning of the census.
    before: Vec<(SiteKey, SiteCounts)>,
    census: Option<C>,
    /// Sites of the runtime's own goroutines.
    system: BTreeSet<Site>,
    /// True where not all births and exits are counted: the census is all there is to know.
    only_census: bool,
    /// True where its result is not to be used.
    is_void: bool,
}

impl<C> OpenAudit<C> {
    fn new(id: ProcessId, phase: Phase, now: Instant) -> Self {
        Self {
            id,
            begun: now,
            since: now,
            phase,
            lives: Vec::new(),
            counted_before: 0,
            before: Vec::new(),
            census: None,
            system: BTreeSet::new(),
            only_census: false,
            is_void: false,
        }
    }
}

enum Phase {
    /// Threads that may still be in an event from before, and how long each had run, in ns.
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

enum Step<C> {
    Goes(Box<OpenAudit<C>>),
    Settled,
    Observed,
    Unconfirmed,
    Spoiled(Spoiled),
    Impossible(CensusError),
}

impl<C: CensusInProgress> Auditor<C> {
    pub(super) fn new(every: Duration) -> Self {
        Self { every, due: HashMap::new(), open: None }
    }

    /// The baseline of a process does not hold any more: its next audit is due at once, and an open one says nothing.
    pub(super) fn again(&mut self, id: ProcessId, now: Instant) {
        self.due.insert(id, Due::at(now));
        if let Some(open) = self.open.as_mut().filter(|open| open.id == id) {
            open.is_void = true;
        }
    }

    /// True while an audit is open.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Takes in births and exits of the open audit.
    pub(super) fn take_lives(&mut self, lives: Vec<Life>) {
        if let Some(open) = &mut self.open {
            open.lives.extend(lives.into_iter().filter(|life| life.site().process == open.id));
        }
    }

    /// Takes the open audit one step further, or opens the next one that is due.
    pub(super) fn step<K: Attach + Count, H: Host<Census = C>>(
        &mut self,
        shared: &mut Shared<K, H>,
    ) -> Result<(), WatchError> {
        let Some(open) = self.open.take() else { return self.open_next(shared) };
        let id = open.id;
        let gone = shared.processes.get(&id).is_none_or(Watched::has_ended);
        if gone {
            self.due.remove(&id);
        }
        if gone || open.is_void {
            return close(&mut shared.kernel);
        }
        let begun = open.begun;
        let step = go_on(open, shared)?;
        let now = shared.host.now();
        match step {
            Step::Goes(open) => self.open = Some(*open),
            Step::Settled => {
                close(&mut shared.kernel)?;
                // Births, exits and census agree by this layout: nobody needs to be asked again.
                if let Some(process) = shared.processes.get(&id) {
                    shared.host.set_proved(process.file);
                }
                let settled_cpu_ns = shared.host.cpu_time_ns(id.tgid());
                self.due.insert(id, Due { settled_cpu_ns, ..Due::at(now + self.every) });
            }
            Step::Observed => {
                let next = CENSUS_EVERY.max(now.saturating_duration_since(begun) * CENSUS_PART);
                self.due.insert(id, Due::at(now + next));
            }
            Step::Unconfirmed => {
                debug!("an audit of process {} is to be confirmed", id.tgid());
                close(&mut shared.kernel)?;
                self.due.insert(id, Due::at(now));
            }
            Step::Spoiled(why) => {
                debug!("an audit of process {} is repeated: {why}", id.tgid());
                close(&mut shared.kernel)?;
                shared.ledger.spoiled(id);
                let retry = self.due.get(&id).map_or(FIRST_RETRY, |due| due.retry);
                self.due.insert(id, Due { retry: (retry * 2).min(LAST_RETRY), ..Due::at(now + retry) });
            }
            Step::Impossible(why) => {
                warn!("process {}: no baseline and no audits: {why}", id.tgid());
                close(&mut shared.kernel)?;
                if let Some(process) = shared.processes.get_mut(&id) {
                    process.no_census = true;
                }
            }
        }
        Ok(())
    }

    /// The process whose audit is due: baselines before audits, whoever waits longest first.
    fn next<K: Attach, H: Host>(&mut self, shared: &Shared<K, H>) -> Option<ProcessId> {
        let now = shared.host.now();
        self.due.retain(|id, _| shared.processes.contains_key(id));
        loop {
            let waiting = shared.processes.iter().filter(|(_, process)| !process.has_ended() && !process.no_census);
            let due = waiting.filter_map(|(id, _)| {
                let due = self.due.get(id);
                let at = due.map_or(now, |due| due.at);
                (at <= now).then(|| (due.is_some_and(|due| due.settled_cpu_ns.is_some()), at, *id))
            });
            let (is_audit, _, id) = due.min()?;
            let due = self.due.get_mut(&id).filter(|_| is_audit);
            match due.map(|due| (due.settled_cpu_ns, shared.host.cpu_time_ns(id.tgid()), due)) {
                Some((Some(then), Some(used), due)) if used.saturating_sub(then) < IDLE_NS => {
                    due.at = now + self.every;
                }
                _ => return Some(id),
            }
        }
    }

    fn open_next<K: Attach + Count, H: Host<Census = C>>(
        &mut self,
        shared: &mut Shared<K, H>,
    ) -> Result<(), WatchError> {
        let Some(id) = self.next(shared) else { return Ok(()) };
        let Some(process) = shared.processes.get(&id) else { return Ok(()) };
        let Some(probes) = shared.probes.get_mut(&process.file) else { return Ok(()) };
        let only_census = probes.recording().lives != Counted::All || process.is_unprobed();
        if only_census && !(probes.are_settled() && probes.slice_is_closed()) {
            return Ok(());
        }
        let now = shared.host.now();
        if only_census {
            let census = shared.host.begin_census(process, probes.recording());
            self.open = Some(OpenAudit { census, only_census, ..OpenAudit::new(id, Phase::Census, now) });
            return Ok(());
        }
        let window = Window { process: id, ..process.goids };
        let counted_before = in_audits(&shared.kernel.sites_of(id)?);
        // The offsets first, the process last: an event sees both or none.
        shared.kernel.set_window(Window { process: ProcessId(0), ..window })?;
        shared.kernel.set_window(window)?;
        let settling = Phase::Settling(shared.host.thread_times(id.tgid()));
        self.open = Some(OpenAudit { counted_before, ..OpenAudit::new(id, settling, now) });
        Ok(())
    }
}

fn close(kernel: &mut impl Count) -> Result<(), WatchError> {
    Ok(kernel.set_window(Window::default())?)
}

/// Takes an open audit one step further.
fn go_on<K: Attach + Count, H: Host>(
    mut open: OpenAudit<H::Census>,
    shared: &mut Shared<K, H>,
) -> Result<Step<H::Census>, WatchError> {
    let in_phase = shared.host.now().saturating_duration_since(open.since);
    match open.phase {
        Phase::Settling(_) if in_phase < SETTLE => Ok(Step::Goes(Box::new(open))),
        Phase::Settling(threads) if !threads.is_empty() && in_phase < SETTLE_LIMIT => {
            let pid = open.id.tgid();
            let stays = |&(tid, then): &(u32, u64)| {
                let time = shared.host.thread_time(pid, tid);
                time.is_some_and(|now| !now.sleeps && now.ran_ns < then + PAST_EVENTS_NS)
            };
            open.phase = Phase::Settling(threads.into_iter().filter(stays).collect());
            Ok(Step::Goes(Box::new(open)))
        }
        Phase::Settling(threads) if !threads.is_empty() => Ok(Step::Spoiled(Spoiled::Unsettled)),
        Phase::Settling(_) => {
            let Some(process) = shared.processes.get(&open.id) else {
                return Ok(Step::Spoiled(Spoiled::Incomplete));
            };
            let recording = shared.probes.get(&process.file).map_or(Recording::NOTHING, Probes::recording);
            open.census = shared.host.begin_census(process, recording);
            open.before = shared.kernel.sites_of(open.id)?;
            open.phase = Phase::Census;
            open.since = shared.host.now();
            Ok(Step::Goes(Box::new(open)))
        }
        Phase::Census => after_census(open, shared, in_phase),
        Phase::Tail { .. } if in_phase < TAIL => Ok(Step::Goes(Box::new(open))),
        Phase::Tail { found, at_end } => {
            let missing = unnumbered(&open.lives);
            if missing.is_empty() {
                open.phase = Phase::Last { found, at_end, stocks: Stocks::new() };
                return go_on(open, shared);
            }
            // A thread that is gone answers nothing, and the audit is spoiled.
            if !open.census.as_ref().is_some_and(|census| census.ask(missing)) {
                return Ok(Step::Spoiled(Spoiled::Unnumbered));
            }
            open.phase = Phase::Stocks { found, at_end };
            Ok(Step::Goes(Box::new(open)))
        }
        Phase::Stocks { found, at_end } => {
            match open.census.as_ref().map_or(Err(TryRecvError::Disconnected), CensusInProgress::stocks) {
                Ok(stocks) => open.phase = Phase::Last { found, at_end, stocks },
                Err(TryRecvError::Empty) if in_phase < CENSUS_LIMIT => open.phase = Phase::Stocks { found, at_end },
                Err(_) => return Ok(Step::Spoiled(Spoiled::Unnumbered)),
            }
            Ok(Step::Goes(Box::new(open)))
        }
        Phase::Last { ref found, ref at_end, ref stocks } => {
            let now = shared.kernel.sites_of(open.id)?;
            let counted = in_audits(&now).saturating_sub(open.counted_before);
            let alive = match alive_at_end(found.iter().copied(), &open.lives, counted, stocks) {
                Ok(alive) => alive,
                Err(why) => return Ok(Step::Spoiled(why)),
            };
            let pid = open.id.tgid();
            let goroutines: u64 = alive.values().sum();
            let counts = at_the_end(at_end, &now);
            match shared.ledger.settle(
                open.id,
                &alive,
                std::mem::take(&mut open.system),
                &counts,
                open.lives.is_empty(),
            ) {
                Verdict::Unconfirmed => return Ok(Step::Unconfirmed),
                Verdict::Settled { drift: 0 } => {}
                Verdict::Settled { drift } => {
                    warn!("process {pid}: {drift} of {goroutines} goroutines were not where the ledger had them");
                }
            }
            debug!("process {pid}: {goroutines} goroutines, {} births and exits meanwhile", open.lives.len());
            Ok(Step::Settled)
        }
    }
}

fn after_census<K: Attach + Count, H: Host>(
    mut open: OpenAudit<H::Census>,
    shared: &mut Shared<K, H>,
    in_phase: Duration,
) -> Result<Step<H::Census>, WatchError> {
    let mut answer = open.census.as_ref().map_or(Err(TryRecvError::Disconnected), CensusInProgress::census);
    if let (Ok(Ok(found)), Some(process)) = (&mut answer, shared.processes.get_mut(&open.id)) {
        process.stacks = Some(std::mem::take(&mut found.stacks));
        process.states = found.states.take().or(process.states.take());
    }
    if let Ok(Ok(found)) = &answer
        && shared.heed_breakpoints(open.id, found.breakpoints_missing)?
    {
        return Ok(Step::Unconfirmed);
    }
    match answer {
        Err(TryRecvError::Empty) if in_phase < CENSUS_LIMIT => Ok(Step::Goes(Box::new(open))),
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
            let at = shared.host.now();
            shared.ledger.observe(open.id, alive_by_site(&found), found.system, at);
            Ok(Step::Observed)
        }
        Ok(Ok(found)) => {
            let at_end = shared.kernel.sites_of(open.id)?;
            if outside(&open.before) != outside(&at_end) {
                return Ok(Step::Spoiled(Spoiled::Moved));
            }
            let goids = shared.processes.get(&open.id).map_or_else(Window::default, |process| process.goids);
            // The tail begins before the audit ends: no birth in between is untold.
            shared.kernel.set_window(Window { tail: open.id, process: open.id, ..goids })?;
            shared.kernel.set_window(Window { tail: open.id, process: ProcessId(0), ..goids })?;
            open.since = shared.host.now();
            open.system = found.system;
            open.phase = Phase::Tail { found: found.goroutines, at_end };
            Ok(Step::Goes(Box::new(open)))
        }
    }
}

fn alive_by_site(found: &Findings) -> BTreeMap<Site, u64> {
    let mut alive: BTreeMap<Site, u64> = BTreeMap::new();
    for (_, site) in &found.goroutines {
        *alive.entry(*site).or_default() += 1;
    }
    alive
}

/// Births and exits counted in audits.
fn in_audits(sites: &[(SiteKey, SiteCounts)]) -> u64 {
    sites.iter().map(|(_, counts)| counts.window_births + counts.window_exits).sum()
}

/// Births and exits counted outside of audits, by site.
fn outside(sites: &[(SiteKey, SiteCounts)]) -> HashMap<SiteKey, (u64, u64)> {
    let counts = sites.iter().map(|(key, counts)| (*key, (counts.births, counts.exits)));
    counts.filter(|(_, counts)| *counts != (0, 0)).collect()
}

/// The counts at the end of an audit: outside as they stood still in it, inside as they stand still since.
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
