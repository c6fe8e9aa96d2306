//! Which sites have series of their own, so that there are never more than a cap of them, and what the others sum up to.
//!
//! A site gets its own series by having the most live goroutines, the most growth since it was first seen, or the most
//! births; it keeps them until others need the room. Counters must never fall, and moving a site in or out must not look
//! like events: a site's own series has what happened while it had one, and `other` the rest. A site that has its own
//! series from the beginning on, as all have while there is room, has all its events there.

use std::collections::{HashMap, HashSet};

use ahash::RandomState;
use parkranger_common::counts::ProcessId;

use crate::{
    ledger::Site,
    snapshot::{ProcessSnapshot, SiteSnapshot, Snapshot},
};

/// Counts of a site, or of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SiteCounts {
    pub(super) live: i64,
    pub(super) births: u64,
    pub(super) exits: u64,
    pub(super) parks: u64,
}

impl SiteCounts {
    fn add(&mut self, more: Self) {
        self.live += more.live;
        self.births += more.births;
        self.exits += more.exits;
        self.parks += more.parks;
    }

    /// The counts added since `earlier`; live goroutines are a level and stay as they are.
    fn since(self, earlier: Self) -> Self {
        Self {
            live: self.live,
            births: self.births.saturating_sub(earlier.births),
            exits: self.exits.saturating_sub(earlier.exits),
            parks: self.parks.saturating_sub(earlier.parks),
        }
    }

    /// Keeps counters from falling below what was said before.
    fn at_least(self, before: Self) -> Self {
        Self {
            live: self.live,
            births: self.births.max(before.births),
            exits: self.exits.max(before.exits),
            parks: self.parks.max(before.parks),
        }
    }
}

impl From<&SiteSnapshot> for SiteCounts {
    fn from(site: &SiteSnapshot) -> Self {
        Self { live: site.live, births: site.births, exits: site.exits, parks: site.parks }
    }
}

/// The choice of all processes.
pub struct SiteBook {
    /// Most sites of one process with series of their own.
    cap: usize,
    hasher: RandomState,
    processes: HashMap<ProcessId, ProcessBook>,
    round: u64,
}

/// The sites of one process, for one exposition.
pub(super) struct Chosen<'a> {
    /// With the memory of their stacks in bytes.
    pub(super) sites: Vec<(&'a SiteSnapshot, SiteCounts, u64)>,
    pub(super) other: SiteCounts,
    pub(super) other_stack_bytes: u64,
    /// The number of sites in `other`.
    pub(super) others: usize,
}

#[derive(Default)]
struct ProcessBook {
    round: u64,
    /// Sites in order, and which of `series` each belongs to: one `go` statement that was inlined into several
    /// functions is several sites with one name.
    sites: Vec<(Site, usize)>,
    by_name: HashMap<u64, usize, RandomState>,
    series: Vec<Series>,
    /// The counts of series that are no more.
    retired: SiteCounts,
    other: SiteCounts,
}

#[derive(Clone, Copy, Default)]
struct Series {
    /// Now, and at the exposition before.
    now: SiteCounts,
    before: SiteCounts,
    first_live: Option<i64>,
    /// The index in the snapshot of a site of that name.
    example: Option<usize>,
    /// Has its own series since it had these counts.
    shown_from: Option<SiteCounts>,
    /// When it was last among the first.
    wanted: u64,
}

/// What a site can have most of.
type Key = fn(&Series) -> i64;

impl SiteBook {
    /// A book that gives at most `cap` sites of a process their own series.
    #[must_use]
    pub fn new(cap: usize) -> Self {
        Self { cap, hasher: RandomState::new(), processes: HashMap::new(), round: 0 }
    }

    /// Another cap from the next exposition on.
    pub fn set_cap(&mut self, cap: usize) {
        self.cap = cap;
    }

    /// Gets to know the sites of a snapshot that were not there before, so that the next exposition need not: their names
    /// take most of its time.
    pub fn learn(&mut self, snapshot: &Snapshot) {
        let there: HashSet<ProcessId> =
            snapshot.processes.iter().filter(|process| !process.brief).map(|process| process.id).collect();
        self.processes.retain(|id, _| there.contains(id));
        for process in snapshot.processes.iter().filter(|process| !process.brief) {
            self.processes.entry(process.id).or_default().learn(process, &self.hasher);
        }
    }

    /// Begins an exposition.
    pub(super) fn begin(&mut self) {
        self.round += 1;
    }

    /// Ends it: processes that were not in it are forgotten.
    pub(super) fn end(&mut self) {
        let round = self.round;
        self.processes.retain(|_, process| process.round == round);
    }

    /// Chooses among the sites of a process. They are in order of [`Site`], as the ledger has them.
    pub(super) fn choose<'a>(&mut self, process: &'a ProcessSnapshot) -> Chosen<'a> {
        let book = self.processes.entry(process.id).or_default();
        book.round = self.round;
        book.take(process, &self.hasher);
        book.rank(self.cap, self.round);
        book.expose(process)
    }
}

