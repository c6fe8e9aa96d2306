//! Evidence about the goroutines at one place: how many came to stay, how many went, what they wait on, who else does.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use crate::history::{
    Followed, History, PlaceHistory, SiteHistory, SiteId,
    place::Wait,
    population::{Member, Object, Population},
};

/// Goroutines that have not run for this long are at rest: it follows the time they are watched.
#[must_use]
pub(super) fn rest(watched: Duration) -> (Duration, usize) {
    const LONGEST: [(u64, usize); 3] = [(600, 2), (7200, 5), (u64::MAX, 7)];
    let longest = LONGEST.iter().find(|(limit, _)| watched.as_secs() < *limit).map_or(7, |(_, doubling)| *doubling);
    let quarter = (watched.as_secs() / 4 / 3).max(1).ilog2() as usize;
    let doubling = quarter.min(longest);
    (Duration::from_secs(3 << doubling), doubling)
}

/// Goroutines with their numbers.
type Members<'a> = Vec<(u64, &'a Followed)>;

/// All goroutines of a process, looked up by number.
pub(super) struct Crowd<'a> {
    pub(super) history: &'a History,
    pub(super) population: &'a Population,
    by_goid: HashMap<u64, &'a Member>,
    children: HashMap<u64, Vec<u64>>,
    /// Waiters of each object by what they do: senders, receivers, selects.
    queues: HashMap<u32, [u32; 3]>,
    /// Goroutines that may hold a lock, by its index.
    holders: HashMap<u32, Vec<u64>>,
    pub(super) watched: Duration,
    pub(super) rest: Duration,
    pub(super) doubling: usize,
}

/// Objects that those at one place wait on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Waiting {
    /// Those of whom it is known.
    pub(super) known: usize,
    /// Those with an object nobody else waits on, timers apart.
    pub(super) private: usize,
    /// Those all of whose objects have other waiters.
    pub(super) shared: usize,
    /// Different objects.
    pub(super) objects: usize,
    /// Those with a timer's channel among theirs.
    pub(super) timed: usize,
    /// Those on whose channel somebody waits on the other side.
    pub(super) opposite: usize,
    /// Those all of whose channels are signals.
    pub(super) signals: usize,
    /// One of the objects.
    pub(super) example: Option<Object>,
}

/// Goroutines at one place of a site.
pub(super) struct Group<'a> {
    pub(super) site: &'a SiteHistory,
    pub(super) place: &'a PlaceHistory,
    /// Those at rest, or, of a group that moves, those that stay: with their numbers.
    pub(super) members: Vec<(u64, &'a Followed)>,
    /// True where they move.
    pub(super) moves: bool,
    /// Of them, those that came since the watch began: when, in order.
    pub(super) arrivals: Vec<Duration>,
    /// Those that had been here as long and went.
    pub(super) departures: u64,
}

impl<'a> Crowd<'a> {
    pub(super) fn of(history: &'a History) -> Option<Self> {
        let population = history.latest()?;
        let watched = history.now().saturating_sub(history.begun()?);
        let (rest, doubling) = rest(watched);
        let mut by_goid = HashMap::with_capacity(population.goroutines.len());
        let mut children: HashMap<u64, Vec<u64>> = HashMap::new();
        let mut queues: HashMap<u32, [u32; 3]> = HashMap::new();
        for member in &population.goroutines {
            by_goid.insert(member.goid, member);
            if member.parent_goid != 0 {
                children.entry(member.parent_goid).or_default().push(member.goid);
            }
            let Some(kind) = population.kind(member) else { continue };
            let side = match kind.state.as_str() {
                "chan send" => 0,
                "chan receive" => 1,
                _ => 2,
            };
            for (index, _) in population.objects_of(member) {
                if let Some(count) = queues.entry(index).or_default().get_mut(side) {
                    *count += 1;
                }
            }
        }
        let mut holders: HashMap<u32, Vec<u64>> = HashMap::new();
        for (goid, lock) in &population.mentions {
            holders.entry(*lock).or_default().push(*goid);
        }
        Some(Self { history, population, by_goid, children, queues, holders, watched, rest, doubling })
    }

