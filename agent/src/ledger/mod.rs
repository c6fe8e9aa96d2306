//! The ledger: births, parks and exits per site of every watched process, and what is known to be missing from it.
//!
//! Pure state. It is fed with the kernel's counters, which are totals, and so can be fed late, twice or never without
//! becoming wrong: it is only older. It refuses to invent: a birth whose start function could not be read goes to the
//! start function of its site only where that is the only one.

mod apportion;
pub mod audit;
mod baseline;
mod estimate;
mod split;
pub mod story;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Instant,
};

use parkranger_common::counts::{ProcessId, SiteCounts, SiteKey, Unattributed, WaitKey};

pub use baseline::{Audits, Baseline, Verdict};
pub use estimate::{Counted, Counts, Estimate, Missing, Recording, Seen, What};
pub use story::{SiteTimes, Times};

use crate::{
    address::RuntimeAddr,
    census::Origin,
    kernel::{Counters, HitCosts},
    program::GoroutineTotals,
};
use split::Split;

/// A creation site in one process, split by the function that is started there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site {
    /// `g.gopc`: the return address of the `go` statement's call.
    pub gopc: RuntimeAddr,
    /// `g.startpc`: entry of the start function; 0 where it could not be read.
    pub startpc: RuntimeAddr,
}

impl Site {
    /// Goroutines of C threads that call Go are made by no `go` statement.
    #[must_use]
    pub fn is_c_thread(self) -> bool {
        self.gopc.0 == 0 && self.startpc.0 == 0
    }
}

impl From<Origin> for Site {
    fn from(Origin { gopc, startpc }: Origin) -> Self {
        Self { gopc, startpc }
    }
}

/// Events of a site since the attach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Goroutines created.
    pub births: u64,
    /// Goroutines ended.
    pub exits: u64,
    /// Parks by wait reason.
    pub waits: BTreeMap<u8, u64>,
    /// Goroutines that were there before, as far as is known.
    pub baseline: i64,
    /// Waits and lifetimes of its goroutines, in a story.
    pub times: Option<Box<SiteTimes>>,
}

impl Tally {
    /// Baseline and births minus exits. Negative where goroutines from before the attach ended and no baseline is known.
    #[must_use]
    pub fn live(&self) -> i64 {
        self.baseline.wrapping_add(self.births.cast_signed()).wrapping_sub(self.exits.cast_signed())
    }

    /// Parks for any reason.
    #[must_use]
    pub fn parks(&self) -> u64 {
        self.waits.values().sum()
    }

    fn add(&mut self, other: &Self) {
        self.births += other.births;
        self.exits += other.exits;
        for (reason, parks) in &other.waits {
            *self.waits.entry(*reason).or_default() += parks;
        }
    }
}

/// The sites of one process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProcessLedger {
    /// By site.
    pub sites: BTreeMap<Site, Tally>,
    /// Events that no site is known for, and losses.
    pub unattributed: Unattributed,
    /// True where the goroutines from before the attach are in it.
    pub baseline: bool,
    /// Results of the audits.
    pub audits: Audits,
    /// Events that were not recorded.
    pub missing: Missing,
    /// Time of the census that splits the live goroutines up by site, where they are not counted; their sum is of now.
    pub split_at: Option<Instant>,
    /// True where the births and exits of the process are exact although not all were counted: the runtime's own.
    pub totals_are_exact: bool,
    /// Births, and as many exits, that its sites have more than the process: censuses found goroutines at other sites than was
    /// thought.
    pub moved: u64,
    /// Goroutines there are, as the runtime counts them; `None` where that is not known.
    pub users: Option<u64>,
    /// Births that the runtime counted and the probes did not since the attach. 0, but for those between the two readings.
    pub births_unseen: i64,
    /// Waits and lifetimes of its goroutines, in a story.
    pub times: Option<Box<Times>>,
}

