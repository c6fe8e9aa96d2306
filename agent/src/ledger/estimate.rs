//! Estimates of a process of which not everything was counted, from samples, and the times in which nothing was counted.
//!
//! Parks, or births and exits too, are sampled in cycles. Each begins with a slice in which they are counted; what the
//! slice saw stands for the whole cycle, to the beginning of the next one:
//!
//! ```text
//!  ├─ slice ──┤                    ├─ slice ──┤
//!  begin      close                begin      close
//!  ├────────── cycle ──────────────┤
//! ```
//!
//! The kernel goes on to count while probes are placed and taken off around a slice. Those events are in its totals and
//! would be counted twice: per cycle, the estimate takes the place of whatever was counted in it.
//!
//! What a process does goes with the CPU time it uses for it. So a slice stands for as many times its own CPU time, that
//! is without the part that counting took, as the process used until the next one. That holds for one that counting slows
//! down and for one that waits for others alike, and where the machine has no CPU left for it during the slice.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{ProcessLedger, Site};
use crate::kernel::HitCosts;

/// Kind of an event at a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// A goroutine was created.
    Birth,
    /// One ended.
    Exit,
    /// One parked, for that reason.
    Park(u8),
}

/// Counts of one process, as the kernel made them.
pub type Counts = HashMap<(Site, What), u64>;

/// Events of a process in one slice.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    /// Goroutines created.
    pub births: u64,
    /// Parks.
    pub parks: u64,
    /// Goroutines ended.
    pub exits: u64,
    /// Length of the slice.
    pub length: Duration,
    /// CPU time the process used in it, in ns.
    pub used_ns: u64,
    /// The part of that which was not for counting: 1 where nothing was used.
    pub own_part: f64,
}

impl Seen {
    /// Number of events that one seen event stands for if the process uses `own_ns` of CPU time during `time`, counting excepted.
    #[must_use]
    pub fn stands_for(&self, own_ns: f64, time: Duration) -> f64 {
        let by_time = time.as_secs_f64() / self.length.as_secs_f64();
        let by_use = own_ns / (self.used_ns as f64 * self.own_part);
        if by_use.is_finite() { by_use.min(by_time / self.own_part * MOST_UNUSUAL) } else { by_time }
    }
}

/// Which events are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Counted {
    /// Every one.
    #[default]
    All,
    /// Those in slices.
    InSlices,
    /// None.
    None,
}

/// Events of a process that are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    /// Births and exits.
    pub lives: Counted,
    /// Parks.
    pub parks: Counted,
}

impl Recording {
    /// No event is counted.
    pub const NOTHING: Self = Self { lives: Counted::None, parks: Counted::None };
}

/// Events missing from a ledger because they were not recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Missing {
    /// Time in which births and exits were not even sampled: the counts are lower bounds.
    pub lives_for: Duration,
    /// True where births and exits were sampled, at least for a while.
    pub lives_sampled: bool,
    /// Time in which parks were not even sampled: the counts are lower bounds.
    pub parks_for: Duration,
    /// The part of the sampled time that slices were open; `None` where there was none.
    pub slice_share: Option<f64>,
}

impl Missing {
    /// True where every number is exact.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.has_all_lives() && self.has_all_parks()
    }

    /// True where births and exits are complete, and not estimated.
    #[must_use]
    pub fn has_all_lives(&self) -> bool {
        self.lives_for.is_zero() && !self.lives_sampled
    }

    /// True where parks are complete, and not estimated.
    #[must_use]
    pub fn has_all_parks(&self) -> bool {
        self.parks_for.is_zero() && self.slice_share.is_none()
    }
}

/// Time in which something was not counted.
#[derive(Clone, Copy, Debug, Default)]
struct Gap {
    before: Duration,
    since: Option<Instant>,
}

impl Gap {
    fn set(&mut self, open: bool, now: Instant) {
        match (self.since, open) {
            (None, true) => self.since = Some(now),
            (Some(_), false) => *self = Self { before: self.until(now), since: None },
            _ => {}
        }
    }

