//! One moment of the watch with names instead of addresses: what every view and export is made from.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Instant, SystemTime},
};

use parkranger_common::{
    counts::ProcessId,
    loss::{HostLoss, ProcessLoss},
    story::{Histogram, Spent},
};

use super::{
    CreationStacks, Watch, Watchable, binaries::SiteNames, callers::ByCaller, fidelity::FidelityControl,
    shared::Watched, stories::Telling,
};
use crate::{
    address::RuntimeAddr,
    governor::{Budget, FidelityReport},
    ledger::{Audits, Ledger, Missing, ProcessLedger, Site, Tally},
    runtime::{LayoutSource, is_system_goroutine},
    symbols::Frame,
};

/// Everything watched at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When.
    pub time: SystemTime,
    /// By pid. One that ended is the same in all snapshots that show it.
    pub processes: Vec<Arc<ProcessSnapshot>>,
    /// Go processes of the target that cannot be watched.
    pub refused: usize,
    /// Losses that belong to no process, by name; only those that are not 0.
    pub losses: BTreeMap<&'static str, u64>,
    /// What watching may cost a process; `None` for whatever it does.
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
    /// Where the offsets of the runtime's structs come from. Memory has agreed with them.
    pub layout: String,
    /// They are those of an older Go than the process's.
    pub layout_is_older: bool,
    /// What is recorded of it now, what that costs it, and how often that changed.
    pub governed: FidelityReport,
    /// What was not recorded since the attach.
    pub missing: Missing,
    /// Whether `live` has every goroutine, also those older than the attach.
    pub baseline: bool,
    /// What windows found: how often ledger and census were compared, and by how much they differed.
    pub audits: Audits,
    /// It has ended; the counts are final.
    pub ended: bool,
    /// Births since attach.
    pub births: u64,
    /// Exits since attach.
    pub exits: u64,
    /// Parks since attach.
    pub parks: u64,
    /// Live goroutines as `runtime.NumGoroutine()` counts them.
    pub user: i64,
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
    /// How long its goroutines wait and live; `None` where its story was never told.
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
    /// Who called the `go` statement's function when the site was first seen, innermost first. Others may have called it
    /// since.
    pub creation_stack: Vec<Frame>,
    /// Births, exits and live goroutines by who called the `go` statement's function, most live ones first: of those born since
    /// callers are told apart. Empty where they are not.
    pub callers: Vec<CallerSnapshot>,
    /// Memory of its goroutines' stacks at the last census; `None` before the first.
    pub stack_bytes: Option<u64>,
    /// How long its goroutines waited in the process's story, by reason.
    pub waited: BTreeMap<String, Spent>,
    /// How long those lived that ended in it.
    pub lived: Spent,
}

/// Goroutines of a site that one caller had made.
#[derive(Clone, Debug)]
pub struct CallerSnapshot {
    /// Return address in the caller; 0 where there is none.
    pub address: RuntimeAddr,
    /// Who called the function with the `go` statement, with what was inlined there, innermost first. Empty where nobody did, as
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

/// What a row is called whose site could not be found.
pub const UNATTRIBUTED: &str = "(unattributed)";

/// The site of goroutines that C threads get when they call Go: no `go` statement made them.
pub const C_THREAD: &str = "C thread";

/// `runtime.main` is the first goroutine of every process: whoever saw its birth saw all births.
const FIRST_GOROUTINE: &str = "runtime.main";

/// What snapshots are made of.
pub(super) struct Sources<'a> {
    pub(super) ledger: &'a Ledger,
    pub(super) fidelity: &'a FidelityControl,
    pub(super) creation_stacks: &'a CreationStacks,
    pub(super) by_caller: &'a HashMap<ProcessId, ByCaller>,
    pub(super) now: Instant,
}

