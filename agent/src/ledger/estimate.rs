//! What is known of a process where not everything was counted: estimates from samples, and for how long what was not
//! counted at all.
//!
//! Parks, or births and exits too, are sampled in cycles. Each begins with a window in which they are counted; what the
//! window saw stands for the whole cycle, to the beginning of the next one:
//!
//! ```text
//!  ├─ window ─┤                    ├─ window ─┤
//!  begin      close                begin      close
//!  ├────────── cycle ──────────────┤
//! ```
//!
//! The kernel goes on to count while probes are placed and taken off around a window. Those events are in its totals and
//! would be counted twice: per cycle, the estimate takes the place of whatever was counted in it.
//!
//! Counting slows the process down while it lasts. A window stands for the time in which the process would have done the
//! same unwatched: its length without the part of the CPU time that counting took.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{ProcessLedger, Site};
use crate::kernel::HitCosts;

/// What is counted at a site.
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

/// What a window saw of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Goroutines created.
    pub births: u64,
    /// Parks.
    pub parks: u64,
    /// Goroutines ended.
    pub exits: u64,
    /// How long the window would have been if nothing had been counted.
    pub unwatched: Duration,
}

/// Which events are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Counted {
    /// Every one.
    #[default]
    All,
    /// Those in windows.
    InWindows,
    /// None.
    None,
}

/// What is counted of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recording {
    /// Births and exits.
    pub lives: Counted,
    /// Parks.
    pub parks: Counted,
}

/// What is missing from a ledger because it was not recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Missing {
    /// Time in which births and exits were not even sampled: the counts are lower bounds.
    pub lives_for: Duration,
    /// Whether births and exits were sampled, at least for a while.
    pub lives_sampled: bool,
    /// Time in which parks were not even sampled: the counts are lower bounds.
    pub parks_for: Duration,
    /// The part of the sampled time that windows were open; `None` where there was none.
    pub window_share: Option<f64>,
}

impl Missing {
    /// Whether every number is exact.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.has_all_lives() && self.has_all_parks()
    }

    /// Whether births and exits are complete, and not estimated.
    #[must_use]
    pub fn has_all_lives(&self) -> bool {
        self.lives_for.is_zero() && !self.lives_sampled
    }

    /// Whether parks are complete, and not estimated.
    #[must_use]
    pub fn has_all_parks(&self) -> bool {
        self.parks_for.is_zero() && self.window_share.is_none()
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
    window: Option<SampleWindow>,
}

/// A window that is over.
#[derive(Clone, Debug)]
struct SampleWindow {
    length: Duration,
    unwatched: Duration,
    seen: Counts,
}

/// A process's own part of its CPU time is not taken to be less: what counting costs is known on the average only.
const LEAST_OWN_PART: f64 = 0.1;

impl Cycle {
    /// What is to be added to a count of `now` for its estimate.
    fn excess(&self, key: &(Site, What), count: u64, now: Instant) -> f64 {
        let Some(window) = &self.window else { return 0.0 };
        let began = self.at_begin.get(key).copied().unwrap_or_default();
        let after = now.saturating_duration_since(self.began).saturating_sub(window.length);
        let cycles = 1.0 + after.as_secs_f64() / window.unwatched.as_secs_f64();
        let estimate = window.seen.get(key).copied().unwrap_or_default() as f64 * cycles;
        // Never less than was counted: what is shown only grows.
        (estimate - count.saturating_sub(began) as f64).max(0.0)
    }
}

/// The estimates of one process.
#[derive(Clone, Debug, Default)]
pub struct Estimate {
    /// What finished cycles add to counts.
    excess: HashMap<(Site, What), f64>,
    cycle: Option<Cycle>,
    /// Time in finished cycles, and in their windows.
    sampled: Duration,
    in_windows: Duration,
    lives: Gap,
    parks: Gap,
    lives_sampled: bool,
}

