//! CPU time and cost of one process.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use parkranger_common::counts::ProcessId;

use super::{Budget, Fidelity, LEAST_CPU};
use crate::{host::FileId, kernel::HitCosts, ledger::Seen};

/// Hits of a process's probes, since each was first counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hits {
    /// Goroutines created.
    pub births: u64,
    /// Parks that were counted, in slices too.
    pub parks: u64,
    /// Goroutines ended.
    pub exits: u64,
    /// Times a goroutine got to run while a story is told.
    pub runs: u64,
}

/// A process at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// Which.
    pub process: ProcessId,
    /// Binary whose probes it runs into.
    pub binary: FileId,
    /// CPU time of all its threads since it began, the cost of hits included, in ns.
    pub cpu_ns: u64,
    /// Hits so far.
    pub hits: Hits,
}

/// Credit is so much time of the present allowance, at most; from one slice to the next where that is longer.
const CREDIT: Duration = Duration::from_secs(2);
/// Rates are averages that forget the past with this time constant.
const MEMORY: Duration = Duration::from_secs(2);
/// So many slices decide: the dearest of them.
const SLICES: usize = 3;
/// Part of the CPU time a process uses that counts as its own at least, however dear counting seems: one that counting
/// slows down would use the rest itself.
const LEAST_OWN: f64 = 0.2;

/// Events per second.
#[derive(Clone, Copy, Debug, Default)]
struct Rates {
    births: f64,
    parks: f64,
    exits: f64,
}

/// One process's account.
#[derive(Clone, Debug, Default)]
pub struct Account {
    last: Option<(Instant, Reading)>,
    budget: Option<Budget>,
    /// ns that may be spent before it is too much.
    credit_ns: f64,
    /// Averages over the last seconds: events, and ns per second of CPU time and of cost.
    rates: Rates,
    cpu: f64,
    cost: f64,
    /// The same over the last reading alone.
    last_rates: Rates,
    last_cpu: f64,
    last_cost: f64,
    /// True where the averages and the credit are of the present fidelity: the first reading after a step makes them so.
    known: bool,
    /// Events in the last slices since the last step.
    slices: VecDeque<Seen>,
    /// Time from one slice to the next, where there are some.
    every: Duration,
}

impl Account {
    /// Takes a reading, made at `now` while `fidelity` was recorded, with a slice so often.
    pub(super) fn take(
        &mut self,
        reading: &Reading,
        (fidelity, every): (Fidelity, Option<Duration>),
        costs: HitCosts,
        budget: Budget,
        now: Instant,
    ) {
        self.budget = Some(budget);
        self.every = every.unwrap_or_default();
        let Some((then, before)) = self.last.replace((now, *reading)) else { return };
        let seconds = now.saturating_duration_since(then).as_secs_f64();
        if seconds <= 0.0 {
            self.last = Some((then, before));
            return;
        }
        let per_second = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        let hits = reading.hits;
        let counted = Rates {
            births: per_second(hits.births, before.hits.births),
            parks: per_second(hits.parks, before.hits.parks),
            exits: per_second(hits.exits, before.hits.exits),
        };
        let mut cost = costs.of(counted.births, counted.parks, counted.exits);
        if fidelity == Fidelity::Story {
            let runs = per_second(hits.runs, before.hits.runs);
            cost +=
                runs * costs.run_ns() + counted.parks * costs.story_park_ns() + counted.exits * costs.story_exit_ns();
        }
        let cpu = per_second(reading.cpu_ns, before.cpu_ns);
        let first = !self.known;
        self.known = true;
        let part = if first { 1.0 } else { 1.0 - (-seconds / MEMORY.as_secs_f64()).exp() };
        let average = |average: &mut f64, value: f64| *average += (value - *average) * part;
        average(&mut self.cpu, cpu);
        average(&mut self.cost, cost);
        self.last_cpu = cpu;
        self.last_cost = cost;
        if fidelity >= Fidelity::Lifecycle {
            average(&mut self.rates.births, counted.births);
            average(&mut self.rates.exits, counted.exits);
            (self.last_rates.births, self.last_rates.exits) = (counted.births, counted.exits);
        }
        if fidelity >= Fidelity::Full {
            average(&mut self.rates.parks, counted.parks);
            self.last_rates.parks = counted.parks;
        }
        self.reckon_slices(fidelity);
        if first {
            self.renew_credit();
        }
        let earned = self.allowance_of(cpu, cost) * seconds;
        self.credit_ns = (self.credit_ns + earned - cost * seconds).min(self.most_credit());
    }

    /// Takes what a slice saw while `fidelity` was recorded.
    pub(super) fn sampled(&mut self, seen: &Seen, fidelity: Fidelity) {
        if seen.length.is_zero() {
            return;
        }
        if self.slices.len() >= SLICES {
            self.slices.pop_front();
        }
        self.slices.push_back(*seen);
        self.reckon_slices(fidelity);
    }

    /// Rates by what the last slices saw, the dearest of them, for the CPU time the process uses by now: one that has become
    /// idle since is not held to what it did when it was busy.
    fn reckon_slices(&mut self, fidelity: Fidelity) {
        if self.slices.is_empty() {
            return;
        }
        const SECOND: Duration = Duration::from_secs(1);
        let own_ns = own_part(self.cpu, self.cost).max(own_part(self.last_cpu, self.last_cost));
        let most = |events: fn(&Seen) -> u64| {
            let rate = |seen: &Seen| events(seen) as f64 * seen.stands_for(own_ns, SECOND);
            self.slices.iter().map(rate).fold(0.0, f64::max)
        };
        let rates =
            Rates { births: most(|seen| seen.births), parks: most(|seen| seen.parks), exits: most(|seen| seen.exits) };
        // Births and exits that are all counted are known better. These are the last rates, too.
        for known in [&mut self.rates, &mut self.last_rates] {
            *known = if fidelity < Fidelity::Lifecycle { rates } else { Rates { parks: rates.parks, ..*known } };
        }
    }