impl Watch {
    pub(super) fn take_snapshot(&self, host_losses: &[u64; HostLoss::COUNT]) -> Snapshot {
        let sources = self.sources();
        let snapshot = |(id, process): (&ProcessId, &Watched)| {
            let made = || Some(Arc::new(sources.process(*id, process, &*self.shared.host.binaries.get(process.file)?)));
            process.last.clone().or_else(made)
        };
        let mut processes: Vec<Arc<ProcessSnapshot>> = self.shared.processes.iter().filter_map(snapshot).collect();
        processes.sort_by_key(|process| (process.pid, process.start_time, process.id));
        let losses = HostLoss::ALL
            .iter()
            .map(|loss| (loss.name(), host_losses[*loss as usize]))
            .filter(|(_, count)| *count > 0)
            .collect();
        let refused = self.refused().count();
        Snapshot { time: SystemTime::now(), processes, refused, losses, budget: self.budget() }
    }

    fn sources(&self) -> Sources<'_> {
        Sources {
            ledger: &self.shared.ledger,
            fidelity: &self.fidelity,
            creation_stacks: &self.creation_stacks,
            by_caller: &self.by_caller,
            now: Instant::now(),
        }
    }
}

impl Sources<'_> {
    pub(super) fn process(&self, id: ProcessId, process: &Watched, binary: &Watchable) -> ProcessSnapshot {
        let ledger = self.ledger.process(id);
        let (births, exits, parks) = ledger.totals();
        let mut sites: Vec<SiteSnapshot> = ledger
            .sites
            .iter()
            .map(|(site, tally)| {
                let names =
                    binary.site_names(process.bias.to_virt(site.gopc), process.bias.to_virt_or_zero(site.startpc));
                let stack = self
                    .creation_stacks
                    .get(&(id, site.gopc))
                    .into_iter()
                    .flatten()
                    .flat_map(|address| binary.frames(process.bias.to_virt(*address)))
                    // The stack begins inside the runtime's own part of the `go` statement and ends in every
                    // goroutine's root.
                    .skip_while(|frame| {
                        matches!(frame.function.as_str(), "runtime.newproc" | "runtime.systemstack_switch")
                    })
                    .filter(|frame| frame.function != "runtime.goexit")
                    .collect();
                site_snapshot(*site, tally, names, stack, binary)
            })
            .collect();
        sites.extend(unattributed_row(&ledger));
        for ((of, caller), made) in self.by_caller.get(&id).into_iter().flatten() {
            let Some(site) = sites.iter_mut().find(|site| site.id == *of) else { continue };
            let frames = if caller.0 == 0 { Vec::new() } else { binary.frames(process.bias.to_virt(*caller)) };
            site.callers.push(CallerSnapshot { address: *caller, frames, births: made.births, exits: made.exits });
        }
        for site in &mut sites {
            site.callers.sort_by_key(|caller| std::cmp::Reverse((caller.live(), caller.births)));
            site.stack_bytes = process.stacks.as_ref().map(|stacks| stacks.of_site(site.id));
        }
        let baseline = ledger.baseline || ledger.missing.has_all_lives() && sites.iter().any(is_first_goroutine);
        let live_of = |system: bool| sites.iter().filter(|site| site.system == system).map(|site| site.live).sum();
        ProcessSnapshot {
            id,
            pid: process.identity.pid,
            start_time: process.identity.start_time,
            exe: process.exe.display().to_string(),
            library: process.library.clone(),
            go_version: binary.understood.binary.go_version().to_string(),
            layout: binary.understood.layout.source.to_string(),
            layout_is_older: matches!(binary.understood.layout.source, LayoutSource::NewestKnown { .. }),
            baseline,
            audits: ledger.audits,
            governed: self.fidelity.report(id, process),
            missing: ledger.missing,
            ended: process.has_ended(),
            births,
            exits,
            parks,
            user: live_of(false),
            system: live_of(true),
            waits: waits(&ledger, binary),
            losses: ProcessLoss::ALL
                .iter()
                .map(|loss| {
                    let counted = ledger.unattributed.losses[*loss as usize];
                    let own = if *loss == ProcessLoss::BreakpointMissing { process.breakpoints_missing } else { 0 };
                    (loss.name(), counted + own)
                })
                .collect(),
            sites,
            stack_bytes: process.stacks.as_ref().map(|stacks| stacks.total),
            story: self
                .fidelity
                .time_boxes
                .telling(process, self.now)
                .map(|telling| Box::new(story_snapshot(telling, &ledger, binary))),
        }
    }
}