impl ProcessLedger {
    /// All births, exits and parks of the process, with those of no known site.
    #[must_use]
    pub fn totals(&self) -> (u64, u64, u64) {
        let (births, exits, parks) = self.sites.values().fold(
            (self.unattributed.births, self.unattributed.exits, self.unattributed.parks),
            |(births, exits, parks), tally| (births + tally.births, exits + tally.exits, parks + tally.parks()),
        );
        (births.saturating_sub(self.moved), exits.saturating_sub(self.moved), parks)
    }

    /// The ledger of these counters alone.
    fn counted(counters: &[(SiteKey, SiteCounts)]) -> Self {
        let mut counted = Self::default();
        counted.count(counters);
        counted.settle_unread_starts();
        counted
    }

    fn count(&mut self, counters: &[(SiteKey, SiteCounts)]) {
        for (key, counts) in counters {
            let tally = self.sites.entry(site(key)).or_default();
            tally.births += counts.all_births();
            tally.exits += counts.all_exits();
        }
    }

    /// Gives births of an unread start function to the start function of their site, where there is just one.
    fn settle_unread_starts(&mut self) {
        let unread: Vec<Site> = self.sites.keys().filter(|site| site.startpc.0 == 0).copied().collect();
        for site in unread {
            let mut others = self.sites.keys().filter(|other| other.gopc == site.gopc && other.startpc.0 != 0).copied();
            if let (Some(only), None) = (others.next(), others.next())
                && let Some(tally) = self.sites.remove(&site)
            {
                self.sites.entry(only).or_default().add(&tally);
            }
        }
    }
}

/// The ledgers of all watched processes.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Shown counts, as of `at`.
    shown: BTreeMap<ProcessId, ProcessLedger>,
    books: BTreeMap<ProcessId, Book>,
    /// Time at which the counters were read.
    at: Option<Instant>,
    nothing: ProcessLedger,
}

/// State of one process beside its counters.
#[derive(Clone, Debug, Default)]
struct Book {
    baseline: Baseline,
    estimate: Estimate,
    split: Split,
}

impl Book {
    /// Shown counts of `process`, which was counted at `now`.
    fn show(&mut self, mut process: ProcessLedger, now: Instant) -> ProcessLedger {
        let Self { baseline, estimate, split, .. } = self;
        let counts_all = estimate.recording().lives == Counted::All;
        let raw: BTreeMap<Site, (u64, u64)> =
            process.sites.iter().map(|(site, tally)| (*site, (tally.births, tally.exits))).collect();
        let estimated = |site: Site| {
            let counted = raw.get(&site).copied().unwrap_or_default().0;
            let carried = split.carried.get(&site).map_or(0, |carried| carried.births);
            (estimate.estimated((site, What::Birth), counted) + carried) as f64
        };
        // Not borrowed from `split`, which changes below.
        let estimated: BTreeMap<Site, f64> = raw.keys().map(|site| (*site, estimated(*site))).collect();
        let estimated = |site: Site| estimated.get(&site).copied().unwrap_or_default();
        for (site, carried) in &split.carried {
            let tally = process.sites.entry(*site).or_default();
            tally.births += carried.births;
            tally.exits += carried.exits;
        }
        process.audits = baseline.audits;
        process.users = split.totals().map(|totals| totals.users);
        estimate.apply_to_parks(&mut process, now);
        let was_known = baseline.was_known().then(|| before_all(baseline, &split.carried));
        if counts_all && baseline.is_known() {
            process.baseline = true;
            for (site, count) in was_known.iter().flatten() {
                process.sites.entry(*site).or_default().baseline = *count;
            }
            split.merge(&mut process, estimated);
        } else if split.census.is_some() {
            process.baseline = true;
            split.show(&mut process, estimated, was_known.as_ref());
            process.split_at = split.census.as_ref().map(|census| census.at);
            process.totals_are_exact = split.births().is_some();
        } else {
            // Those that ended were there before, at least.
            for tally in process.sites.values_mut() {
                tally.baseline = tally.exits.saturating_sub(tally.births).cast_signed();
            }
        }
        // Until births go uncounted they tell how many there were before the attach.
        process.moved = split.moved;
        if counts_all || self.split.made_before.is_none() {
            self.check(&mut process);
        }
        self.split.age();
        process
    }

