//! The governor: keeps what watching costs a process within its budget, by recording less where it must.
//!
//! Pure arithmetic, told the time. It is fed with readings of each process (CPU time and hits so far), multiplies hits
//! with what one costs on this machine, and compares with the budget: a share of the CPU time the process would use
//! unwatched, or a small part of one core where that is more. What is over it is decided for all processes of a binary at once, because they share their probes: whoever
//! is dearest decides.
//!
//! - [`Account`]: what one process used and cost, and its credit,
//! - [`Governor`]: which [`Fidelity`] each binary has, when it steps down and when up again.
//!
//! Down: a process's credit is two seconds of its allowance; when it is used up, the binary goes to the most that its
//! rates allow, at once and over several steps where need be. Up: one step at a time, only where the next one is
//! predicted to need no more than 70 % of the allowance, and after a pause that doubles each time it did not last.

mod account;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
    time::{Duration, Instant},
};

use parkranger_common::counts::ProcessId;

pub use account::{Account, Hits, Reading};

use crate::{host::FileId, kernel::HitCosts, ledger::Seen};

/// Amount that is recorded of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fidelity {
    /// No probes: live goroutines from censuses alone.
    Census,
    /// The same, and births, exits and parks in short slices, scaled up.
    Sparse,
    /// Births and exits.
    Lifecycle,
    /// Births and exits, and parks in short slices, scaled up.
    Sampled,
    /// Births, exits and every park.
    Full,
    /// The same, and how long goroutines wait and live: only where the user asks for it.
    Story,
}

impl Fidelity {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Census => "census",
            Self::Sparse => "sparse",
            Self::Lifecycle => "lifecycle",
            Self::Sampled => "sampled",
            Self::Full => "full",
            Self::Story => "story",
        }
    }

    /// True where something is counted in slices of time.
    #[must_use]
    pub const fn is_sampled(self) -> bool {
        matches!(self, Self::Sparse | Self::Sampled)
    }
}

impl fmt::Display for Fidelity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Budget of a process: a share of the CPU time that a process would use unwatched, and never less than the floor, so that
/// services under light load are counted in full.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    share: f64,
    /// As a share of one core.
    floor: f64,
}

impl Budget {
    /// One per cent of the process's CPU time, and half a per cent of one core at least: some 5,000 events per second.
    pub const DEFAULT: Self = Self { share: 0.01, floor: Self::FLOOR };
    /// For processes that someone named and looks at for a while: five per cent, and two of one core at least.
    pub const NAMED: Self = Self { share: 0.05, floor: 0.02 };
    /// The usual floor, as a share of one core.
    const FLOOR: f64 = 0.005;

    /// As a share of the process's CPU time.
    #[must_use]
    pub fn share(self) -> f64 {
        self.share
    }

    /// Part that may be spent whatever the process uses, as a share of one core.
    #[must_use]
    pub fn floor(self) -> f64 {
        self.floor
    }

    /// The same budget with another floor.
    #[must_use]
    pub fn with_floor(self, floor: f64) -> Self {
        Self { floor, ..self }
    }

    /// ns per second that may be spent on a process that uses `own_ns` per second by itself.
    fn allowance(self, own_ns: f64) -> f64 {
        (self.share * own_ns).max(self.floor * 1e9)
    }
}

impl FromStr for Budget {
    type Err = String;

    /// "1", "0.5%".
    fn from_str(text: &str) -> Result<Self, String> {
        let percent: f64 = text.strip_suffix('%').unwrap_or(text).trim().parse().map_err(|_| "not a number")?;
        if percent > 0.0 && percent <= 100.0 {
            Ok(Self { share: percent / 100.0, ..Self::DEFAULT })
        } else {
            Err("more than 0, at most 100".to_owned())
        }
    }
}

/// A process counts as using at least so much of one CPU: what an idle one costs is nothing to anybody.
const LEAST_CPU: f64 = 0.01;
/// Length of a slice in which events are sampled.
pub const SLICE: Duration = Duration::from_millis(20);
/// The rarest and the most frequent slices: beyond them it is not worth it, and attaching costs more than counting.
const RAREST: Duration = Duration::from_secs(30);
const MOST_FREQUENT: Duration = Duration::from_millis(250);
/// Part of what is left of the allowance that samples are to need: events come in bursts.
const SLICED_PART: f64 = 0.5;
/// Part of the allowance that the next step up may be predicted to need.
const UP_PART: f64 = 0.7;
/// Time from a step to the next one up, at least; doubled up to the limit when a step up did not last so long.
const HOLD: Duration = Duration::from_secs(5);
const LONGEST_HOLD: Duration = Duration::from_secs(300);
/// Part of the allowance that pays back what was spent beyond it, a step up that did not last above all, before the next.
const PAY_PART: f64 = 0.3;
/// A step up that lasts less has failed.
const LASTING: Duration = Duration::from_secs(10);

