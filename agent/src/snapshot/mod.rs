//! One moment of what is watched, with names instead of addresses: plain data that every view and export is made from.

pub(crate) mod by_binary;
mod context;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use parkranger_common::{
    counts::ProcessId,
    story::{Histogram, Spent},
};

use crate::{
    address::RuntimeAddr,
    governor::{Budget, FidelityReport},
    ledger::{Audits, Missing, Site},
    symbols::Frame,
};
pub use by_binary::{BinarySnapshot, ByBinary};
pub use context::{Contexts, ProcessContext};

/// Everything watched at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When.
    pub time: SystemTime,
    /// By pid. One that ended is the same in all snapshots that show it.
    pub processes: Vec<Arc<ProcessSnapshot>>,
    /// Sums over the processes of each executable, by its path, since the agent began.
    pub binaries: BTreeMap<String, BinarySnapshot>,
    /// Go processes of the target that cannot be watched.
    pub refused: usize,
    /// Processes that could not be looked at, so that nobody knows whether they are Go: by reason, how many.
    pub not_looked_at: BTreeMap<String, u64>,
    /// Losses that belong to no process, by name; only those that are not 0.
    pub losses: BTreeMap<&'static str, u64>,
    /// Limit of what watching costs a process; `None` for no limit.
    pub budget: Option<Budget>,
}

/// One process.
#[derive(Clone, Debug)]
pub struct ProcessSnapshot {
    /// Which run of which pid.
    pub id: ProcessId,
    /// Its pid.
    pub pid: u32,
    /// Clock ticks since boot, as in /proc/PID/stat.
    pub start_time: u64,
    /// The executable's path as the process sees it.
    pub exe: String,
    /// The shared object with the Go runtime, where that is not the executable.
    pub library: Option<String>,
    /// "go1.27.3".
    pub go_version: String,
    /// Source of the offsets of the runtime's structs. Memory has agreed with them.
    pub layout: String,
    /// They are those of an older Go than the process's.
    pub layout_is_older: bool,
    /// Fidelity now, its cost, and the number of changes so far.
    pub governed: FidelityReport,
    /// Events that were not recorded since the attach.
    pub missing: Missing,
    /// True where `live` has every goroutine, also those older than the attach.
    pub baseline: bool,
    /// Results of the comparisons of ledger and census.
    pub audits: Audits,
    /// True where births, exits and live goroutines of the process are exact although not all were counted: by the runtime's
    /// own counts.
    pub totals_are_exact: bool,
    /// Age of the census that the live goroutines are split up by site after; `None` where they are counted.
    pub split_age: Option<Duration>,
    /// Births that the runtime counted and the probes did not. 0, but for those between two readings.
    pub births_unseen: i64,
    /// Age of the census that says what goroutines do now; `None` before the first, and once it has ended.
    pub doing_age: Option<Duration>,
    /// It has ended; the counts are final.
    pub ended: bool,
    /// One of many of its executable that come and go, and not old: the sum of its executable stands for it where there is no
    /// room for all.
    pub brief: bool,
    /// It is stopped, by a signal or a debugger: nothing in it runs.
    pub stopped: bool,
    /// Births since attach.
    pub births: u64,
    /// Exits since attach.
    pub exits: u64,
    /// Parks since attach.
    pub parks: u64,
    /// Live goroutines as `runtime.NumGoroutine()` counts them.
    pub user: i64,
    /// True once `user` is known: before, it lacks what is older than the attach.
    pub user_is_known: bool,
    /// Live goroutines of the runtime itself.
    pub system: i64,
    /// Parks of all sites by wait reason.
    pub waits: BTreeMap<String, u64>,
    /// Losses by name, also those that are 0.
    pub losses: BTreeMap<&'static str, u64>,
    /// The sites.
    pub sites: Vec<SiteSnapshot>,
    /// Memory of its goroutines' stacks at the last census; `None` before the first, and once it has ended.
    pub stack_bytes: Option<u64>,
    /// Waits and lifetimes of its goroutines; `None` where its story was never told.
    pub story: Option<Box<StorySnapshot>>,
}

/// The story of a process so far.
#[derive(Clone, Debug, Default)]
pub struct StorySnapshot {
    /// For how long it was told, and when it ends.
    pub telling: Telling,
    /// Waits by the name of their reason.
    pub waits: BTreeMap<String, Histogram>,
    /// Lifetimes.
    pub lifetimes: Histogram,
}

impl ProcessSnapshot {
    /// All live goroutines.
    #[must_use]
    pub fn live(&self) -> i64 {
        self.user + self.system
    }
}

