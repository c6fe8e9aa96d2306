//! Births, exits and live goroutines of a site by caller: who called the function with the `go` statement. A helper that starts goroutines for many (`sync.(*WaitGroup).Go`, errgroup, one's own) has one site for all.
//!
//! Goroutines born while callers are told apart are known by their caller to their end; the others are from before.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use parkranger_common::{
    callers::{CallerKey, Calling, GOID_BATCH},
    counts::{ProcessId, SiteKey},
    probe::ProbeWord,
    window::Window,
};
use tracing::warn;

use super::{
    Watch, WatchError, Watchable, Watched,
    finding::goids,
    shared::{Host, Shared},
};
use crate::{
    address::RuntimeAddr,
    binary::bytes::u64_at,
    host::{FileId, Memory as _, Proc, ProcessMemory, patience},
    kernel::{Attach, Callers, Count},
    ledger::Site,
};

/// Time that a process may keep its memory from being read: it can for ever.
const LIMIT: Duration = Duration::from_millis(100);

/// Births and exits by way of one caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Made {
    pub(super) births: u64,
    pub(super) exits: u64,
}

/// By site and caller.
pub(super) type ByCaller = BTreeMap<(Site, RuntimeAddr), Made>;

/// The kernel side's entry of a process whose callers are told apart.
fn calling(process: ProcessId, word: ProbeWord, goids: &Window) -> Calling {
    let Window { goid, m, p, goidcache, .. } = *goids;
    Calling { process, word: word.0, goid, m, p, goidcache }
}

impl Watchable {
    /// The kernel side's entry of a process of this binary, to tell its callers apart.
    #[must_use]
    pub fn calling(&self, process: ProcessId) -> Calling {
        calling(process, self.set.word, &goids(self))
    }
}

impl<K: Attach + Count, H: Host> Shared<K, H> {
    /// Begins to tell the callers of a binary's processes apart, where that was asked for and births and exits are all counted.
    pub(super) fn begin_callers(&mut self, file: FileId) -> Result<(), WatchError> {
        if !self.tells_callers {
            return Ok(());
        }
        let Some(probes) = self.probes.get_mut(&file) else { return Ok(()) };
        if let Err(why) = probes.place_callers(&mut self.kernel) {
            warn!("{}: callers are not told apart: {why}", probes.name);
            return Ok(());
        }
        let ids: Vec<ProcessId> = self.living(file).collect();
        ids.into_iter().try_for_each(|id| self.join_callers(id))
    }

    /// Begins with a process, if those of its binary are told apart.
    pub(super) fn join_callers(&mut self, id: ProcessId) -> Result<(), WatchError> {
        let Some(process) = self.processes.get(&id).filter(|process| !process.has_ended()) else { return Ok(()) };
        let Some(probes) = self.probes.get(&process.file).filter(|probes| probes.tells_callers()) else {
            return Ok(());
        };
        Ok(self.kernel.begin_callers(calling(id, probes.word(), &process.goids))?)
    }
}

impl Watch {
    /// Births and exits of each process by site and caller.
    pub(super) fn by_caller(&self, callers: &Callers) -> HashMap<ProcessId, ByCaller> {
        let mut by_caller: HashMap<ProcessId, ByCaller> = HashMap::new();
        for (key, counts) in &callers.counts {
            let made = Made { births: counts.births, exits: counts.exits };
            by_caller.entry(key.site.process).or_default().insert(place(key), made);
        }
        // Goroutines that ended before anything told their goid: the processor's stock tells it.
        let early: HashSet<(ProcessId, u64)> = callers.early_exits.iter().map(|key| (key.process, key.goid)).collect();
        for (id, process) in &self.shared.processes {
            let id = *id;
            let open: Vec<_> = callers.unnumbered.iter().filter(|(key, _)| key.process == id).collect();
            if open.is_empty() || !early.iter().any(|(of, _)| *of == id) {
                continue;
            }
            let Some(binary) = self.shared.host.binaries.get(process.file) else { continue };
            let processors = open.iter().map(|(key, _)| RuntimeAddr(key.p)).collect();
            let firsts = first_goids(&self.shared.host.proc, process, &binary, processors);
            for ((_, key), first) in open.into_iter().zip(firsts) {
                let ended = first.is_some_and(|goid| early.contains(&(id, goid)));
                let made = by_caller.get_mut(&id).and_then(|sites| sites.get_mut(&place(key)));
                if let Some(made) = made.filter(|_| ended) {
                    made.exits += 1;
                }
            }
        }
        by_caller
    }
}

fn place(key: &CallerKey) -> (Site, RuntimeAddr) {
    let SiteKey { gopc, startpc, .. } = key.site;
    (Site { gopc: RuntimeAddr(gopc), startpc: RuntimeAddr(startpc) }, RuntimeAddr(key.caller))
}

/// The first goid of each processor's stock; `None` where it cannot be read, or nothing is taken of it yet.
fn first_goids(proc: &Proc, process: &Watched, binary: &Watchable, processors: Vec<RuntimeAddr>) -> Vec<Option<u64>> {
    let (proc, identity, number) = (proc.clone(), process.identity, processors.len());
    let witness = process.bias.to_runtime(binary.go.binary.function_table_address());
    let goidcache = process.goids.goidcache;
    let read = move || {
        let memory = ProcessMemory::open(&proc, identity, witness).ok()?;
        let firsts = processors.into_iter().map(|p| {
            let mut words = [0; 16];
            memory.read(p.checked_add(goidcache)?, &mut words).ok()?;
            let (next, end) = (u64_at(&words, 0)?, u64_at(&words, 8)?);
            let first = end.checked_sub(GOID_BATCH)?;
            (next > first).then_some(first)
        });
        Some(firsts.collect())
    };
    let answer = patience::begin("stocks", read).ok().and_then(|answer| answer.within(LIMIT).flatten());
    answer.unwrap_or_else(|| vec![None; number])
}