/// A binary goes to another fidelity.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// All of its processes.
    pub binary: FileId,
    /// Fidelity before.
    pub from: Fidelity,
    /// Fidelity from now on.
    pub to: Fidelity,
    /// Process that decided it; `None` for the user.
    pub because_of: Option<ProcessId>,
    /// Cost of watching that process when it was decided, as a share of its CPU time.
    pub cost: f64,
}

/// Fidelity of a binary's processes.
#[derive(Clone, Copy, Debug)]
struct Level {
    fidelity: Fidelity,
    /// Share of the time that slices are open, if there are some.
    share: f64,
    /// Time and direction of the last step; a new one came up from nothing.
    since: Instant,
    up: bool,
    hold: Duration,
    steps: u64,
    /// Chosen by the user.
    pinned: bool,
}

/// Fidelity of a process, and what that costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FidelityReport {
    /// Present fidelity.
    pub fidelity: Fidelity,
    /// Cost of that for the process, as a share of its CPU time, over the last seconds; `None` before it is known.
    pub cost: Option<f64>,
    /// Predicted cost of counting everything, in the same way; `None` before events were seen.
    pub cost_of_all: Option<f64>,
    /// Number of times that the fidelity of its binary changed.
    pub steps: u64,
}

/// All accounts and levels.
#[derive(Debug)]
pub struct Governor {
    budget: Option<Budget>,
    costs: HitCosts,
    may_sample: bool,
    first: Fidelity,
    levels: BTreeMap<FileId, Level>,
    accounts: BTreeMap<ProcessId, Account>,
}

impl Governor {
    /// `budget`: `None` to record everything whatever it costs. `first`: what is recorded of everything at first, and for
    /// good where that is less than full. `may_sample`: whether attaching for a short time is cheap here.
    #[must_use]
    pub fn new(budget: Option<Budget>, first: Fidelity, may_sample: bool) -> Self {
        let first = match first {
            Fidelity::Sampled if !may_sample => Fidelity::Lifecycle,
            Fidelity::Sparse if !may_sample => Fidelity::Census,
            other => other,
        };
        let (levels, accounts) = (BTreeMap::new(), BTreeMap::new());
        Self { budget, costs: HitCosts::default(), may_sample, first, levels, accounts }
    }

    /// The budget.
    #[must_use]
    pub fn budget(&self) -> Option<Budget> {
        self.budget
    }

    /// Changes it.
    pub fn set_budget(&mut self, budget: Option<Budget>) {
        self.budget = budget;
    }

    /// Takes the measured cost of one hit.
    pub fn calibrated(&mut self, costs: HitCosts) {
        self.costs = costs;
    }

    /// Cost of one hit.
    #[must_use]
    pub fn costs(&self) -> HitCosts {
        self.costs
    }

    /// Fidelity of a binary.
    #[must_use]
    pub fn fidelity(&self, binary: FileId) -> Fidelity {
        self.levels.get(&binary).map_or(self.first, |level| level.fidelity)
    }

    /// Time from one slice to the next, if the binary has some.
    #[must_use]
    pub fn slice_every(&self, binary: FileId) -> Option<Duration> {
        let level = self.levels.get(&binary).filter(|level| level.fidelity.is_sampled())?;
        Some(SLICE.div_f64(level.share.max(least_share())).clamp(MOST_FREQUENT, RAREST))
    }

    /// True where a step up, or a new binary, is so fresh that its cost should be looked at soon.
    #[must_use]
    pub fn is_on_trial(&self, now: Instant) -> bool {
        const TRIAL: Duration = Duration::from_millis(300);
        self.levels.values().any(|level| level.up && now.saturating_duration_since(level.since) < TRIAL)
    }

    /// True where some binary may be due for a step up: then idle processes matter, too.
    #[must_use]
    pub fn may_rise(&self) -> bool {
        self.levels.values().any(|level| level.fidelity < self.first && !level.pinned)
    }

