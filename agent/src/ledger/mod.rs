//! The ledger: births, parks and exits per site of every watched process, and what is known to be missing from it.
//!
//! Pure state. It is fed with the kernel's counters, which are totals, and so can be fed late, twice or never without
//! becoming wrong: it is only older. It refuses to invent: a birth whose start function could not be read goes to the
//! start function of its site only where that is the only one.

pub mod audit;
mod baseline;
mod estimate;
pub mod story;

use std::{
    collections::{BTreeMap, HashMap},
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
};

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

/// What happened at a site since attach.
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
    /// How long its goroutines waited and lived, in a story.
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
    /// Whether the goroutines from before the attach are in it.
    pub baseline: bool,
    /// What windows found.
    pub audits: Audits,
    /// What was not recorded.
    pub missing: Missing,
    /// How long its goroutines waited and lived, in a story.
    pub times: Option<Box<Times>>,
}

impl ProcessLedger {
    /// All births, exits and parks of the process, with those of no known site.
    #[must_use]
    pub fn totals(&self) -> (u64, u64, u64) {
        self.sites.values().fold(
            (self.unattributed.births, self.unattributed.exits, self.unattributed.parks),
            |(births, exits, parks), tally| (births + tally.births, exits + tally.exits, parks + tally.parks()),
        )
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
    processes: BTreeMap<ProcessId, ProcessLedger>,
    baselines: BTreeMap<ProcessId, Baseline>,
    estimates: BTreeMap<ProcessId, Estimate>,
    /// When the counters were read.
    at: Option<Instant>,
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
        for process in processes.values_mut() {
            process.settle_unread_starts();
        }
        self.processes = processes;
        self.at = Some(counters.at);
    }

    /// True where the goroutines from before the attach are known.
    #[must_use]
    pub fn has_baseline(&self, id: ProcessId) -> bool {
        self.baselines.get(&id).is_some_and(Baseline::is_known)
    }

    /// The ledger of a process; an empty one where nothing was counted yet.
    #[must_use]
    pub fn process(&self, id: ProcessId) -> ProcessLedger {
        let mut process = self.processes.get(&id).cloned().unwrap_or_default();
        if let Some(baseline) = self.baselines.get(&id) {
            process.baseline = baseline.is_known();
            process.audits = baseline.audits;
            for (site, count) in baseline.sites() {
                process.sites.entry(site).or_default().baseline = count;
            }
        }
        if let (Some(estimate), Some(at)) = (self.estimates.get(&id), self.at) {
            estimate.apply(&mut process, at);
        }
        process
    }

    /// From `now` on this is recorded of these processes. `counters`: what was counted until now, of these and others.
    pub fn record(&mut self, ids: &[ProcessId], recording: Recording, counters: &Counters, now: Instant) {
        let counts = by_process(ids, counters);
        for (id, counts) in counts {
            self.estimates.entry(id).or_default().record(recording, &counts, now);
        }
    }

    /// From `now` on everything that is in `counters` is counted of these processes, for a short time. Each comes with
    /// its CPU time in ns.
    pub fn begin_slice(&mut self, used: &[(ProcessId, u64)], counters: &Counters, now: Instant) {
        let ids: Vec<ProcessId> = used.iter().map(|(id, _)| *id).collect();
        let mut counts = by_process(&ids, counters);
        for (id, cpu_ns) in used {
            let counts = counts.remove(id).unwrap_or_default();
            self.estimates.entry(*id).or_default().begin(counts, *cpu_ns, now);
        }
    }

    /// CPU time of processes so far, in ns: it tells what windows stand for.
    pub fn used(&mut self, used: &[(ProcessId, u64)], now: Instant) {
        for (id, cpu_ns) in used {
            if let Some(estimate) = self.estimates.get_mut(id) {
                estimate.used(*cpu_ns, now);
            }
        }
    }

    /// That time is over, and counting took `costs`. What it saw of each process.
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
            Some((*id, self.estimates.get_mut(id)?.close(counts.get(id)?, *cpu_ns, costs, now)?))
        });
        seen.collect()
    }

    /// Takes the goroutines that a census found while births and exits are not counted: there is nothing to hold it to.
    pub fn observe(&mut self, id: ProcessId, alive: &BTreeMap<Site, u64>, counters: &[(SiteKey, SiteCounts)]) {
        let counted = ProcessLedger::counted(counters);
        self.baselines.entry(id).or_default().observe(alive, &counted);
    }

    /// Births and exits went uncounted: what was there before has to be found anew.
    pub fn forget_baseline(&mut self, id: ProcessId) {
        if let Some(baseline) = self.baselines.get_mut(&id) {
            baseline.forget();
        }
    }

    /// Takes what a window found of a process: the goroutines `alive` at its end and the `counters` as they were then.
    /// `quiet`: nothing happened meanwhile.
    pub fn settle(
        &mut self,
        id: ProcessId,
        alive: &BTreeMap<Site, u64>,
        counters: &[(SiteKey, SiteCounts)],
        quiet: bool,
    ) -> Verdict {
        let counted = ProcessLedger::counted(counters);
        self.baselines.entry(id).or_default().settle(alive, &counted, quiet)
    }

    /// Notes a window that said nothing.
    pub fn spoiled(&mut self, id: ProcessId) {
        self.baselines.entry(id).or_default().audits.repeated += 1;
    }

    /// Forgets a process that is gone for good.
    pub fn forget(&mut self, id: ProcessId) {
        self.processes.remove(&id);
        self.baselines.remove(&id);
        self.estimates.remove(&id);
    }
}

/// The runtime's type is one byte; a larger number cannot come out of the programs.
fn reason(key: &WaitKey) -> u8 {
    u8::try_from(key.reason).unwrap_or(u8::MAX)
}

/// What was counted of each of these processes.
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
        assert_eq!(ledger.process(Q), ProcessLedger::default(), "a reused pid is another process");
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
        let sites = ledger.process(P).sites;
        let at = |gopc, startpc| Site { gopc: RuntimeAddr(gopc), startpc: RuntimeAddr(startpc) };
        assert_eq!(sites[&at(16, 32)].live(), 0);
        assert!(!sites.contains_key(&at(16, 0)));
        assert_eq!(sites[&at(64, 0)].births, 1, "two candidates: not guessed");
    }
}