    fn until(&self, now: Instant) -> Duration {
        self.before + self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

#[derive(Clone, Debug)]
struct Cycle {
    began: Instant,
    at_begin: Counts,
    /// CPU time of the process when it began, in ns.
    cpu_ns: u64,
    slice: Option<Slice>,
}

/// A slice that is over.
#[derive(Clone, Debug)]
struct Slice {
    sums: Seen,
    seen: Counts,
    /// CPU time of the process when it ended, in ns.
    cpu_ns: u64,
    /// Work since the slice as a multiple of that in it, as far as the process's CPU time was read.
    times: f64,
}

/// What counting costs is known on the average only, and twice as much where processors share a core. The runtime itself
/// takes so long for an event at least (a park and what wakes up from it takes 220 ns, a birth with its exit 250, on the machine
/// this was built on), or this part of what counting it is taken to cost, whichever is less.
const LEAST_OWN_NS: f64 = 150.0;
const LEAST_OWN_PART: f64 = 0.25;
/// A slice stands for at most so many times what it would if the process had used CPU time as evenly as it could: where it
/// saw next to nothing, that is not to stand for everything.
const MOST_UNUSUAL: f64 = 4.0;

impl Cycle {
    /// Number to be added to a count for its estimate.
    fn excess(&self, key: &(Site, What), count: u64) -> f64 {
        let Some(slice) = &self.slice else { return 0.0 };
        let began = self.at_begin.get(key).copied().unwrap_or_default();
        let estimate = slice.seen.get(key).copied().unwrap_or_default() as f64 * (1.0 + slice.times);
        // Never less than was counted: what is shown only grows.
        (estimate - count.saturating_sub(began) as f64).max(0.0)
    }

    /// The process had used `cpu_ns` at `now`.
    fn used(&mut self, cpu_ns: u64, now: Instant) {
        if let Some(slice) = &mut self.slice {
            let after = now.saturating_duration_since(self.began).saturating_sub(slice.sums.length);
            let used = cpu_ns.saturating_sub(slice.cpu_ns) as f64;
            slice.times = slice.times.max(slice.sums.stands_for(used, after));
        }
    }
}

/// The estimates of one process.
#[derive(Clone, Debug, Default)]
pub struct Estimate {
    recording: Recording,
    /// Numbers that finished cycles add to counts.
    excess: HashMap<(Site, What), f64>,
    cycle: Option<Cycle>,
    /// Time in finished cycles, and in their slices.
    sampled: Duration,
    in_slices: Duration,
    lives: Gap,
    parks: Gap,
    lives_sampled: bool,
}

impl Estimate {
    /// From `now` on this is recorded. `counts` as they are now.
    pub fn record(&mut self, recording: Recording, counts: &Counts, now: Instant) {
        self.finish(counts, now);
        self.recording = recording;
        self.lives_sampled |= recording.lives == Counted::InSlices;
        self.lives.set(recording.lives == Counted::None, now);
        self.parks.set(recording.parks == Counted::None, now);
    }

    /// A slice begins: what is in `counts` is counted, and these are the counts until now. `cpu_ns`: CPU time of the
    /// process.
    pub fn begin(&mut self, counts: Counts, cpu_ns: u64, now: Instant) {
        self.used(cpu_ns, now);
        self.finish(&counts, now);
        self.cycle = Some(Cycle { began: now, at_begin: counts, cpu_ns, slice: None });
    }

    /// CPU time of the process so far.
    pub fn used(&mut self, cpu_ns: u64, now: Instant) {
        if let Some(cycle) = &mut self.cycle {
            cycle.used(cpu_ns, now);
        }
    }

    /// The slice ends. `costs`: what it took to count.
    pub fn close(&mut self, counts: &Counts, cpu_ns: u64, costs: HitCosts, now: Instant) -> Option<Seen> {
        let cycle = self.cycle.as_mut()?;
        let length = now.saturating_duration_since(cycle.began);
        if length.is_zero() || cycle.slice.is_some() {
            return None;
        }
        let seen: Counts = counts
            .iter()
            .map(|(key, count)| (*key, count - cycle.at_begin.get(key).copied().unwrap_or(0).min(*count)))
            .filter(|(_, count)| *count > 0)
            .collect();
        let mut sums = Seen::default();
        for ((_, what), count) in &seen {
            *match what {
                What::Birth => &mut sums.births,
                What::Exit => &mut sums.exits,
                What::Park(_) => &mut sums.parks,
            } += count;
        }
        sums.length = length;
        sums.used_ns = cpu_ns.saturating_sub(cycle.cpu_ns);
        let cost = costs.of(sums.births as f64, sums.parks as f64, sums.exits as f64);
        let events = (sums.births + sums.parks + sums.exits) as f64;
        let least_own = (cost * LEAST_OWN_PART).min(events * LEAST_OWN_NS);
        let own = (sums.used_ns as f64 - cost).max(least_own) / sums.used_ns as f64;
        sums.own_part = if sums.used_ns > 0 { own.min(1.0) } else { 1.0 };
        cycle.slice = Some(Slice { sums, seen, cpu_ns, times: 0.0 });
        Some(sums)
    }

    fn finish(&mut self, counts: &Counts, now: Instant) {
        let Some(cycle) = self.cycle.take() else { return };
        for (key, count) in counts {
            let excess = cycle.excess(key, *count);
            if excess > 0.0 {
                *self.excess.entry(*key).or_default() += excess;
            }
        }
        if let Some(slice) = cycle.slice {
            self.sampled += now.saturating_duration_since(cycle.began);
            self.in_slices += slice.sums.length;
        }
    }

    /// Events missing at `now`.
    #[must_use]
    pub fn missing(&self, now: Instant) -> Missing {
        let (mut sampled, mut in_slices) = (self.sampled, self.in_slices);
        if let Some(Cycle { began, slice: Some(slice), .. }) = &self.cycle {
            sampled += now.saturating_duration_since(*began).max(slice.sums.length);
            in_slices += slice.sums.length;
        }
        Missing {
            lives_for: self.lives.until(now),
            lives_sampled: self.lives_sampled,
            parks_for: self.parks.until(now),
            slice_share: (!sampled.is_zero()).then(|| in_slices.as_secs_f64() / sampled.as_secs_f64()),
        }
    }

    /// Puts estimates in the place of counts of parks, made at `now`.
    pub(super) fn apply_to_parks(&self, process: &mut ProcessLedger, now: Instant) {
        process.missing = self.missing(now);
        if self.cycle.is_none() && self.excess.is_empty() {
            return;
        }
        for (site, tally) in &mut process.sites {
            for (reason, count) in &mut tally.waits {
                *count = self.estimated((*site, What::Park(*reason)), *count);
            }
        }
    }

    /// Events that are counted now.
    pub(super) fn recording(&self) -> Recording {
        self.recording
    }

    /// The estimate for what was counted `count` times.
    pub(super) fn estimated(&self, key: (Site, What), count: u64) -> u64 {
        let before = self.excess.get(&key).copied().unwrap_or_default();
        let excess = before + self.cycle.as_ref().map_or(0.0, |cycle| cycle.excess(&key, count));
        // Not below 0 and far from 2^53.
        (count as f64 + excess).round().max(0.0) as u64
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{address::RuntimeAddr, ledger::Tally};

    const SITE: Site = Site { gopc: RuntimeAddr(16), startpc: RuntimeAddr(32) };
    const REASON: u8 = 3;
    const FREE: HitCosts = HitCosts { birth_ns: 0.0, park_ns: 0.0, exit_ns: 0.0 };

    fn counts(parks: u64) -> Counts {
        HashMap::from([((SITE, What::Park(REASON)), parks)])
    }

    fn seen(parks: u64, used_ns: u64, own_part: f64) -> Option<Seen> {
        Some(Seen { parks, length: Duration::from_millis(20), used_ns, own_part, ..Seen::default() })
    }

    fn shown(estimate: &Estimate, parks: u64, now: Instant) -> (u64, Missing) {
        let tally = Tally { waits: BTreeMap::from([(REASON, parks)]), ..Tally::default() };
        let mut process = ProcessLedger { sites: BTreeMap::from([(SITE, tally)]), ..ProcessLedger::default() };
        estimate.apply_to_parks(&mut process, now);
        (process.sites[&SITE].parks(), process.missing)
    }

    #[test]
    fn a_slice_stands_for_its_cycle() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut estimate = Estimate::default();
        // 1000 were all counted; then 20 ms of a steady 10 per ms are, and 30 more while the probe comes and goes.
        estimate.begin(counts(1000), 0, at(0));
        assert_eq!(estimate.close(&counts(1200), 0, FREE, at(20)), seen(200, 0, 1.0));
        assert_eq!(shown(&estimate, 1200, at(20)).0, 1200);
        estimate.used(0, at(500));
        assert_eq!(shown(&estimate, 1230, at(500)).0, 6000);
        estimate.begin(counts(1230), 0, at(1000));
        assert_eq!(shown(&estimate, 1230, at(1000)).0, 11_000);
        // Nothing happens in the second cycle.
        estimate.close(&counts(1230), 0, FREE, at(1020));
        let (parks, missing) = shown(&estimate, 1230, at(2000));
        assert_eq!(parks, 11_000);
        assert!((missing.slice_share.unwrap() - 0.02).abs() < 1e-9);
        assert!(!missing.has_all_parks() && missing.has_all_lives());
    }

    #[test]
    fn a_slice_stands_for_the_cpu_time_used_until_the_next() {
        const MS: u64 = 1_000_000;
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        // Of what 20 000 parks needed in a slice of 20 ms, counting took 12 ms.
        let costs = HitCosts { park_ns: 600.0, ..FREE };
        for (used_in_slice, used_after, parks) in [
            // Slowed down by counting, it does two and a half times as much without.
            (20, 1000, 20_000 * (1 + 125)),
            // It got less of a CPU while it was counted.
            (16, 1000, 20_000 * (1 + 250)),
            // A hit cannot have cost that much: 150 ns of a park are the runtime's own at least.
            (14, 900, 20_000 * (1 + 300)),
            // It had nothing more to do.
            (20, 0, 20_000),
            // Its work comes from others: no slower in the slice than after.
            (20, 400, 20_000 * (1 + 50)),
        ] {
            let mut estimate = Estimate::default();
            estimate.begin(counts(0), 5 * MS, at(0));
            estimate.close(&counts(20_000), (5 + used_in_slice) * MS, costs, at(20));
            for part in 1..=4 {
                estimate.used((5 + used_in_slice + used_after * part / 4) * MS, at(20 + 250 * part));
            }
            assert_eq!(shown(&estimate, 20_000, at(1020)).0, parks, "{used_in_slice} {used_after}");
        }
    }

    #[test]
    fn what_a_slice_stands_for_is_bounded_and_only_grows() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut estimate = Estimate::default();
        estimate.begin(counts(0), 0, at(0));
        let dear = HitCosts { park_ns: 1e9, ..FREE };
        assert_eq!(estimate.close(&counts(9), 10, dear, at(20)), seen(9, 10, 1.0), "less than its own part");
        estimate.used(2_000_000_000, at(1020));
        assert_eq!(shown(&estimate, 9, at(1020)).0, 9 + 9 * 50 * 4, "as rare as it may have been");
        estimate.used(0, at(1020));
        assert_eq!(shown(&estimate, 9, at(1020)).0, 9 + 9 * 50 * 4);
    }

    #[test]
    fn what_is_counted_after_sampling_is_added() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut estimate = Estimate::default();
        estimate.begin(counts(0), 0, at(0));
        estimate.close(&counts(10), 0, FREE, at(10));
        estimate.used(0, at(1000));
        estimate.record(Recording { lives: Counted::All, parks: Counted::All }, &counts(12), at(1000));
        assert_eq!(shown(&estimate, 12 + 5, at(5000)).0, 1005);
        assert_eq!(estimate.missing(at(5000)).parks_for, Duration::ZERO);
    }