impl ProcessBook {
    /// Takes in the counts of a snapshot.
    fn take(&mut self, process: &ProcessSnapshot, hasher: &RandomState) {
        self.learn(process, hasher);
        for series in &mut self.series {
            (series.before, series.now, series.example) = (series.now, SiteCounts::default(), None);
        }
        for (index, (site, (_, number))) in process.sites.iter().zip(&self.sites).enumerate() {
            if let Some(series) = self.series.get_mut(*number) {
                series.now.add(site.into());
                series.example = Some(index);
            }
        }
        for series in self.series.iter_mut().filter(|series| series.example.is_some()) {
            series.first_live.get_or_insert(series.now.live);
        }
    }

    /// Gives each site of a snapshot its series.
    fn learn(&mut self, process: &ProcessSnapshot, hasher: &RandomState) {
        let is_known = self.sites.len() == process.sites.len()
            && self.sites.iter().zip(&process.sites).all(|((id, _), site)| *id == site.id);
        if is_known {
            return;
        }
        let more = process.sites.len().saturating_sub(self.sites.len());
        self.series.reserve(more);
        self.by_name.reserve(more);
        let known = std::mem::take(&mut self.sites);
        let mut known = known.into_iter().peekable();
        let mut sites = Vec::with_capacity(process.sites.len());
        for site in &process.sites {
            while known.peek().is_some_and(|(id, _)| *id < site.id) {
                known.next();
            }
            let number = match known.peek() {
                Some((id, number)) if *id == site.id => *number,
                _ => self.number(site, hasher),
            };
            sites.push((site.id, number));
        }
        self.sites = sites;
    }

    /// The series of a site not seen before.
    fn number(&mut self, site: &SiteSnapshot, hasher: &RandomState) -> usize {
        let name = hasher.hash_one((&site.function, &site.file, site.line, &site.start_function));
        let next = self.series.len();
        let number = *self.by_name.entry(name).or_insert(next);
        if number == next {
            self.series.push(Series::default());
        }
        number
    }

    /// Says which have series of their own.
    fn rank(&mut self, cap: usize, round: u64) {
        let there: Vec<usize> = (0..self.series.len()).filter(|number| self.is_there(*number)).collect();
        if there.len() <= cap {
            for number in there {
                self.want(number, round);
            }
        } else {
            let keys: [Key; 3] = [
                |series| series.now.live,
                |series| series.now.live.saturating_sub(series.first_live.unwrap_or_default()),
                |series| series.now.births.cast_signed(),
            ];
            let first = keys.map(|key| self.first(&there, cap, key));
            // By turns, so that each way of being first has its share of the room.
            let mut left = cap;
            for place in 0..cap {
                for number in first.iter().filter_map(|order| order.get(place)) {
                    let is_new = self.series.get(*number).is_some_and(|series| series.wanted != round);
                    if is_new && left > 0 {
                        left -= 1;
                        self.want(*number, round);
                    }
                }
            }
        }
        self.make_room(cap);
    }

    /// The `cap` of them that have most of something, most first.
    fn first(&self, there: &[usize], cap: usize, key: Key) -> Vec<usize> {
        let place = |number: &usize| (std::cmp::Reverse(self.series.get(*number).map_or(0, key)), *number);
        let mut order = there.to_vec();
        if let Some(last) = cap.checked_sub(1).filter(|last| *last < order.len()) {
            order.select_nth_unstable_by_key(last, place);
        }
        order.truncate(cap);
        order.sort_unstable_by_key(place);
        order
    }

    fn is_there(&self, number: usize) -> bool {
        self.series.get(number).is_some_and(|series| series.example.is_some())
    }

    fn want(&mut self, number: usize, round: u64) {
        if let Some(series) = self.series.get_mut(number) {
            series.wanted = round;
            // What it had before is in `other` or in a series that is no more.
            let before = series.before;
            series.shown_from.get_or_insert(before);
        }
    }

    /// Retires the series that were wanted longest ago, and those whose site is gone.
    fn make_room(&mut self, cap: usize) {
        let mut shown: Vec<usize> = (0..self.series.len())
            .filter(|number| self.series.get(*number).is_some_and(|series| series.shown_from.is_some()))
            .collect();
        shown.sort_by_key(|number| {
            let series = self.series.get(*number);
            std::cmp::Reverse(series.map_or((false, 0), |series| (series.example.is_some(), series.wanted)))
        });
        for (place, number) in shown.into_iter().enumerate() {
            let Some(series) = self.series.get_mut(number) else { continue };
            if place < cap && series.example.is_some() {
                continue;
            }
            if let Some(from) = series.shown_from.take() {
                self.retired.add(SiteCounts { live: 0, ..series.before.since(from) });
            }
        }
    }