    /// Fidelity of a process, and its cost.
    #[must_use]
    pub fn report(&self, process: ProcessId, binary: FileId) -> FidelityReport {
        FidelityReport {
            fidelity: self.fidelity(binary),
            cost: self.accounts.get(&process).and_then(Account::cost),
            cost_of_all: self.accounts.get(&process).and_then(|account| account.cost_of_all(self.costs)),
            steps: self.levels.get(&binary).map_or(0, |level| level.steps),
        }
    }

    /// Forgets a process.
    pub fn forget(&mut self, process: ProcessId) {
        self.accounts.remove(&process);
    }

    /// Forgets a binary that no process runs any more.
    pub fn forget_binary(&mut self, binary: FileId) {
        self.levels.remove(&binary);
    }

    /// Fidelity the user has chosen for a binary; `None` where the budget decides.
    pub fn pinned(&mut self, binary: FileId, now: Instant) -> Option<Fidelity> {
        let level = self.level(binary, now);
        level.pinned.then_some(level.fidelity)
    }

    /// Has `binary` recorded as the user says, or (`None`) as the budget allows from now on: a story is for the user alone.
    pub fn pin(&mut self, binary: FileId, fidelity: Option<Fidelity>, now: Instant) -> Option<Step> {
        let level = self.level(binary, now);
        level.pinned = fidelity.is_some();
        let from = level.fidelity;
        let to = fidelity.or((from == Fidelity::Story).then_some(Fidelity::Full))?;
        if to.is_sampled() && !self.may_sample {
            return None;
        }
        self.go(binary, to, most_share(), now).then_some(Step { binary, from, to, because_of: None, cost: 0.0 })
    }

    /// Takes what a slice saw of a process.
    pub fn sampled(&mut self, process: ProcessId, binary: FileId, seen: &Seen) {
        let fidelity = self.fidelity(binary);
        if let Some(account) = self.accounts.get_mut(&process) {
            account.sampled(seen, fidelity);
        }
    }

    /// Takes readings and decides. What is returned has to be done.
    pub fn observe(&mut self, readings: &[Reading], now: Instant) -> Vec<Step> {
        let mut binaries: BTreeMap<FileId, Vec<ProcessId>> = BTreeMap::new();
        for reading in readings {
            let level = (self.fidelity(reading.binary), self.slice_every(reading.binary));
            let account = self.accounts.entry(reading.process).or_default();
            account.take(reading, level, self.costs, self.budget.unwrap_or(Budget::DEFAULT), now);
            binaries.entry(reading.binary).or_default().push(reading.process);
        }
        if self.budget.is_none() {
            return Vec::new();
        }
        binaries.into_iter().filter_map(|(binary, processes)| self.decide(binary, &processes, now)).collect()
    }

    fn decide(&mut self, binary: FileId, processes: &[ProcessId], now: Instant) -> Option<Step> {
        let level = *self.level(binary, now);
        let from = level.fidelity;
        if level.pinned {
            return None;
        }
        let accounts = processes.iter().filter_map(|id| Some((*id, self.accounts.get(id)?)));
        let over = accounts.clone().filter(|(_, account)| account.is_over());
        let worst = over.map(|(id, account)| (self.fits(account, &level), id)).min_by(|a, b| {
            let ((a, a_share), (b, b_share)) = (a.0, b.0);
            a.cmp(&b).then(a_share.total_cmp(&b_share))
        });
        if let Some(((to, share), id)) = worst {
            let account = self.accounts.get(&id);
            let cost = account.and_then(Account::cost_of_the_last).unwrap_or_default();
            let pay = account.map_or(Duration::ZERO, |account| account.time_to_pay(PAY_PART));
            for id in processes {
                if let Some(account) = self.accounts.get_mut(id) {
                    account.renew_credit();
                }
            }
            let stepped = self.go(binary, to, share, now);
            let level = self.level(binary, now);
            level.hold = level.hold.max(pay).min(LONGEST_HOLD);
            return stepped.then_some(Step { binary, from, to, because_of: Some(id), cost });
        }
        if level.fidelity.is_sampled() {
            let shares = accounts.clone().map(|(_, account)| match level.fidelity {
                Fidelity::Sparse => account.share_of_all(self.costs, SLICED_PART),
                _ => account.share(self.costs, SLICED_PART),
            });
            let share = shares.fold(most_share(), f64::min).clamp(least_share(), most_share());
            self.level(binary, now).share = share;
        }
        let next = match level.fidelity {
            Fidelity::Full | Fidelity::Story => return None,
            // What went up and lasts may go on up.
            _ if now.saturating_duration_since(level.since) < if level.up { HOLD } else { level.hold } => return None,
            _ if level.fidelity >= self.first => return None,
            Fidelity::Sampled => Fidelity::Full,
            Fidelity::Sparse | Fidelity::Lifecycle if self.may_sample => Fidelity::Sampled,
            Fidelity::Sparse | Fidelity::Lifecycle => Fidelity::Full,
            Fidelity::Census if self.may_sample => Fidelity::Sparse,
            Fidelity::Census => Fidelity::Lifecycle,
        };
        let accounts = processes.iter().filter_map(|id| Some((*id, self.accounts.get(id)?)));
        if !accounts.clone().all(|(_, account)| account.may_rise(level.fidelity, self.costs, UP_PART)) {
            return None;
        }
        let dearest = accounts.max_by(|a, b| a.1.cost().unwrap_or(0.0).total_cmp(&b.1.cost().unwrap_or(0.0)));
        let (because_of, cost) =
            dearest.map_or((None, 0.0), |(id, account)| (Some(id), account.cost().unwrap_or_default()));
        self.go(binary, next, least_share(), now);
        Some(Step { binary, from, to: next, because_of, cost })
    }