    /// Goroutines by site and place: those at rest, and those that move and stay.
    pub(super) fn groups(&self) -> Vec<Group<'a>> {
        let now = self.history.now();
        let begun = self.history.begun().unwrap_or_default();
        let mut found: HashMap<(SiteId, u16, bool), Members<'_>> = HashMap::new();
        for (goid, one) in self.history.members() {
            let rests = now.saturating_sub(one.since) >= self.rest;
            let stays = now.saturating_sub(one.first_seen) >= self.rest || one.from_before;
            if rests {
                found.entry((one.site, one.place, false)).or_default().push((*goid, one));
            } else if stays {
                // Those that move are looked at as one, wherever they are just now.
                found.entry((one.site, u16::MAX, true)).or_default().push((*goid, one));
            }
        }
        let mut groups = Vec::new();
        for ((id, place, moves), mut members) in found {
            let Some(site) = self.history.site_of(id) else { continue };
            members.sort_by_key(|(goid, _)| *goid);
            let place = if moves { most_frequent(&members) } else { place };
            let Some(place) = site.places.get(usize::from(place)) else { continue };
            let came = |one: &Followed| if moves { one.first_seen } else { one.since };
            let new = members.iter().filter(|(_, one)| came(one) > begun && (!moves || !one.from_before));
            let mut arrivals: Vec<Duration> = new.map(|(_, one)| came(one)).collect();
            arrivals.sort_unstable();
            let counts = if moves { &site.aged_exits } else { &place.departures };
            let departures = counts.iter().skip(self.doubling).map(|count| u64::from(*count)).sum();
            groups.push(Group { site, place, members, moves, arrivals, departures });
        }
        groups.sort_by(|one, other| (&one.site.site, &one.place.place).cmp(&(&other.site.site, &other.place.place)));
        groups
    }

    pub(super) fn member(&self, goid: u64) -> Option<&'a Member> {
        self.by_goid.get(&goid).copied()
    }

    /// Objects that the goroutines of a group wait on.
    pub(super) fn waiting(&self, group: &Group<'_>) -> Waiting {
        let mut waiting = Waiting::default();
        let mut objects = HashSet::new();
        let side = match group.place.place.wait {
            Wait::Send => 0,
            Wait::Receive => 1,
            _ => 2,
        };
        for (goid, _) in &group.members {
            let Some(member) = self.member(*goid) else { continue };
            let mut any = false;
            let (mut private, mut timed, mut opposite, mut signals) = (false, false, false, true);
            for (index, object) in self.population.objects_of(member) {
                any = true;
                objects.insert(index);
                waiting.example.get_or_insert(*object);
                let [send, receive, select] = self.queues.get(&index).copied().unwrap_or_default();
                opposite |= match side {
                    0 => receive + select > 0,
                    1 => send + select > 0,
                    _ => send > 0,
                };
                let is_timer = object.channel.is_some_and(|channel| channel.is_like_a_timers());
                timed |= is_timer;
                signals &= object.channel.is_some_and(|channel| channel.is_a_signal());
                private |= object.waiters == 1 && !is_timer;
            }
            if any {
                waiting.known += 1;
                waiting.private += usize::from(private);
                waiting.shared += usize::from(!private);
                waiting.timed += usize::from(timed);
                waiting.opposite += usize::from(opposite);
                waiting.signals += usize::from(signals);
            }
        }
        waiting.objects = objects.len();
        waiting
    }

    /// Of the goroutines of a group: how many have a child that is alive, and how many one that is not at rest.
    pub(super) fn children(&self, group: &Group<'_>) -> (usize, usize) {
        let now = self.history.now();
        let (mut with, mut moving) = (0, 0);
        for (goid, _) in &group.members {
            let Some(children) = self.children.get(goid) else { continue };
            with += 1;
            let moves = |child: &u64| {
                self.history.members().get(child).is_none_or(|child| now.saturating_sub(child.since) < self.rest)
            };
            moving += usize::from(children.iter().any(moves));
        }
        (with, moving)
    }

    /// The lock that a goroutine waits for.
    fn lock_of(&self, goid: u64) -> Option<(u32, u64)> {
        let member = self.member(goid)?;
        let mut locks = self.population.objects_of(member).filter(|(_, object)| object.channel.is_none());
        locks.next().map(|(index, object)| (index, object.address))
    }

    /// Number of goroutines of a group that are in a ring: each waits for a lock that the other may hold.
    pub(super) fn in_rings(&self, group: &Group<'_>) -> usize {
        /// Goroutines that are looked at, and that may hold one lock.
        const MOST: usize = 256;
        // The two queues of one `sync.RWMutex` are no two locks; mutexes may be neighbours.
        let apart = if group.place.place.wait == Wait::Mutex { 8 } else { 32 };
        let in_ring = |goid: &u64| {
            let Some((own, own_address)) = self.lock_of(*goid) else { return false };
            self.holders.get(&own).into_iter().flatten().take(MOST).any(|holder| {
                self.lock_of(*holder).is_some_and(|(other, address)| {
                    other != own
                        && address.abs_diff(own_address) >= apart
                        && self.holders.get(&other).is_some_and(|holders| holders.contains(goid))
                })
            })
        };
        group.members.iter().map(|(goid, _)| goid).take(MOST).filter(|goid| in_ring(goid)).count()
    }

    /// A goroutine that may hold what a group waits for, and that does not wait for it itself.
    pub(super) fn holder(&self, group: &Group<'_>) -> Option<&'a Member> {
        let (lock, _) = group.members.iter().find_map(|(goid, _)| self.lock_of(*goid))?;
        let waits = |goid: u64| self.lock_of(goid).is_some_and(|(other, _)| other == lock);
        let holder = self.holders.get(&lock)?.iter().find(|goid| **goid != 1 && !waits(**goid))?;
        self.member(*holder)
    }

    /// True where parents are known in this process.
    pub(super) fn knows_parents(&self) -> bool {
        !self.children.is_empty()
    }

    /// In how many of eight equal parts of all numbers given to goroutines before the watch some of these are: a pool begun at
    /// once is in one.
    pub(super) fn spread(&self, goids: impl Iterator<Item = u64>) -> usize {
        let all = self.history.first_goids().max(1);
        let parts: HashSet<u64> = goids.map(|goid| (goid.saturating_sub(1) * 8 / all).min(7)).collect();
        parts.len()
    }

    /// Memory of the stacks of a group.
    pub(super) fn stack_bytes(&self, group: &Group<'_>) -> u64 {
        group.members.iter().filter_map(|(goid, _)| self.member(*goid)).map(|member| member.stack_bytes).sum()
    }

    /// Goroutines that now have a call of one of these functions on their stacks.
    pub(super) fn calling(&self, functions: &[&str]) -> u64 {
        let calls: Vec<bool> = self
            .population
            .kinds
            .iter()
            .map(|kind| kind.frames.iter().any(|frame| functions.contains(&frame.function.as_str())))
            .collect();
        let does = |member: &&Member| calls.get(member.kind.0 as usize).copied().unwrap_or(false);
        self.population.goroutines.iter().filter(does).map(|member| member.count).sum()
    }
}

fn most_frequent(members: &[(u64, &Followed)]) -> u16 {
    let mut counts: HashMap<u16, usize> = HashMap::new();
    for (_, one) in members {
        *counts.entry(one.place).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(place, count)| (*count, std::cmp::Reverse(*place))).map_or(0, |(place, _)| place)
}