    /// Holds what was counted to the runtime's own count of goroutines made. The two are read one after the other, so the
    /// difference is as many as were born in between, and means something only where it stays.
    fn check(&mut self, process: &mut ProcessLedger) {
        let Some(totals) = self.split.totals_of_now() else { return };
        let made_before = totals.made.saturating_sub(process.totals().0);
        let first = *self.split.first_made_before.get_or_insert(made_before);
        self.split.made_before = Some(made_before);
        process.births_unseen = made_before.cast_signed().wrapping_sub(first.cast_signed());
    }
}

/// Goroutines from before, with what is carried taken into account.
fn before_all(baseline: &Baseline, carried: &BTreeMap<Site, split::Shown>) -> BTreeMap<Site, i64> {
    let mut before: BTreeMap<Site, i64> = baseline.sites().collect();
    for (site, carried) in carried {
        let count = before.entry(*site).or_default();
        *count = count.wrapping_add(carried.exits.cast_signed()).wrapping_sub(carried.births.cast_signed());
    }
    before
}

impl Ledger {
    /// Takes over the kernel's counters. They are totals: what was there before is replaced.
    pub fn apply(&mut self, counters: &Counters) {
        let mut processes: BTreeMap<ProcessId, ProcessLedger> = BTreeMap::new();
        for entry in &counters.sites {
            processes.entry(entry.0.process).or_default().count(std::slice::from_ref(entry));
        }
        for (key, parks) in &counters.waits {
            let tally = processes.entry(key.site.process).or_default().sites.entry(site(&key.site)).or_default();
            *tally.waits.entry(reason(key)).or_default() += parks;
        }
        for (id, unattributed) in &counters.unattributed {
            processes.entry(*id).or_default().unattributed = *unattributed;
        }
        story::apply(&counters.stories, &mut processes);
        for id in self.books.keys() {
            processes.entry(*id).or_default();
        }
        let show = |(id, mut counted): (ProcessId, ProcessLedger)| {
            counted.settle_unread_starts();
            (id, self.books.entry(id).or_default().show(counted, counters.at))
        };
        self.shown = processes.into_iter().map(show).collect();
        self.at = Some(counters.at);
    }

    /// Takes what the runtime of a process says of its goroutines, read just before or after the counters.
    pub fn take_totals(&mut self, id: ProcessId, totals: GoroutineTotals) {
        self.books.entry(id).or_default().split.take_totals(totals);
    }

    /// True where the goroutines from before the attach are known.
    #[must_use]
    pub fn has_baseline(&self, id: ProcessId) -> bool {
        self.books.get(&id).is_some_and(|book| book.baseline.is_known() || book.split.census.is_some())
    }

    /// Results of the audits of a process.
    #[must_use]
    pub fn audits(&self, id: ProcessId) -> Audits {
        self.books.get(&id).map_or_else(Audits::default, |book| book.baseline.audits)
    }

    /// The ledger of a process, as of the counters applied last; an empty one where nothing was counted yet.
    #[must_use]
    pub fn process(&self, id: ProcessId) -> &ProcessLedger {
        self.shown.get(&id).unwrap_or(&self.nothing)
    }

    /// From `now` on this is recorded of these processes. `counters`: what was counted until now, of these and others.
    pub fn record(&mut self, ids: &[ProcessId], recording: Recording, counters: &Counters, now: Instant) {
        let counts = by_process(ids, counters);
        for (id, counts) in counts {
            self.books.entry(id).or_default().estimate.record(recording, &counts, now);
        }
    }

