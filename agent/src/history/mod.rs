//! Memory of a process and its sites over hours: bounded, at falling resolution.
//!
//! | file | has |
//! |---|---|
//! | `population` | goroutines at one time, in words |
//! | `place` | whose code, where from, where it waits |
//! | `callers` | who asks other servers over HTTP |
//! | `series` | numbers of one site at falling resolution |
//!
//! Pure and fed with [`Population`]s: it costs the target nothing beside the censuses that are taken anyway. Two things are
//! kept: of each site its numbers over time, and of each goroutine since when it has been where it is. Both are bounded
//! ([`Limits`]): a goroutine takes at most [`MEMBER_BYTES`], a site at most [`SITE_BYTES`]. Where there are more goroutines, one
//! in 2, 4, 8… is followed, chosen by its number, and [`History::stride`] says so.

pub mod callers;
pub mod place;
pub mod population;
pub mod series;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use callers::HttpCallers;
use place::{Place, Site};
use population::{Kind, KindId, Member, Population};
use series::{Point, Series};

/// Upper bound of what one goroutine takes, in bytes: an entry of a hash map at its emptiest.
pub const MEMBER_BYTES: usize = 2 * (size_of::<u64>() + size_of::<Followed>() + 1);
/// Upper bound of what one site takes, in bytes, without the text of its names.
pub const SITE_BYTES: usize =
    size_of::<SiteHistory>() + Series::MAX_POINTS * size_of::<Point>() + MAX_PLACES * size_of::<PlaceHistory>();
/// Places kept of one site.
const MAX_PLACES: usize = 16;
/// The beginnings of two waits that differ by less are one: clocks are read at different moments.
const SAME_WAIT: Duration = Duration::from_millis(50);
/// Waits shorter than this are no rest.
const REST: Duration = Duration::from_secs(3);

/// Bounds of what is remembered of one process.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Goroutines followed one by one.
    pub goroutines: usize,
    /// Sites.
    pub sites: usize,
    /// Finest resolution of the numbers over time.
    pub step: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { goroutines: 1 << 18, sites: 1 << 12, step: Duration::from_secs(1) }
    }
}

/// Which site of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SiteId(u32);

/// One goroutine that is followed.
#[derive(Clone, Copy, Debug)]
pub struct Followed {
    /// Its site.
    pub site: SiteId,
    /// Which of [`SiteHistory::places`] it is at.
    pub place: u16,
    /// When it was first seen.
    pub first_seen: Duration,
    /// Since when it has been where it is without having run, as far as is known.
    pub since: Duration,
    /// True where it was there when the history began.
    pub from_before: bool,
    /// Number of censuses that found it to have run since the one before.
    pub runs: u32,
    /// Its parent's number; 0 where that is not known.
    pub parent_goid: u64,
    run_mark: Option<u32>,
    waiting_since: Option<Duration>,
    kind: u64,
    seen: u32,
}

/// One place of a site's goroutines.
#[derive(Clone, Debug)]
pub struct PlaceHistory {
    /// Where.
    pub place: Place,
    /// A goroutine there, as an example.
    pub example: Arc<Kind>,
    /// Goroutines that went on or ended after they had rested here, by how long they had: 3, 6, 12 s…
    pub departures: [u32; 12],
    /// When the last of them went.
    pub last_departure: Option<Duration>,
}

/// History of one site.
#[derive(Clone, Debug)]
pub struct SiteHistory {
    /// Creation site and caller of its goroutines.
    pub site: Site,
    /// True for the runtime's own goroutines.
    pub system: bool,
    /// Its numbers over time.
    pub series: Series,
    /// Places where its goroutines were seen to wait.
    pub places: Vec<PlaceHistory>,
    /// Goroutines seen for the first time since the history began.
    pub births: u64,
    /// Goroutines seen no more.
    pub exits: u64,
    /// Of these, those that had been seen for a while, by how long: 3, 6, 12 s…
    pub aged_exits: [u32; 12],
    fresh: (u64, u64),
}

/// History of one process.
#[derive(Debug)]
pub struct History {
    limits: Limits,
    main_module: Arc<str>,
    begun: Option<Duration>,
    now: Duration,
    round: u32,
    stride: u64,
    by_site: HashMap<Site, SiteId>,
    sites: BTreeMap<SiteId, SiteHistory>,
    next_site: u32,
    members: HashMap<u64, Followed>,
    /// Goroutines of sites that found no room.
    unplaced: u64,
    /// Largest number of a goroutine ever seen: how many there have been.
    last_goid: u64,
    /// The same when the history began.
    first_goids: u64,
    latest: Option<Arc<Population>>,
    callers: HttpCallers,
}

/// Which of twelve doublings of three seconds a duration reaches; `None` below the first.
#[must_use]
pub fn doubling(of: Duration) -> Option<usize> {
    let times = of.as_millis() / REST.as_millis();
    (times > 0).then(|| (times.ilog2() as usize).min(11))
}