fn story_snapshot(telling: Telling, ledger: &ProcessLedger, binary: &Watchable) -> StorySnapshot {
    let mut story = StorySnapshot { telling, ..StorySnapshot::default() };
    if let Some(times) = &ledger.times {
        story.lifetimes = times.lifetimes;
        for (reason, histogram) in &times.waits {
            story.waits.entry(reason_name(*reason, binary)).or_default().add(histogram);
        }
    }
    story
}

fn is_first_goroutine(site: &SiteSnapshot) -> bool {
    site.start_function == FIRST_GOROUTINE && site.births > 0
}

fn site_snapshot(
    site: Site,
    tally: &Tally,
    names: SiteNames,
    creation_stack: Vec<Frame>,
    binary: &Watchable,
) -> SiteSnapshot {
    let created_by = names.created_by.unwrap_or_else(|| {
        let name = if site.is_c_thread() { C_THREAD.to_owned() } else { format!("(unknown {})", site.gopc) };
        Frame::named(name, String::new(), 0, false)
    });
    let start_function = match names.start {
        Some(frame) => frame.function,
        None if site.startpc.0 == 0 => String::new(),
        None => format!("(unknown {})", site.startpc),
    };
    let mut waited: BTreeMap<String, Spent> = BTreeMap::new();
    for (reason, spent) in tally.times.iter().flat_map(|times| &times.waits) {
        waited.entry(reason_name(*reason, binary)).or_default().add(*spent);
    }
    SiteSnapshot {
        id: site,
        system: is_system_goroutine(&start_function),
        function: created_by.function,
        file: created_by.file,
        line: created_by.line,
        start_function,
        births: tally.births,
        exits: tally.exits,
        live: tally.live(),
        parks: tally.parks(),
        waits: named(tally.waits.iter().map(|(reason, parks)| (*reason, *parks)), binary),
        creation_stack,
        callers: Vec::new(),
        stack_bytes: None,
        waited,
        lived: tally.times.as_ref().map_or(Spent::default(), |times| times.lifetimes),
    }
}

/// Parks of all sites by wait reason.
fn waits(ledger: &ProcessLedger, binary: &Watchable) -> BTreeMap<String, u64> {
    let mut parks = [0u64; 1 << u8::BITS];
    for (reason, count) in ledger.sites.values().flat_map(|tally| &tally.waits) {
        parks[usize::from(*reason)] += count;
    }
    named((0..=u8::MAX).zip(parks).filter(|(_, count)| *count > 0), binary)
}

/// Parks with the names of their reasons.
fn named(waits: impl Iterator<Item = (u8, u64)>, binary: &Watchable) -> BTreeMap<String, u64> {
    let mut named = BTreeMap::new();
    for (reason, parks) in waits {
        *named.entry(reason_name(reason, binary)).or_default() += parks;
    }
    named
}

fn reason_name(reason: u8, binary: &Watchable) -> String {
    binary.understood.wait_reasons.name(reason).map_or_else(|| format!("reason {reason}"), str::to_owned)
}

/// Events that found no site still belong to the process's totals, so they have a row.
fn unattributed_row(ledger: &ProcessLedger) -> Option<SiteSnapshot> {
    let lost = &ledger.unattributed;
    (lost.births + lost.exits + lost.parks > 0).then(|| SiteSnapshot {
        // No code is there: it comes after all sites.
        id: Site { gopc: RuntimeAddr(u64::MAX), startpc: RuntimeAddr(u64::MAX) },
        function: UNATTRIBUTED.to_owned(),
        file: String::new(),
        line: 0,
        start_function: String::new(),
        system: false,
        births: lost.births,
        exits: lost.exits,
        live: lost.births.cast_signed().wrapping_sub(lost.exits.cast_signed()),
        parks: lost.parks,
        waits: BTreeMap::new(),
        creation_stack: Vec::new(),
        callers: Vec::new(),
        stack_bytes: None,
        waited: BTreeMap::new(),
        lived: Spent::default(),
    })
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
            governed: FidelityReport { fidelity: Fidelity::Full, cost: None, steps: 0 },
            missing: Missing::default(),
            ended: false,
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
