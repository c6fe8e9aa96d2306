//! Processes that are not meant. Probes are in a binary for all its processes, and the kernel side adopts each of them: those
//! that the rules leave out are listed there as nobody's, so that they pay for the trap and nothing else, and are neither
//! counted nor shown.

use std::collections::{BTreeMap, BTreeSet};

use parkranger_common::counts::ProcessId;
use tracing::{debug, info};

use super::{Target, Watch, WatchError};
use crate::{
    host::Identity,
    kernel::{KernelError, Method},
};

impl Watch {
    /// Leaves a process out from now on, and what was counted of it before anyone could know.
    pub(super) fn mute(&mut self, id: ProcessId, identity: Identity) -> Result<(), KernelError> {
        debug!("process {} is not of the target", id.tgid());
        if self.kernel.method() == Method::PerfPlain {
            // Whoever is not listed there is not counted, and nobody is adopted.
            self.kernel.unwatch(id)?;
        } else {
            self.kernel.mute(id)?;
            self.muted.insert(id, identity);
        }
        self.kernel.remove_counters(&[id])
    }

    /// A process is to be listed as itself again.
    pub(super) fn unmute(&mut self, pid: u32) -> Result<(), KernelError> {
        let muted: Vec<ProcessId> = self.muted.keys().filter(|id| id.tgid() == pid).copied().collect();
        self.forget(&muted)
    }

    /// The kernel side took it off its list by itself.
    pub(super) fn muted_became_another(&mut self, id: ProcessId) -> Result<(), KernelError> {
        if self.muted.contains_key(&id) { self.forget(&[id]) } else { Ok(()) }
    }

    /// Takes those off the list that are not among the `present` any more.
    pub(super) fn forget_muted(&mut self, present: &BTreeSet<Identity>) -> Result<(), KernelError> {
        let gone = self.muted.iter().filter(|(_, identity)| !present.contains(*identity));
        let gone: Vec<ProcessId> = gone.map(|(id, _)| *id).collect();
        self.forget(&gone)
    }

    fn forget(&mut self, muted: &[ProcessId]) -> Result<(), KernelError> {
        for id in muted {
            self.kernel.unwatch(*id)?;
            self.muted.remove(id);
        }
        // A program under way when its process was muted may have counted once more.
        self.kernel.remove_counters(muted)
    }

    /// Watches what another target means: who is left out by it is dropped with all counts, who is meant now is looked at.
    ///
    /// # Errors
    ///
    /// As [`Watch::scan`].
    pub fn set_target(&mut self, target: Target) -> Result<(), WatchError> {
        if target == self.finder.target {
            return Ok(());
        }
        info!("watching every Go process {}", target.describe());
        self.finder.target = target;
        let left_out: BTreeMap<ProcessId, Identity> = self
            .processes
            .iter()
            // Who cannot be looked at has ended, and was meant.
            .filter(|(_, process)| {
                let wants = self.finder.target.wants(&self.finder.proc, process.identity.pid, &process.exe);
                wants.is_ok_and(|wants| !wants)
            })
            .map(|(id, process)| (*id, process.identity))
            .collect();
        self.creation_stacks.retain(|(id, _), _| !left_out.contains_key(id));
        self.finder.refused.clear();
        // Whoever is still not meant is muted again at its next event.
        let muted: Vec<ProcessId> = self.muted.keys().copied().collect();
        self.forget(&muted)?;
        for (id, identity) in left_out {
            self.processes.remove(&id);
            self.mute(id, identity)?;
            self.ledger.forget(id);
            self.governing.governor.forget(id);
        }
        self.scan()
    }
}
