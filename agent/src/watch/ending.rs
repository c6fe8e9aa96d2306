//! Processes that ended. Their last counts are read once more, go from the kernel's maps and the ledger into what snapshots
//! show, and stay there for a while for whoever reads rarely. A binary that nobody runs any more loses its probes some time later.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use parkranger_common::counts::ProcessId;
use tracing::info;

use super::{
    ProcessSnapshot, WatchError,
    shared::{Host, Shared, Watched},
};
use crate::{
    host::FileId,
    kernel::{Attach, Count},
};

/// Ended processes kept at most: the oldest go first.
const MAX_ENDED: usize = 1000;
/// One of many that come and go lives on in the sum of its executable.
const BRIEF_KEPT_FOR: Duration = Duration::from_secs(2);
/// Time that probes stay in a binary that nobody runs, and number of those binaries.
const UNUSED_FOR: Duration = Duration::from_secs(300);
const MAX_UNUSED: usize = 256;

impl<K: Attach + Count, H: Host> Shared<K, H> {
    /// Marks processes that ended. Their counters stay until they were read once more.
    pub(super) fn check_on_processes(&mut self) -> Result<(), WatchError> {
        let now = self.host.now();
        let mut ended = Vec::new();
        for (id, process) in &mut self.processes {
            if !process.has_ended() && self.host.identity(process.identity.pid) != Some(process.identity) {
                process.end(now);
                ended.push(*id);
            }
        }
        for id in ended {
            self.kernel.unwatch(id)?;
            self.kernel.end_story(id)?;
        }
        Ok(())
    }

    /// Takes the last counts of processes that ended out of the kernel's maps. To be called after the counters were read.
    /// `last` makes what snapshots show of a process from now on. Gives the processes.
    pub(super) fn close_ended(
        &mut self,
        last: impl Fn(&Self, ProcessId, &Watched) -> Option<Arc<ProcessSnapshot>>,
    ) -> Result<Vec<ProcessId>, WatchError> {
        let open = self.processes.iter().filter(|(_, process)| process.has_ended() && process.last.is_none());
        let ids: Vec<ProcessId> = open.map(|(id, _)| *id).collect();
        for id in &ids {
            let last = self.processes.get(id).and_then(|process| last(self, *id, process));
            if let Some(process) = self.processes.get_mut(id) {
                process.last = last;
            }
            self.ledger.forget(*id);
        }
        self.kernel.remove_counters(&ids)?;
        Ok(ids)
    }

    /// Drops the ended processes that nobody will ask for any more: those older than `keep`, and the oldest of too many.
    pub(super) fn drop_ended(&mut self, keep: Duration) -> BTreeSet<ProcessId> {
        let now = self.host.now();
        let mut ended: Vec<(Instant, ProcessId)> =
            self.processes.iter().filter_map(|(id, process)| Some((process.ended?, *id))).collect();
        ended.sort_unstable();
        let too_many = ended.len().saturating_sub(MAX_ENDED);
        let is_brief = |id: &ProcessId| {
            let last = self.processes.get(id).and_then(|process| process.last.as_ref());
            last.is_some_and(|last| last.brief)
        };
        let kept_for = |id: &ProcessId| if is_brief(id) { keep.min(BRIEF_KEPT_FOR) } else { keep };
        let old = |(position, (at, id)): &(usize, &(Instant, ProcessId))| {
            *position < too_many || now.saturating_duration_since(*at) >= kept_for(id)
        };
        let gone: BTreeSet<ProcessId> = ended.iter().enumerate().filter(old).map(|(_, (_, id))| *id).collect();
        self.processes.retain(|id, _| !gone.contains(id));
        gone
    }

    /// Takes the probes out of binaries that nobody has run for a while. Gives the binaries.
    pub(super) fn drop_unused(&mut self) -> Vec<FileId> {
        let now = self.host.now();
        for (file, probes) in &mut self.probes {
            let used = self.processes.values().any(|process| process.file == *file && !process.has_ended());
            probes.unused_since = if used { None } else { probes.unused_since.or(Some(now)) };
        }
        let mut unused: Vec<(Instant, FileId)> =
            self.probes.iter().filter_map(|(file, probes)| Some((probes.unused_since?, *file))).collect();
        unused.sort_unstable();
        let too_many = unused.len().saturating_sub(MAX_UNUSED);
        let mut dropped = Vec::new();
        for (position, (since, file)) in unused.into_iter().enumerate() {
            // The names of ended processes come from their binary.
            let is_shown = self.processes.values().any(|process| process.file == file);
            if is_shown || position >= too_many && now.saturating_duration_since(since) < UNUSED_FOR {
                continue;
            }
            if let Some(mut probes) = self.probes.remove(&file) {
                info!("{}: nobody runs it any more", probes.name);
                probes.take_off(&mut self.kernel);
            }
            dropped.push(file);
        }
        dropped
    }
}
