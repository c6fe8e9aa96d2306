//! Which run of which process a hit belongs to: adoption of new processes of watched binaries, exec, exit.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    programs::RawTracePointContext,
};
use aya_log_ebpf::debug;
use parkranger_common::{
    counts::{Process, ProcessId, SiteKey},
    event::{Kind, MAX_STACK, Record},
    loss::HostLoss,
    probe::ProbeWord,
};

use crate::{
    RING_FLAGS, host_loss,
    maps::{EVENTS, PROCESSES, STORIES},
};

/// Lists a process of a watched binary that the agent does not know yet, so that nothing of it is missed.
#[inline(always)]
pub fn adopt(tgid: u32, word: ProbeWord, instruction: u64) -> Option<&'static Process> {
    let now = unsafe { bpf_ktime_get_ns() };
    let process = Process { id: ProcessId::new(tgid, now), word: word.0 };
    // Two threads may come here at once: one insert wins, both go by it.
    let made = PROCESSES.insert(&tgid, &process, BPF_NOEXIST.into()).is_ok();
    // SAFETY: see `scheduler::with_word`.
    let listed = unsafe { PROCESSES.get(&tgid) };
    match listed {
        Some(listed) if made => send(Kind::ProcessSeen, listed, instruction, now),
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
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: see `scheduler::with_word`.
    if let Some(process) = unsafe { PROCESSES.get(&tgid) } {
        send(Kind::ProcessExec, process, 0, now);
        let _ = PROCESSES.remove(&tgid);
        let _ = STORIES.remove(&tgid);
        debug!(ctx, "process {} called execve", tgid);
    } else {
        send(Kind::ProgramBegun, &Process { id: ProcessId::new(tgid, now), word: 0 }, 0, now);
    }
}

/// `sched_process_exit` of a first thread. Other threads may live on: the agent looks at /proc and decides.
#[inline(always)]
pub fn exit(ctx: &RawTracePointContext) {
    let pid_tgid = bpf_get_current_pid_tgid();
    let tgid = (pid_tgid >> 32) as u32;
    if pid_tgid as u32 != tgid {
        return;
    }
    // SAFETY: see `scheduler::with_word`.
    if let Some(process) = unsafe { PROCESSES.get(&tgid) } {
        send(Kind::ProcessExit, process, 0, unsafe { bpf_ktime_get_ns() });
        debug!(ctx, "the first thread of process {} exited", tgid);
    }
}

#[inline(always)]
fn send(kind: Kind, process: &Process, gopc: u64, time_ns: u64) {
    let Some(mut entry) = EVENTS.reserve::<Record>(0) else {
        host_loss(HostLoss::LifecycleDropped);
        return;
    };
    entry.write(Record {
        kind: kind as u32,
        depth: 0,
        site: SiteKey { process: process.id, gopc, startpc: 0 },
        time_ns,
        word: process.word,
        stack: [0; MAX_STACK],
    });
    entry.submit(RING_FLAGS);
}
