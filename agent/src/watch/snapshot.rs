//! One moment of the watch with names instead of addresses: what every view and export is made from.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Instant, SystemTime},
};

use parkranger_common::{
    counts::ProcessId,
    loss::{HostLoss, ProcessLoss},
    story::Spent,
};

use super::{
    CreationStacks, Watch, Watchable, callers::ByCaller, fidelity::FidelityControl, shared::Watched, waiting::Doing,
};
use crate::{
    address::RuntimeAddr,
    host::{Identity, Proc, ticks_since_boot},
    ledger::{Ledger, ProcessLedger, Site, Tally},
    printable,
    program::binaries::SiteNames,
    runtime::{LayoutSource, is_system_goroutine},
    snapshot::{
        ByBinary, C_THREAD, CallerSnapshot, ProcessSnapshot, SiteSnapshot, Snapshot, StorySnapshot, Telling,
        UNATTRIBUTED,
    },
    symbols::Frame,
};

/// `runtime.main` is the first goroutine of every process: whoever saw its birth saw all births.
const FIRST_GOROUTINE: &str = "runtime.main";

/// Inputs of a snapshot.
pub(super) struct Sources<'a> {
    pub(super) ledger: &'a Ledger,
    pub(super) fidelity: &'a FidelityControl,
    pub(super) creation_stacks: &'a CreationStacks,
    pub(super) by_caller: &'a HashMap<ProcessId, ByCaller>,
    pub(super) now: Instant,
    pub(super) proc: &'a Proc,
    /// Sums by executable; `None` where every process has been named, and is shown.
    pub(super) sums: Option<&'a ByBinary>,
}

impl Watch {
    pub(super) fn take_snapshot(&mut self, host_losses: &[u64; HostLoss::COUNT]) -> Snapshot {
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
        let open = self.shared.processes.iter().filter(|(_, process)| process.last.is_none()).map(|(id, _)| *id);
        let open: BTreeSet<ProcessId> = open.collect();
        let open = processes.iter().filter(|process| open.contains(&process.id)).map(|process| &**process);
        let binaries = self.sums.sums(open);
        let not_looked_at = self.shared.host.not_looked_at();
        Snapshot { time: SystemTime::now(), processes, binaries, refused, not_looked_at, losses, budget: self.budget() }
    }

    fn sources(&self) -> Sources<'_> {
        Sources {
            ledger: &self.shared.ledger,
            fidelity: &self.fidelity,
            creation_stacks: &self.creation_stacks,
            by_caller: &self.by_caller,
            now: Instant::now(),
            proc: &self.shared.host.proc,
            sums: self.may_be_brief().then_some(&self.sums),
        }
    }
}

impl Sources<'_> {
    /// True for one of many that come and go, while nobody knows that it will stay.
    fn is_brief(&self, process: &Watched) -> bool {
        let comes_and_goes = self.sums.is_some_and(|sums| sums.comes_and_goes(&printable::path(&process.exe)));
        comes_and_goes && has_lived_short(process.identity)
    }

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
        sites.extend(unattributed_row(ledger));
        for ((of, caller), made) in self.by_caller.get(&id).into_iter().flatten() {
            let Some(site) = sites.iter_mut().find(|site| site.id == *of) else { continue };
            let frames = if caller.0 == 0 { Vec::new() } else { binary.frames(process.bias.to_virt(*caller)) };
            site.callers.push(CallerSnapshot { address: *caller, frames, births: made.births, exits: made.exits });
        }
        for site in &mut sites {
            site.callers.sort_by_key(|caller| std::cmp::Reverse((caller.live(), caller.births)));
            site.stack_bytes = process.stacks.as_ref().map(|stacks| stacks.of_site(site.id));
            if let Some(state) = process.states.as_ref().and_then(|states| states.sites.get(&site.id)) {
                for (doing, count) in &state.doing {
                    *site.doing.entry(doing_name(*doing, binary)).or_default() += count;
                }
                (site.waited_longest, site.waited_median) = (state.oldest, state.median);
            }
        }
        let baseline = ledger.baseline || ledger.missing.has_all_lives() && sites.iter().any(is_first_goroutine);
        let age = |at: Instant| self.now.saturating_duration_since(at);
        let live_of = |system: bool| sites.iter().filter(|site| site.system == system).map(|site| site.live).sum();
        ProcessSnapshot {
            id,
            pid: process.identity.pid,
            start_time: process.identity.start_time,
            exe: printable::path(&process.exe),
            library: process.library.clone(),
            go_version: binary.go.binary.go_version().to_string(),
            layout: binary.go.layout.source.to_string(),
            layout_is_older: matches!(binary.go.layout.source, LayoutSource::NewestKnown { .. }),
            baseline,
            audits: ledger.audits,
            governed: self.fidelity.report(id, process),
            missing: ledger.missing,
            ended: process.has_ended(),
            brief: self.is_brief(process),
            stopped: !process.has_ended() && self.proc.is_stopped(process.identity.pid),
            births,
            exits,
            parks,
            // The runtime's own count is known before any site's.
            user: match ledger.users {
                Some(users) if !baseline => users.cast_signed(),
                _ => live_of(false),
            },
            user_is_known: baseline || ledger.users.is_some(),
            totals_are_exact: ledger.totals_are_exact,
            split_age: ledger.split_at.map(age),
            births_unseen: ledger.births_unseen,
            doing_age: process.states.as_ref().map(|states| age(states.at)),
            system: live_of(true),
            waits: waits(ledger, binary),
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
                .map(|telling| Box::new(story_snapshot(telling, ledger, binary))),
        }
    }
}

/// True for a process that began not long ago.
pub(super) fn has_lived_short(identity: Identity) -> bool {
    /// In clock ticks: ten seconds.
    const SHORT_LIFE: u64 = 1000;
    ticks_since_boot(0).saturating_sub(identity.start_time) < SHORT_LIFE
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
        doing: BTreeMap::new(),
        waited_longest: None,
        waited_median: None,
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

fn doing_name(doing: Doing, binary: &Watchable) -> String {
    match doing {
        Doing::Waits(reason) => reason_name(reason, binary),
        Doing::Other(status) => status.name().to_owned(),
    }
}

fn reason_name(reason: u8, binary: &Watchable) -> String {
    binary.go.wait_reasons.name(reason).map_or_else(|| format!("reason {reason}"), str::to_owned)
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
        doing: BTreeMap::new(),
        waited_longest: None,
        waited_median: None,
        creation_stack: Vec::new(),
        callers: Vec::new(),
        stack_bytes: None,
        waited: BTreeMap::new(),
        lived: Spent::default(),
    })
}