impl Estimate {
    /// From `now` on this is recorded. `counts` as they are now.
    pub fn record(&mut self, recording: Recording, counts: &Counts, now: Instant) {
        self.finish(counts, now);
        self.lives_sampled |= recording.lives == Counted::InWindows;
        self.lives.set(recording.lives == Counted::None, now);
        self.parks.set(recording.parks == Counted::None, now);
    }

    /// A window begins: what is in `counts` is counted, and these are the counts until now. `cpu_ns`: CPU time of the
    /// process.
    pub fn begin(&mut self, counts: Counts, cpu_ns: u64, now: Instant) {
        self.finish(&counts, now);
        self.cycle = Some(Cycle { began: now, at_begin: counts, cpu_ns, window: None });
    }

    /// The window ends. `costs`: what it took to count.
    pub fn close(&mut self, counts: &Counts, cpu_ns: u64, costs: HitCosts, now: Instant) -> Option<Seen> {
        let cycle = self.cycle.as_mut()?;
        let length = now.saturating_duration_since(cycle.began);
        if length.is_zero() || cycle.window.is_some() {
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
        let used = cpu_ns.saturating_sub(cycle.cpu_ns) as f64;
        let cost = costs.of(sums.births as f64, sums.parks as f64, sums.exits as f64);
        let own = if used > 0.0 { (1.0 - cost / used).clamp(LEAST_OWN_PART, 1.0) } else { 1.0 };
        sums.unwatched = length.mul_f64(own);
        cycle.window = Some(SampleWindow { length, unwatched: sums.unwatched, seen });
        Some(sums)
    }

    fn finish(&mut self, counts: &Counts, now: Instant) {
        let Some(cycle) = self.cycle.take() else { return };
        for (key, count) in counts {
            let excess = cycle.excess(key, *count, now);
            if excess > 0.0 {
                *self.excess.entry(*key).or_default() += excess;
            }
        }
        if let Some(window) = cycle.window {
            self.sampled += now.saturating_duration_since(cycle.began);
            self.in_windows += window.length;
        }
    }

    /// What is missing at `now`.
    #[must_use]
    pub fn missing(&self, now: Instant) -> Missing {
        let (mut sampled, mut in_windows) = (self.sampled, self.in_windows);
        if let Some(Cycle { began, window: Some(window), .. }) = &self.cycle {
            sampled += now.saturating_duration_since(*began).max(window.length);
            in_windows += window.length;
        }
        Missing {
            lives_for: self.lives.until(now),
            lives_sampled: self.lives_sampled,
            parks_for: self.parks.until(now),
            window_share: (!sampled.is_zero()).then(|| in_windows.as_secs_f64() / sampled.as_secs_f64()),
        }
    }

    /// Puts estimates in the place of counts made at `now`.
    pub(super) fn apply(&self, process: &mut ProcessLedger, now: Instant) {
        process.missing = self.missing(now);
        if self.cycle.is_none() && self.excess.is_empty() {
            return;
        }
        for (site, tally) in &mut process.sites {
            let live = tally.live();
            for (reason, count) in &mut tally.waits {
                *count = self.estimated((*site, What::Park(*reason)), *count, now);
            }
            tally.births = self.estimated((*site, What::Birth), tally.births, now);
            tally.exits = self.estimated((*site, What::Exit), tally.exits, now);
            // What was born and ended unseen changes nothing about those alive, which a census counted.
            tally.baseline = tally.baseline.wrapping_add(live.wrapping_sub(tally.live()));
        }
    }

    /// The estimate for what was counted `count` times.
    fn estimated(&self, key: (Site, What), count: u64, now: Instant) -> u64 {
        let before = self.excess.get(&key).copied().unwrap_or_default();
        let excess = before + self.cycle.as_ref().map_or(0.0, |cycle| cycle.excess(&key, count, now));
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

    fn seen(parks: u64, unwatched_ms: u64) -> Option<Seen> {
        Some(Seen { parks, unwatched: Duration::from_millis(unwatched_ms), ..Seen::default() })
    }

    fn shown(estimate: &Estimate, parks: u64, now: Instant) -> (u64, Missing) {
        let tally = Tally { waits: BTreeMap::from([(REASON, parks)]), ..Tally::default() };
        let mut process = ProcessLedger { sites: BTreeMap::from([(SITE, tally)]), ..ProcessLedger::default() };
        estimate.apply(&mut process, now);
        (process.sites[&SITE].parks(), process.missing)
    }

    #[test]
    fn a_window_stands_for_its_cycle() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut estimate = Estimate::default();
        // 1000 were all counted; then 20 ms of a steady 10 per ms are, and 30 more while the probe comes and goes.
        estimate.begin(counts(1000), 0, at(0));
        assert_eq!(estimate.close(&counts(1200), 0, FREE, at(20)), seen(200, 20));
        assert_eq!(shown(&estimate, 1200, at(20)).0, 1200);
        assert_eq!(shown(&estimate, 1230, at(500)).0, 6000);
        estimate.begin(counts(1230), 0, at(1000));
        assert_eq!(shown(&estimate, 1230, at(1000)).0, 11_000);
        // Nothing happens in the second cycle.
        estimate.close(&counts(1230), 0, FREE, at(1020));
        let (parks, missing) = shown(&estimate, 1230, at(2000));
        assert_eq!(parks, 11_000);
        assert!((missing.window_share.unwrap() - 0.02).abs() < 1e-9);
        assert!(!missing.has_all_parks() && missing.has_all_lives());
    }

    #[test]
    fn a_window_that_counting_slowed_down_stands_for_less_time() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut estimate = Estimate::default();
        estimate.begin(counts(0), 5_000_000, at(0));
        // Of 20 ms of CPU time, counting 20 000 parks took 15.
        let costs = HitCosts { park_ns: 750.0, ..FREE };
        assert_eq!(estimate.close(&counts(20_000), 25_000_000, costs, at(20)), seen(20_000, 5));
        assert_eq!(shown(&estimate, 20_000, at(1020)).0, 20_000 + 1000 * 4000);
        let mut cheap = Estimate::default();
        cheap.begin(counts(0), 0, at(0));
        let dear = HitCosts { park_ns: 1e9, ..FREE };
        assert_eq!(cheap.close(&counts(9), 1, dear, at(20)), seen(9, 2), "bounded");
    }