    /// From `now` on everything that is in `counters` is counted of these processes, for a short time. Each comes with
    /// its CPU time in ns.
    pub fn begin_slice(&mut self, used: &[(ProcessId, u64)], counters: &Counters, now: Instant) {
        let ids: Vec<ProcessId> = used.iter().map(|(id, _)| *id).collect();
        let mut counts = by_process(&ids, counters);
        for (id, cpu_ns) in used {
            let counts = counts.remove(id).unwrap_or_default();
            self.books.entry(*id).or_default().estimate.begin(counts, *cpu_ns, now);
        }
    }

    /// CPU time of processes so far, in ns: it tells what windows stand for.
    pub fn used(&mut self, used: &[(ProcessId, u64)], now: Instant) {
        for (id, cpu_ns) in used {
            if let Some(book) = self.books.get_mut(id) {
                book.estimate.used(*cpu_ns, now);
            }
        }
    }

    /// The slice is over; counting took `costs`. Gives the events it saw of each process.
    pub fn close_slice(
        &mut self,
        used: &[(ProcessId, u64)],
        counters: &Counters,
        costs: HitCosts,
        now: Instant,
    ) -> Vec<(ProcessId, Seen)> {
        let ids: Vec<ProcessId> = used.iter().map(|(id, _)| *id).collect();
        let counts = by_process(&ids, counters);
        let seen = used.iter().filter_map(|(id, cpu_ns)| {
            Some((*id, self.books.get_mut(id)?.estimate.close(counts.get(id)?, *cpu_ns, costs, now)?))
        });
        seen.collect()
    }

    /// Takes the goroutines that a census found at `at`, while not all births and exits are counted: there is nothing to hold
    /// it to. `system` are the sites of the runtime's own goroutines.
    pub fn observe(&mut self, id: ProcessId, alive: BTreeMap<Site, u64>, system: BTreeSet<Site>, at: Instant) {
        let split = &mut self.books.entry(id).or_default().split;
        split.system = system;
        split.census = Some(split::Census { at, alive });
    }

    /// Births and exits went uncounted: what was there before has to be found anew. Until then the last that is known of the
    /// goroutines stands for a census.
    pub fn forget_baseline(&mut self, id: ProcessId) {
        let Some(book) = self.books.get_mut(&id) else { return };
        if book.baseline.is_known()
            && let (Some(shown), Some(at)) = (self.shown.get(&id).filter(|shown| shown.baseline), self.at)
        {
            let live = |(site, tally): (&Site, &Tally)| (*site, u64::try_from(tally.live()).unwrap_or(0));
            book.split.census = Some(split::Census { at, alive: shown.sites.iter().map(live).collect() });
        }
        book.baseline.forget();
    }

    /// Takes what an audit found of a process: the goroutines `alive` at its end and the `counters` as they were then.
    /// `quiet`: nothing happened meanwhile. `system` are the sites of the runtime's own goroutines.
    pub fn settle(
        &mut self,
        id: ProcessId,
        alive: &BTreeMap<Site, u64>,
        system: BTreeSet<Site>,
        counters: &[(SiteKey, SiteCounts)],
        quiet: bool,
    ) -> Verdict {
        let counted = ProcessLedger::counted(counters);
        let book = self.books.entry(id).or_default();
        book.split.system = system;
        book.baseline.settle(alive, &counted, quiet)
    }

    /// Notes an audit that said nothing.
    pub fn spoiled(&mut self, id: ProcessId) {
        self.books.entry(id).or_default().baseline.audits.repeated += 1;
    }

    /// Forgets a process that is gone for good.
    pub fn forget(&mut self, id: ProcessId) {
        self.shown.remove(&id);
        self.books.remove(&id);
    }
}

/// The runtime's type is one byte; a larger number cannot come out of the programs.
fn reason(key: &WaitKey) -> u8 {
    u8::try_from(key.reason).unwrap_or(u8::MAX)
}

