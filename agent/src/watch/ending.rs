//! Processes that ended. Their last counts are read once more, go from the kernel's maps and the ledger into what snapshots
//! show, and stay there for a while for whoever reads rarely. A binary that nobody runs any more loses its probes some time later.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parkranger_common::counts::ProcessId;
use tracing::info;

use super::{Target, Watch, WatchError};
use crate::host::FileId;

/// Ended processes kept at most: the oldest go first.
const MAX_ENDED: usize = 1000;
/// How long probes stay in a binary that nobody runs, and in how many of those.
const UNUSED_FOR: Duration = Duration::from_secs(300);
const MAX_UNUSED: usize = 256;

impl Watch {
    /// Marks processes that ended. Their counters stay until they were read once more.
    pub(super) fn check_on_processes(&mut self) -> Result<(), WatchError> {
        let mut ended = Vec::new();
        for (id, process) in &mut self.processes {
            if !process.has_ended() && self.finder.proc.identity(process.identity.pid).ok() != Some(process.identity) {
                process.end();
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
    pub(super) fn close_ended(&mut self) -> Result<(), WatchError> {
        let open = self.processes.iter().filter(|(_, process)| process.has_ended() && process.last.is_none());
        let ids: Vec<ProcessId> = open.map(|(id, _)| *id).collect();
        for id in &ids {
            self.governing.governor.forget(*id);
            let last = self.processes.get(id).and_then(|process| {
                let binary = self.finder.binaries.get(process.file)?;
                Some(Arc::new(self.snapshot_process(*id, process, &binary)))
            });
            if let Some(process) = self.processes.get_mut(id) {
                process.last = last;
            }
            self.ledger.forget(*id);
        }
        Ok(self.kernel.remove_counters(&ids)?)
    }

    /// Drops what nobody will ask for any more. Processes that the user named are kept for good.
    pub(super) fn drop_old(&mut self) -> Result<(), WatchError> {
        if matches!(self.finder.target, Target::Pids(_)) {
            return Ok(());
        }
        let now = Instant::now();
        let mut ended: Vec<(Instant, ProcessId)> =
            self.processes.iter().filter_map(|(id, process)| Some((process.ended?, *id))).collect();
        ended.sort_unstable();
        let too_many = ended.len().saturating_sub(MAX_ENDED);
        let keep = self.config.keep_ended;
        let old = |(position, (at, _)): &(usize, &(Instant, ProcessId))| {
            *position < too_many || now.saturating_duration_since(*at) >= keep
        };
        let gone: Vec<ProcessId> = ended.iter().enumerate().filter(old).map(|(_, (_, id))| *id).collect();
        for id in &gone {
            self.processes.remove(id);
        }
        if !gone.is_empty() {
            self.creation_stacks.retain(|(id, _), _| !gone.contains(id));
        }
        self.drop_unused(now);
        Ok(())
    }

    fn drop_unused(&mut self, now: Instant) {
        for (file, probes) in &mut self.probes {
            let used = self.processes.values().any(|process| process.file == *file && !process.has_ended());
            probes.unused_since = if used { None } else { probes.unused_since.or(Some(now)) };
        }
        let mut unused: Vec<(Instant, FileId)> =
            self.probes.iter().filter_map(|(file, probes)| Some((probes.unused_since?, *file))).collect();
        unused.sort_unstable();
        let too_many = unused.len().saturating_sub(MAX_UNUSED);
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
            self.governing.governor.forget_binary(file);
            self.time_boxes.remove(&file);
            self.finder.binaries.forget(file);
        }
    }
}
