//! Processes that are not meant. Probes are in a binary for all its processes, and the kernel side adopts each of them: those
//! that the rules leave out are listed there as nobody's, so that they pay for the trap and nothing else, and are neither
//! counted nor shown.

use std::collections::{BTreeMap, BTreeSet};

use parkranger_common::counts::ProcessId;
use tracing::debug;

use super::{
    Target, WatchError,
    shared::{Host, Shared},
};
use crate::{
    host::Identity,
    kernel::{Attach, Count, Method},
};

/// Processes of watched binaries that are not meant: the kernel side passes over them.
#[derive(Default)]
pub(super) struct Muted(BTreeMap<ProcessId, Identity>);

impl Muted {
    /// Leaves a process out from now on, and what was counted of it before anyone could know.
    pub(super) fn insert<K: Attach + Count>(
        &mut self,
        id: ProcessId,
        identity: Identity,
        kernel: &mut K,
    ) -> Result<(), WatchError> {
        debug!("process {} is not of the target", id.tgid());
        if kernel.method() == Method::PerfPlain {
            // Whoever is not listed there is not counted, and nobody is adopted.
            kernel.unwatch(id)?;
        } else {
            kernel.mute(id)?;
            self.0.insert(id, identity);
        }
        Ok(kernel.remove_counters(&[id])?)
    }

    /// A process is to be listed as itself again.
    pub(super) fn remove_pid(&mut self, pid: u32, kernel: &mut impl Count) -> Result<(), WatchError> {
        let muted: Vec<ProcessId> = self.0.keys().filter(|id| id.tgid() == pid).copied().collect();
        self.remove_all(&muted, kernel)
    }

    /// The process became another program: the kernel side took it off its list by itself.
    pub(super) fn became_another(&mut self, id: ProcessId, kernel: &mut impl Count) -> Result<(), WatchError> {
        if self.0.contains_key(&id) { self.remove_all(&[id], kernel) } else { Ok(()) }
    }

    /// Takes those off the list that are not among the `present` any more.
    pub(super) fn keep(&mut self, present: &BTreeSet<Identity>, kernel: &mut impl Count) -> Result<(), WatchError> {
        let gone = self.0.iter().filter(|(_, identity)| !present.contains(*identity));
        let gone: Vec<ProcessId> = gone.map(|(id, _)| *id).collect();
        self.remove_all(&gone, kernel)
    }

    /// Takes everyone off the list. Whoever is still not meant is muted again at its next event.
    pub(super) fn clear(&mut self, kernel: &mut impl Count) -> Result<(), WatchError> {
        let muted: Vec<ProcessId> = self.0.keys().copied().collect();
        self.remove_all(&muted, kernel)
    }

    fn remove_all(&mut self, muted: &[ProcessId], kernel: &mut impl Count) -> Result<(), WatchError> {
        for id in muted {
            kernel.unwatch(*id)?;
            self.0.remove(id);
        }
        // A program under way when its process was muted may have counted once more.
        Ok(kernel.remove_counters(muted)?)
    }
}

impl<K: Attach + Count, H: Host> Shared<K, H> {
    /// Drops the processes that `target` does not mean, with all counts. Gives their ids.
    pub(super) fn leave_out(&mut self, target: &Target, muted: &mut Muted) -> Result<BTreeSet<ProcessId>, WatchError> {
        // Who cannot be looked at has ended, and was meant.
        let is_left_out = |(_, process): &(&ProcessId, &super::shared::Watched)| {
            self.host.is_wanted(target, process.identity.pid, &process.exe) == Some(false)
        };
        let left_out: BTreeMap<ProcessId, Identity> =
            self.processes.iter().filter(is_left_out).map(|(id, process)| (*id, process.identity)).collect();
        for (id, identity) in &left_out {
            self.processes.remove(id);
            muted.insert(*id, *identity, &mut self.kernel)?;
            self.ledger.forget(*id);
        }
        Ok(left_out.into_keys().collect())
    }
}