    pub(super) fn is_of(&self, binary: FileId) -> bool {
        self.last.is_some_and(|(_, reading)| reading.binary == binary)
    }

    /// More was spent than may be.
    pub(super) fn is_over(&self) -> bool {
        self.known && self.credit_ns < 0.0
    }

    /// Time that `part` of the allowance takes to pay for what was spent beyond the credit. A process that has only just
    /// become busy is supposed to stay so.
    pub(super) fn time_to_pay(&self, part: f64) -> Duration {
        let lately = self.allowance_of(self.last_cpu, self.last_cost);
        let allowance = self.allowance().max(lately);
        Duration::try_from_secs_f64(-self.credit_ns.min(0.0) / (part * allowance)).unwrap_or(Duration::MAX)
    }

    /// The binary went to `fidelity`: what was measured before says little of what is recorded only now.
    pub(super) fn stepped(&mut self, fidelity: Fidelity) {
        self.slices.clear();
        if fidelity <= Fidelity::Lifecycle {
            self.last_rates.parks = 0.0;
        }
        self.known = false;
    }

    pub(super) fn renew_credit(&mut self) {
        self.credit_ns = self.most_credit();
    }

    fn most_credit(&self) -> f64 {
        CREDIT.max(self.every).as_secs_f64() * self.allowance()
    }

    /// Cost of watching, as a share of the CPU time without it. `None` before the second reading.
    pub(super) fn cost(&self) -> Option<f64> {
        (self.last.is_some() && self.cpu > 0.0).then(|| self.cost / own_cpu(self.cpu, self.cost))
    }

    /// The same for the last reading alone.
    pub(super) fn cost_of_the_last(&self) -> Option<f64> {
        (self.last_cpu > 0.0).then(|| self.last_cost / own_cpu(self.last_cpu, self.last_cost))
    }

    /// Predicted cost of counting every event, as a share of the CPU time without it. `None` before events were seen.
    pub(super) fn cost_of_all(&self, costs: HitCosts) -> Option<f64> {
        let all = costs.of(self.rates.births, self.rates.parks, self.rates.exits);
        (self.known && all > 0.0).then(|| all / own_cpu(self.cpu, self.cost))
    }

    /// ns per second that may be spent.
    fn allowance(&self) -> f64 {
        self.allowance_of(self.cpu, self.cost)
    }

    /// The same of a process that used `cpu` ns per second, `cost` of them for counting.
    fn allowance_of(&self, cpu: f64, cost: f64) -> f64 {
        self.budget.map_or(0.0, |budget| budget.allowance(own_cpu(cpu, cost)))
    }

    /// Allowance and what births and exits need of it, in ns per second, by the last reading if that is dearer.
    fn now(&self, costs: HitCosts) -> (f64, f64) {
        let of = |rates: &Rates| costs.of(rates.births, 0.0, rates.exits);
        let (mean, last) = (of(&self.rates), of(&self.last_rates));
        if last > mean { (self.allowance_of(self.last_cpu, self.last_cost), last) } else { (self.allowance(), mean) }
    }

    /// The share of all events that can be counted with this `part` of the allowance. May be above 1.
    pub(super) fn share_of_all(&self, costs: HitCosts, part: f64) -> f64 {
        let (allowance, lifecycle) = self.now(costs);
        let all = lifecycle + self.rates.parks.max(self.last_rates.parks) * costs.park_ns;
        if all > 0.0 { allowance * part / all } else { 1.0 }
    }

    /// True where births and exits can all be counted.
    pub(super) fn affords_lifecycle(&self, costs: HitCosts) -> bool {
        let (allowance, lifecycle) = self.now(costs);
        lifecycle <= allowance
    }

    /// The share of all parks that can be counted with this `part` of what births and exits leave. May be above 1.
    pub(super) fn share(&self, costs: HitCosts, part: f64) -> f64 {
        let (allowance, lifecycle) = self.now(costs);
        let parks = self.rates.parks.max(self.last_rates.parks) * costs.park_ns;
        let left = ((allowance - lifecycle) * part).max(0.0);
        if parks > 0.0 { left / parks } else { 1.0 }
    }

    /// True where the next step up from `from` is predicted to need no more than this `part` of the allowance, as far as rates are known.
    pub(super) fn may_rise(&self, from: Fidelity, costs: HitCosts, part: f64) -> bool {
        let (allowance, lifecycle) = self.now(costs);
        let parks = self.rates.parks.max(self.last_rates.parks) * costs.park_ns;
        match from {
            // Nothing is counted in a census: only trying tells.
            Fidelity::Census => true,
            Fidelity::Sparse => self.slices.len() >= SLICES && lifecycle <= part * allowance,
            Fidelity::Sampled => self.slices.len() >= SLICES && lifecycle + parks <= part * allowance,
            Fidelity::Lifecycle | Fidelity::Full | Fidelity::Story => lifecycle <= part * allowance,
        }
    }
}

/// CPU time without the cost, in ns per second.
fn own_part(cpu: f64, cost: f64) -> f64 {
    (cpu - cost).max(LEAST_OWN * cpu)
}

/// The same, and never less than counts as the least.
fn own_cpu(cpu: f64, cost: f64) -> f64 {
    own_part(cpu, cost).max(LEAST_CPU * 1e9)
}