    #[test]
    fn what_is_counted_after_sampling_is_added() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut estimate = Estimate::default();
        estimate.begin(counts(0), 0, at(0));
        estimate.close(&counts(10), 0, FREE, at(10));
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
    fn births_and_exits_are_estimated_and_those_alive_are_not() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let lives = |births, exits| HashMap::from([((SITE, What::Birth), births), ((SITE, What::Exit), exits)]);
        let mut estimate = Estimate::default();
        estimate.record(Recording { lives: Counted::InWindows, parks: Counted::InWindows }, &lives(50, 40), at(0));
        estimate.begin(lives(50, 40), 0, at(0));
        let window = estimate.close(&lives(70, 58), 0, FREE, at(20));
        assert_eq!(window.map(|seen| (seen.births, seen.exits)), Some((20, 18)));
        // A census found 7.
        let tally = Tally { births: 70, exits: 58, baseline: -5, ..Tally::default() };
        let mut process = ProcessLedger { sites: BTreeMap::from([(SITE, tally)]), ..ProcessLedger::default() };
        estimate.apply(&mut process, at(1000));
        let tally = &process.sites[&SITE];
        assert_eq!((tally.births, tally.exits, tally.live()), (1050, 940, 7));
        assert!(!process.missing.has_all_lives() && process.missing.lives_for.is_zero());
        // From now on all are counted again.
        estimate.record(Recording { lives: Counted::All, parks: Counted::All }, &lives(70, 58), at(1000));
        let tally = Tally { births: 71, exits: 58, baseline: -5, ..Tally::default() };
        process.sites.insert(SITE, tally);
        estimate.apply(&mut process, at(9000));
        assert_eq!((process.sites[&SITE].births, process.sites[&SITE].exits), (1051, 940));
    }
}