    /// The most that a process's rates allow that is less than now, with the share of the time to open slices in.
    fn fits(&self, account: &Account, level: &Level) -> (Fidelity, f64) {
        let rarest = level.share <= least_share();
        // While everything is counted it is not known well what a slice would cost: the rarest are tried before none.
        let at_most = |share: f64, most: f64| share.min(most).max(least_share());
        if level.fidelity >= Fidelity::Lifecycle && account.affords_lifecycle(self.costs) {
            let share = account.share(self.costs, SLICED_PART);
            return match level.fidelity {
                // Probes of parks that are on their way out, which takes some kernels a second, are hit until then.
                Fidelity::Lifecycle => (Fidelity::Lifecycle, 0.0),
                Fidelity::Sampled if rarest => (Fidelity::Lifecycle, 0.0),
                Fidelity::Sampled => (Fidelity::Sampled, at_most(share, level.share / 2.0)),
                _ if self.may_sample => (Fidelity::Sampled, at_most(share, most_share())),
                _ => (Fidelity::Lifecycle, 0.0),
            };
        }
        let share = account.share_of_all(self.costs, SLICED_PART);
        match level.fidelity {
            Fidelity::Sparse if !rarest => (Fidelity::Sparse, at_most(share, level.share / 2.0)),
            Fidelity::Sparse | Fidelity::Census => (Fidelity::Census, 0.0),
            _ if self.may_sample => (Fidelity::Sparse, at_most(share, most_share())),
            _ => (Fidelity::Census, 0.0),
        }
    }

    fn level(&mut self, binary: FileId, now: Instant) -> &mut Level {
        let pinned = self.first != Fidelity::Full;
        let first =
            Level { fidelity: self.first, share: most_share(), since: now, up: true, hold: HOLD, steps: 0, pinned };
        self.levels.entry(binary).or_insert(first)
    }

    /// Sets a level. Whether that changes the fidelity.
    fn go(&mut self, binary: FileId, to: Fidelity, share: f64, now: Instant) -> bool {
        let level = self.level(binary, now);
        level.share = share;
        if level.fidelity == to {
            return false;
        }
        let up = to > level.fidelity;
        let lasted = now.saturating_duration_since(level.since);
        if !up {
            level.hold = if level.up && lasted < LASTING { (level.hold * 2).min(LONGEST_HOLD) } else { HOLD };
        }
        level.fidelity = to;
        level.since = now;
        level.up = up;
        level.steps += 1;
        let known: BTreeSet<ProcessId> =
            self.accounts.iter().filter(|(_, account)| account.is_of(binary)).map(|(id, _)| *id).collect();
        for id in known {
            if let Some(account) = self.accounts.get_mut(&id) {
                account.stepped(to);
            }
        }
        true
    }
}

/// The smallest share of the time that is worth sampling.
fn least_share() -> f64 {
    SLICE.as_secs_f64() / RAREST.as_secs_f64()
}

/// The largest one.
fn most_share() -> f64 {
    SLICE.as_secs_f64() / MOST_FREQUENT.as_secs_f64()
}