/// One site, split by start function.
#[derive(Clone, Debug)]
pub struct SiteSnapshot {
    /// The site. Those of one snapshot are in this order.
    pub id: Site,
    /// The function with the `go` statement.
    pub function: String,
    /// Its file.
    pub file: String,
    /// The line of the `go` statement; 0 where it is not known.
    pub line: u32,
    /// The function the goroutine starts with.
    pub start_function: String,
    /// The runtime's own.
    pub system: bool,
    /// Goroutines created since attach.
    pub births: u64,
    /// Goroutines ended since attach.
    pub exits: u64,
    /// Goroutines there are.
    pub live: i64,
    /// Parks since attach.
    pub parks: u64,
    /// Parks by wait reason.
    pub waits: BTreeMap<String, u64>,
    /// States of its goroutines at the last census: wait reasons, or the runtime's word for another state.
    pub doing: BTreeMap<String, u64>,
    /// Longest time that one of them had waited then; `None` where the runtime does not tell.
    pub waited_longest: Option<Duration>,
    /// Time that half of them had waited then, at least; `None` where the runtime does not tell.
    pub waited_median: Option<Duration>,
    /// Callers of the `go` statement's function when the site was first seen, innermost first. Others may have called it
    /// since.
    pub creation_stack: Vec<Frame>,
    /// Births, exits and live goroutines by who called the `go` statement's function, most live ones first: of those born since
    /// callers are told apart. Empty where they are not.
    pub callers: Vec<CallerSnapshot>,
    /// Memory of its goroutines' stacks at the last census; `None` before the first.
    pub stack_bytes: Option<u64>,
    /// Waits of its goroutines in the process's story, by reason.
    pub waited: BTreeMap<String, Spent>,
    /// Lifetimes of those that ended in it.
    pub lived: Spent,
}

/// Goroutines of a site that one caller had made.
#[derive(Clone, Debug)]
pub struct CallerSnapshot {
    /// Return address in the caller; 0 where there is none.
    pub address: RuntimeAddr,
    /// Caller of the function with the `go` statement, with what was inlined there, innermost first. Empty where nobody did, as
    /// for a timer's goroutine, or it is not known.
    pub frames: Vec<Frame>,
    /// Goroutines created.
    pub births: u64,
    /// Those of them that ended.
    pub exits: u64,
}

impl CallerSnapshot {
    /// Those that are there.
    #[must_use]
    pub fn live(&self) -> u64 {
        self.births.saturating_sub(self.exits)
    }
}

impl SiteSnapshot {
    /// The frames that every goroutine of the site was made in: the `go` statement's function, and those it was inlined into.
    #[must_use]
    pub fn own_frames(&self) -> &[Frame] {
        let physical = self.creation_stack.iter().position(|frame| !frame.inlined);
        self.creation_stack.get(..physical.map_or(0, |at| at + 1)).unwrap_or_default()
    }

    /// Births, exits and live goroutines that no caller is known of: from before callers were told apart.
    #[must_use]
    pub fn without_caller(&self) -> (u64, u64, i64) {
        let of = |count: fn(&CallerSnapshot) -> u64| self.callers.iter().map(count).sum::<u64>();
        (
            self.births.saturating_sub(of(|caller| caller.births)),
            self.exits.saturating_sub(of(|caller| caller.exits)),
            self.live.saturating_sub_unsigned(of(CallerSnapshot::live)),
        )
    }
}

/// Name of the row of events whose site could not be found.
pub const UNATTRIBUTED: &str = "(unattributed)";

/// The site of goroutines that C threads get when they call Go: no `go` statement made them.
pub const C_THREAD: &str = "C thread";

/// State of a story.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Telling {
    /// Time for which it was told.
    pub told: Duration,
    /// When it ends; `None` where it has ended, or does not end by itself.
    pub ends_in: Option<Duration>,
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::governor::Fidelity;

    /// A process with these sites: number, live goroutines, births. Numbers 1000 apart are `go` statements of one name, as
    /// one that was inlined into two functions.
    pub(crate) fn process(sites: &[(u64, i64, u64)]) -> ProcessSnapshot {
        let site = |&(number, live, births): &(u64, i64, u64)| SiteSnapshot {
            id: Site { gopc: RuntimeAddr(number), startpc: RuntimeAddr(1) },
            function: format!("main.f{}", number % 1000),
            file: "/main.go".to_owned(),
            line: 7,
            start_function: "main.g".to_owned(),
            system: false,
            births,
            exits: births.saturating_sub(live.unsigned_abs()),
            live,
            parks: 0,
            waits: BTreeMap::new(),
            doing: BTreeMap::new(),
            waited_longest: None,
            waited_median: None,
            creation_stack: Vec::new(),
            callers: Vec::new(),
            stack_bytes: None,
            waited: BTreeMap::new(),
            lived: Spent::default(),
        };
        ProcessSnapshot {
            id: ProcessId::new(7, 1),
            pid: 7,
            start_time: 1,
            exe: "/x".to_owned(),
            library: None,
            go_version: "go1.27.3".to_owned(),
            layout: String::new(),
            layout_is_older: false,
            baseline: true,
            audits: Audits::default(),
            totals_are_exact: false,
            split_age: None,
            births_unseen: 0,
            doing_age: None,
            user_is_known: true,
            governed: FidelityReport { fidelity: Fidelity::Full, cost: None, cost_of_all: None, steps: 0 },
            missing: Missing::default(),
            ended: false,
            stopped: false,
            brief: false,
            births: sites.iter().map(|site| site.2).sum(),
            exits: 0,
            parks: 0,
            user: sites.iter().map(|site| site.1).sum(),
            system: 0,
            waits: BTreeMap::new(),
            losses: BTreeMap::new(),
            sites: sites.iter().map(site).collect(),
            stack_bytes: None,
            story: None,
        }
    }
}