    #[test]
    fn time_without_counting_is_kept() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut estimate = Estimate::default();
        assert_eq!(estimate.missing(at(0)), Missing::default());
        estimate.record(Recording { lives: Counted::All, parks: Counted::None }, &counts(0), at(1000));
        estimate.record(Recording { lives: Counted::None, parks: Counted::None }, &counts(0), at(3000));
        estimate.record(Recording { lives: Counted::All, parks: Counted::All }, &counts(0), at(4000));
        let missing = estimate.missing(at(9000));
        assert_eq!((missing.parks_for, missing.lives_for), (Duration::from_secs(3), Duration::from_secs(1)));
        assert!(!missing.has_all_lives() && !missing.has_all_parks());
    }

    #[test]
    fn births_and_exits_are_estimated() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let lives = |births, exits| HashMap::from([((SITE, What::Birth), births), ((SITE, What::Exit), exits)]);
        let mut estimate = Estimate::default();
        estimate.record(Recording { lives: Counted::InSlices, parks: Counted::InSlices }, &lives(50, 40), at(0));
        estimate.begin(lives(50, 40), 0, at(0));
        let slice = estimate.close(&lives(70, 58), 0, FREE, at(20));
        assert_eq!(slice.map(|seen| (seen.births, seen.exits)), Some((20, 18)));
        estimate.used(0, at(1000));
        let shown = |estimate: &Estimate, births, exits| {
            (estimate.estimated((SITE, What::Birth), births), estimate.estimated((SITE, What::Exit), exits))
        };
        assert_eq!(shown(&estimate, 70, 58), (1050, 940));
        let mut process = ProcessLedger::default();
        estimate.apply_to_parks(&mut process, at(1000));
        assert!(!process.missing.has_all_lives() && process.missing.lives_for.is_zero());
        // From now on all are counted again.
        estimate.record(Recording { lives: Counted::All, parks: Counted::All }, &lives(70, 58), at(1000));
        assert_eq!(shown(&estimate, 71, 58), (1051, 940));
    }
}
