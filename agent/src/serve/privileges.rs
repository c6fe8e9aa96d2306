//! What the daemon keeps of root's privileges: what loading and attaching, reading other processes' memory and files, and
//! listening take. Whatever a hostile binary or request did to it could not do more.

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs};
use tracing::{debug, warn};

use crate::{host::Proc, kernel::Capability};

/// BPF programs and perf events; memory, files and mapped files of other users' processes; a port below 1024.
const KEPT: CapabilitySet = CapabilitySet::BPF
    .union(CapabilitySet::PERFMON)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::CHECKPOINT_RESTORE)
    .union(CapabilitySet::NET_BIND_SERVICE);
/// Before kernel 6.6 uprobes are perf events of the administrator's, and before 5.11 maps count as locked memory.
const KEPT_ON_OLDER: CapabilitySet = KEPT.union(CapabilitySet::SYS_ADMIN).union(CapabilitySet::SYS_RESOURCE);

/// Gives up the others, in the calling thread and in those that it starts from now on.
pub(super) fn reduce() {
    let kept = if Capability::ask(Proc::default().root()).uprobe_multi == Ok(true) { KEPT } else { KEPT_ON_OLDER };
    let reduced = capabilities(None).and_then(|had| {
        let (effective, permitted) = (had.effective & kept, had.permitted & kept);
        set_capabilities(None, CapabilitySets { effective, permitted, inheritable: CapabilitySet::empty() })?;
        set_no_new_privs(true).map(|()| permitted)
    });
    match reduced {
        Ok(has) => {
            debug!("privileges kept: {has:?}");
            if !has.intersects(CapabilitySet::CHECKPOINT_RESTORE | CapabilitySet::SYS_ADMIN) {
                warn!("Go libraries in other processes cannot be read without CAP_CHECKPOINT_RESTORE");
            }
        }
        // It runs with what it was given, as it would have.
        Err(error) => warn!("privileges are not reduced: {error}"),
    }
}