impl History {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            main_module: "".into(),
            begun: None,
            now: Duration::ZERO,
            round: 0,
            stride: 1,
            by_site: HashMap::new(),
            sites: BTreeMap::new(),
            next_site: 0,
            members: HashMap::new(),
            unplaced: 0,
            last_goid: 0,
            first_goids: 0,
            latest: None,
            callers: HttpCallers::default(),
        }
    }

    /// Takes in the goroutines there are now. Times must not fall.
    pub fn observe(&mut self, population: Arc<Population>) {
        let now = population.time;
        let first = self.begun.is_none();
        self.begun.get_or_insert(now);
        self.now = self.now.max(now);
        self.round = self.round.wrapping_add(1);
        self.main_module = Arc::clone(&population.main_module);
        self.unplaced = 0;
        let sites: Vec<Site> = population.kinds.iter().map(|kind| place::site(kind, &self.main_module)).collect();
        let keys: Vec<u64> = population.kinds.iter().map(kind_key).collect();
        let mut at: HashMap<(KindId, SiteId), u16> = HashMap::new();
        self.callers.note(&population);
        for member in &population.goroutines {
            self.last_goid = self.last_goid.max(member.goid);
            if member.goid.is_multiple_of(self.stride) {
                self.member(&population, (&sites, &keys), member, first, &mut at);
            }
        }
        if first {
            self.first_goids = self.last_goid;
        }
        self.gone();
        self.note_points();
        self.latest = Some(population);
        while self.members.len() > self.limits.goroutines {
            self.stride *= 2;
            let stride = self.stride;
            self.members.retain(|goid, _| goid.is_multiple_of(stride));
        }
    }

    fn member(
        &mut self,
        population: &Population,
        (sites, keys): (&[Site], &[u64]),
        member: &Member,
        first: bool,
        at: &mut HashMap<(KindId, SiteId), u16>,
    ) {
        let now = population.time;
        let Some(kind) = population.kind(member) else { return };
        let known = self.members.get(&member.goid).copied();
        // A goroutine stays where it came from, though its stack says less at another time.
        let site = match known {
            Some(known) if kind.frames.is_empty() => Some(known.site),
            Some(known) if self.sites.get(&known.site).is_some_and(|site| !site.site.caller.is_empty()) => {
                Some(known.site)
            }
            _ => sites.get(member.kind.0 as usize).and_then(|site| self.site(site, kind.system)),
        };
        let Some(site) = site else {
            self.unplaced += 1;
            return;
        };
        if let Some(known) = known.filter(|known| known.site != site) {
            // Its caller became known: it was counted elsewhere.
            if let Some(old) = self.sites.get_mut(&known.site) {
                old.births = old.births.saturating_sub(1);
            }
            if let Some(new) = self.sites.get_mut(&site) {
                new.births += u64::from(!known.from_before);
            }
        }
        let place = *at.entry((member.kind, site)).or_insert_with(|| {
            let place = place::place(kind, &population.main_module);
            self.sites.get_mut(&site).map_or(0, |history| history.place(place, kind))
        });
        let waiting_since = member.waited.map(|waited| now.saturating_sub(waited));
        let key = keys.get(member.kind.0 as usize).copied().unwrap_or_default();
        let followed = match known {
            None => {
                if !first {
                    let site = self.sites.get_mut(&site);
                    site.into_iter().for_each(|site| (site.births, site.fresh.0) = (site.births + 1, site.fresh.0 + 1));
                }
                Followed {
                    site,
                    place,
                    first_seen: now,
                    // Of later ones it is known better: they were not there at the last look.
                    since: waiting_since.filter(|_| first).unwrap_or(now),
                    waiting_since,
                    from_before: first,
                    runs: 0,
                    parent_goid: member.parent_goid,
                    run_mark: member.run_mark,
                    kind: key,
                    seen: self.round,
                }
            }
            Some(known) => {
                let same = known.run_mark.is_some() && known.run_mark == member.run_mark && known.kind == key;
                // The runtime forgets when a wait began as soon as the goroutine runs.
                let still = known.waiting_since.zip(waiting_since);
                let rests = same || still.is_some_and(|(before, now)| before.abs_diff(now) < SAME_WAIT);
                if !rests {
                    self.departed(&known);
                }
                let since = if rests { known.since } else { now };
                let runs = known.runs + u32::from(!rests);
                Followed {
                    site,
                    place,
                    since,
                    runs,
                    run_mark: member.run_mark,
                    waiting_since,
                    kind: key,
                    seen: self.round,
                    ..known
                }
            }
        };
        self.members.insert(member.goid, followed);
    }

    /// A goroutine left the place where it was.
    fn departed(&mut self, known: &Followed) {
        let now = self.now;
        let Some(doubling) = doubling(now.saturating_sub(known.since)) else { return };
        let place = self.sites.get_mut(&known.site).and_then(|site| site.places.get_mut(usize::from(known.place)));
        if let Some(place) = place {
            if let Some(count) = place.departures.get_mut(doubling) {
                *count = count.saturating_add(1);
            }
            place.last_departure = Some(now);
        }
    }

    /// Forgets who is no more.
    fn gone(&mut self) {
        let round = self.round;
        let gone: Vec<Followed> = self.members.extract_if(|_, one| one.seen != round).map(|(_, one)| one).collect();
        for one in gone {
            self.departed(&one);
            let age = self.now.saturating_sub(one.first_seen);
            let Some(site) = self.sites.get_mut(&one.site) else { continue };
            site.exits += 1;
            site.fresh.1 += 1;
            if let Some(count) = doubling(age).and_then(|doubling| site.aged_exits.get_mut(doubling)) {
                *count = count.saturating_add(1);
            }
        }
    }

    fn note_points(&mut self) {
        let (now, step) = (self.now, self.limits.step);
        let mut numbers: HashMap<SiteId, (u64, u64)> = HashMap::new();
        for one in self.members.values() {
            let (live, unmoved) = numbers.entry(one.site).or_default();
            *live += 1;
            *unmoved += u64::from(now.saturating_sub(one.since) >= REST);
        }
        for (id, site) in &mut self.sites {
            let (live, unmoved) = numbers.get(id).copied().unwrap_or_default();
            let (births, exits) = std::mem::take(&mut site.fresh);
            site.series.push(Point { time: now, live, unmoved, births, exits }, step);
        }
    }

    /// The number of a site. `None` where there is no room for another.
    fn site(&mut self, site: &Site, system: bool) -> Option<SiteId> {
        if let Some(id) = self.by_site.get(site) {
            return Some(*id);
        }
        if self.sites.len() >= self.limits.sites {
            self.make_room()?;
        }
        let id = SiteId(self.next_site);
        self.next_site = self.next_site.wrapping_add(1);
        self.by_site.insert(site.clone(), id);
        let history = SiteHistory {
            site: site.clone(),
            system,
            series: Series::default(),
            places: Vec::new(),
            births: 0,
            exits: 0,
            aged_exits: [0; 12],
            fresh: (0, 0),
        };
        self.sites.insert(id, history);
        Some(id)
    }

    /// Lets go of the site that has been without goroutines the longest.
    fn make_room(&mut self) -> Option<()> {
        let empty = |site: &&SiteHistory| site.series.last().is_some_and(|point| point.live == 0);
        let gone = self.sites.iter().find(|(_, site)| empty(site)).map(|(id, site)| (*id, site.site.clone()))?;
        self.sites.remove(&gone.0);
        self.by_site.remove(&gone.1);
        Some(())
    }

    /// Changes how much is remembered from now on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// When the history began; `None` before the first census.
    #[must_use]
    pub fn begun(&self) -> Option<Duration> {
        self.begun
    }

    /// When it was last told something.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.now
    }

    /// One in how many goroutines is followed.
    #[must_use]
    pub fn stride(&self) -> u64 {
        self.stride
    }

    /// Goroutines that are in no site's numbers, for want of room.
    #[must_use]
    pub fn unplaced(&self) -> u64 {
        self.unplaced
    }

    /// The largest number of a goroutine: about how many there have ever been.
    #[must_use]
    pub fn last_goid(&self) -> u64 {
        self.last_goid
    }

    /// The same when the history began.
    #[must_use]
    pub fn first_goids(&self) -> u64 {
        self.first_goids
    }

    /// The sites.
    pub fn sites(&self) -> impl Iterator<Item = (SiteId, &SiteHistory)> {
        self.sites.iter().map(|(id, site)| (*id, site))
    }

    /// One of them.
    #[must_use]
    pub fn site_of(&self, id: SiteId) -> Option<&SiteHistory> {
        self.sites.get(&id)
    }

    /// The goroutines that are followed, by their numbers.
    #[must_use]
    pub fn members(&self) -> &HashMap<u64, Followed> {
        &self.members
    }

    /// Callers of HTTP clients.
    #[must_use]
    pub fn callers(&self) -> &HttpCallers {
        &self.callers
    }

    /// Takes note of nothing but who asks other servers: for censuses in quick succession.
    pub fn note_callers(&mut self, population: &Population) {
        self.callers.note(population);
    }

    /// Lets go of the last census, which is the largest part; findings can be had again after the next.
    pub fn forget_latest(&mut self) {
        self.latest = None;
    }

    /// The goroutines of the last census.
    #[must_use]
    pub fn latest(&self) -> Option<&Arc<Population>> {
        self.latest.as_ref()
    }
}

impl SiteHistory {
    fn place(&mut self, place: Place, kind: &Kind) -> u16 {
        let found = self.places.iter().position(|known| known.place == place).or_else(|| {
            let full = self.places.len() >= MAX_PLACES;
            let new =
                PlaceHistory { place, example: Arc::new(kind.clone()), departures: [0; 12], last_departure: None };
            if !full {
                self.places.push(new);
            }
            // Of a site with many places the last stands for the rest.
            Some(self.places.len() - 1)
        });
        found.and_then(|index| u16::try_from(index).ok()).unwrap_or_default()
    }
}

/// A hash of where goroutines of a kind are.
fn kind_key(kind: &Kind) -> u64 {
    use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    hasher.hash_one((&kind.state, &kind.frames))
}