    fn expose<'a>(&mut self, process: &'a ProcessSnapshot) -> Chosen<'a> {
        let (mut all, mut own, mut there) = (SiteCounts::default(), self.retired, 0);
        let mut sites = Vec::new();
        let stack_bytes = self.stack_bytes(process);
        let (mut all_bytes, mut own_bytes) = (0u64, 0u64);
        for (series, bytes) in self.series.iter().zip(stack_bytes) {
            all_bytes += bytes;
            all.add(series.now);
            there += usize::from(series.example.is_some());
            let site = series.example.and_then(|index| process.sites.get(index));
            if let (Some(from), Some(site)) = (series.shown_from, site) {
                let counts = series.now.since(from);
                own.add(counts);
                own_bytes += bytes;
                sites.push((site, counts, bytes));
            }
        }
        let other = SiteCounts { live: all.live - own.live, ..all.since(own) };
        self.other = other.at_least(self.other);
        let other_stack_bytes = all_bytes - own_bytes;
        Chosen { others: there - sites.len(), sites, other: self.other, other_stack_bytes }
    }

    /// Memory of stacks by series, 0 where no census saw them. Not kept: there are many series, and it would be much.
    fn stack_bytes(&self, process: &ProcessSnapshot) -> Vec<u64> {
        let mut all = vec![0; self.series.len()];
        for ((_, number), site) in self.sites.iter().zip(&process.sites) {
            if let (Some(bytes), Some(more)) = (all.get_mut(*number), site.stack_bytes) {
                *bytes = more.saturating_add(*bytes);
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::snapshot::testing::process;

    /// Births by name, with those of the others.
    fn births(book: &mut SiteBook, sites: &[(u64, i64, u64)]) -> BTreeMap<String, u64> {
        let process = process(sites);
        book.begin();
        let chosen = book.choose(&process);
        let mut births: BTreeMap<String, u64> =
            chosen.sites.iter().map(|(site, counts, _)| (site.function.clone(), counts.births)).collect();
        assert_eq!(births.len(), chosen.sites.len(), "no name twice");
        births.insert("other".to_owned(), chosen.other.births);
        let live: i64 = chosen.sites.iter().map(|(_, counts, _)| counts.live).sum();
        assert_eq!(live + chosen.other.live, process.user, "no goroutine is lost");
        book.end();
        births
    }

    #[test]
    fn who_was_learned_is_exposed_the_same() {
        let mut book = SiteBook::new(1);
        let sites = [(1, 1, 5), (2, 9, 7), (1001, 1, 1)];
        let snapshot = |sites: &[(u64, i64, u64)]| Snapshot {
            time: std::time::SystemTime::UNIX_EPOCH,
            processes: vec![process(sites).into()],
            binaries: BTreeMap::new(),
            refused: 0,
            not_looked_at: BTreeMap::new(),
            losses: BTreeMap::new(),
            budget: None,
        };
        book.learn(&snapshot(&sites[..2]));
        book.learn(&snapshot(&sites));
        assert_eq!(births(&mut book, &sites), births(&mut SiteBook::new(1), &sites));
        book.learn(&Snapshot { processes: Vec::new(), ..snapshot(&[]) });
        assert!(book.processes.is_empty(), "who has gone is forgotten");
    }

    #[test]
    fn all_have_their_own_while_there_is_room() {
        let mut book = SiteBook::new(3);
        let shown = births(&mut book, &[(1, 1, 5), (2, 0, 9), (3, 4, 4)]);
        assert_eq!(shown, BTreeMap::from([("main.f1", 5), ("main.f2", 9), ("main.f3", 4), ("other", 0)].map(own)));
    }

    fn own((name, count): (&str, u64)) -> (String, u64) {
        (name.to_owned(), count)
    }

    #[test]
    fn one_statement_inlined_twice_is_one_series() {
        let mut book = SiteBook::new(3);
        let shown = births(&mut book, &[(1, 1, 5), (1001, 1, 7)]);
        assert_eq!(shown, BTreeMap::from([("main.f1", 12), ("other", 0)].map(own)));
    }

    #[test]
    fn no_counter_falls_and_every_birth_is_in_exactly_one() {
        const SITES: u64 = 40;
        let mut book = SiteBook::new(6);
        let mut counts: Vec<(u64, i64, u64)> = (1..=SITES).map(|number| (number, 0, number)).collect();
        let mut before: BTreeMap<String, u64> = BTreeMap::new();
        let mut increases = 0;
        let mut total_before = 0;
        // A fixed sequence without pattern: each round other sites are first.
        let mut state = 12345u64;
        for round in 0..200 {
            for (_, live, births) in &mut counts {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                *births += state >> 60;
                *live = i64::try_from(state >> 33 & 0xff).unwrap();
            }
            let shown = births(&mut book, &counts);
            assert!(shown.len() <= 7, "{shown:?}");
            for (name, births) in &shown {
                let earlier = before.get(name).copied().unwrap_or_default();
                assert!(*births >= earlier, "round {round}: {name} fell from {earlier} to {births}");
                increases += births - earlier;
            }
            let total: u64 = counts.iter().map(|site| site.2).sum();
            assert_eq!(increases, total - total_before, "round {round}");
            (increases, total_before, before) = (0, total, shown);
        }
    }
}
