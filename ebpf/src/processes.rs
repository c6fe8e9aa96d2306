//! The list of watched processes: adoption of new ones of watched binaries, and execve.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    programs::RawTracePointContext,
};
use aya_log_ebpf::debug;
use parkranger_common::{
    counts::{Process, ProcessId},
    loss::HostLoss,
    probe::ProbeWord,
    record::{Header, ProcessExec, ProcessSeen, ProgramBegun, Tag, Tagged},
};

use crate::{
    RING_FLAGS, host_loss,
    maps::{CALLING, PROCESS_RECORDS, PROCESSES, STORIES},
};

/// Lists a process of a watched binary that the agent does not know yet, so that nothing of it is missed.
#[inline(never)]
pub fn adopt(tgid: u32, word: ProbeWord, instruction: u64) -> Option<&'static Process> {
    let now = unsafe { bpf_ktime_get_ns() };
    let process = Process { id: ProcessId::new(tgid, now), word: word.0 };
    // Two threads may come here at once: one insert wins, both go by it.
    let made = PROCESSES.insert(&tgid, &process, BPF_NOEXIST.into()).is_ok();
    // SAFETY: see `scheduler::with_word`.
    let listed = unsafe { PROCESSES.get(&tgid) };
    match listed {
        Some(listed) if made => {
            let seen = ProcessSeen { process: listed.id, word: listed.word, instruction, time_ns: now };
            send(Tag::ProcessSeen, seen);
        }
        Some(_) => {}
        None => host_loss(HostLoss::ProcessMapFull),
    }
    listed
}

/// `sched_process_exec`: what this process did before is over. Its new program is adopted afresh where its binary is
/// watched; the agent looks at any other.
#[inline(always)]
pub fn exec(ctx: &RawTracePointContext) {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    // SAFETY: see `scheduler::with_word`.
    if let Some(process) = unsafe { PROCESSES.get(&tgid) } {
        send(Tag::ProcessExec, ProcessExec { process: process.id });
        let _ = PROCESSES.remove(&tgid);
        let _ = STORIES.remove(&tgid);
        let _ = CALLING.remove(&tgid);
        debug!(ctx, "process {} called execve", tgid);
    } else {
        send(Tag::ProgramBegun, ProgramBegun { tgid: tgid.into() });
    }
}

/// Writes a record that the agent cannot do without for long.
#[inline(always)]
fn send<B: 'static>(tag: Tag, body: B) {
    match PROCESS_RECORDS.reserve::<Tagged<B>>(0) {
        Some(mut entry) => {
            entry.write(Tagged { header: Header::new(tag), body });
            entry.submit(RING_FLAGS);
        }
        None => host_loss(HostLoss::LifecycleDropped),
    }
}