/// Counts of each of these processes.
fn by_process(ids: &[ProcessId], counters: &Counters) -> HashMap<ProcessId, Counts> {
    let mut counts: HashMap<ProcessId, Counts> = ids.iter().map(|id| (*id, Counts::new())).collect();
    let lives = counters
        .sites
        .iter()
        .flat_map(|(key, of_site)| [(key, What::Birth, of_site.all_births()), (key, What::Exit, of_site.all_exits())]);
    let parks = counters.waits.iter().map(|(key, parks)| (&key.site, What::Park(reason(key)), *parks));
    for (key, what, count) in lives.chain(parks) {
        if let Some(of_process) = counts.get_mut(&key.process) {
            *of_process.entry((site(key), what)).or_default() += count;
        }
    }
    counts
}

fn site(key: &SiteKey) -> Site {
    Site { gopc: RuntimeAddr(key.gopc), startpc: RuntimeAddr(key.startpc) }
}

#[cfg(test)]
mod split_tests;
#[cfg(test)]
mod tests {
    use parkranger_common::{counts::WaitKey, loss::ProcessLoss};

    use super::*;

    const P: ProcessId = ProcessId::new(7, 1 << 30);
    const Q: ProcessId = ProcessId::new(7, 2 << 30);

    fn key(process: ProcessId, gopc: u64, startpc: u64) -> SiteKey {
        SiteKey { process, gopc, startpc }
    }

    #[test]
    fn counters_are_totals() {
        let mut ledger = Ledger::default();
        let counters = Counters {
            sites: vec![(
                key(P, 16, 32),
                SiteCounts { births: 3, exits: 2, window_births: 2, window_exits: 0, stacks: 1 },
            )],
            waits: vec![(WaitKey { site: key(P, 16, 32), reason: 19 }, 7)],
            ..Counters::default()
        };
        ledger.apply(&counters);
        ledger.apply(&counters);
        let process = ledger.process(P);
        assert_eq!(process.totals(), (5, 2, 7));
        assert_eq!(process.sites.values().map(Tally::live).collect::<Vec<_>>(), [3]);
        assert_eq!(*ledger.process(Q), ProcessLedger::default(), "a reused pid is another process");
    }

    #[test]
    fn totals_hold_what_found_no_site() {
        let mut ledger = Ledger::default();
        let mut unattributed = Unattributed { births: 10, exits: 3, parks: 2, ..Unattributed::default() };
        unattributed.losses[ProcessLoss::SiteMapFull as usize] = 13;
        ledger.apply(&Counters {
            sites: vec![(key(P, 16, 32), SiteCounts { births: 1, exits: 1, ..SiteCounts::default() })],
            unattributed: vec![(P, unattributed)],
            ..Counters::default()
        });
        assert_eq!(ledger.process(P).totals(), (11, 4, 2));
    }

    #[test]
    fn an_unread_start_goes_to_the_only_one_of_its_site() {
        let mut ledger = Ledger::default();
        ledger.apply(&Counters {
            sites: vec![
                (key(P, 16, 0), SiteCounts { births: 1, exits: 0, ..SiteCounts::default() }),
                (key(P, 16, 32), SiteCounts { births: 4, exits: 5, ..SiteCounts::default() }),
                (key(P, 64, 0), SiteCounts { births: 1, exits: 0, ..SiteCounts::default() }),
                (key(P, 64, 32), SiteCounts { births: 1, exits: 0, ..SiteCounts::default() }),
                (key(P, 64, 48), SiteCounts { births: 1, exits: 0, ..SiteCounts::default() }),
            ],
            ..Counters::default()
        });
        let sites = &ledger.process(P).sites;
        let at = |gopc, startpc| Site { gopc: RuntimeAddr(gopc), startpc: RuntimeAddr(startpc) };
        assert_eq!(sites[&at(16, 32)].live(), 0);
        assert!(!sites.contains_key(&at(16, 0)));
        assert_eq!(sites[&at(64, 0)].births, 1, "two candidates: not guessed");
    }
}
