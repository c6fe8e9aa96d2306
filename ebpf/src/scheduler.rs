//! Birth, park and exit: find the process, read two words of the goroutine, add one.
//!
//! Nothing here can stop or change the target. What cannot be read or stored is counted as a loss, and the event itself
//! still counts: totals stay right.

use core::intrinsics;

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::{bpf_get_current_pid_tgid, bpf_probe_read_user},
    maps::PerCpuHashMap,
    programs::ProbeContext,
};
use parkranger_common::{
    counts::{Process, ProcessId, SiteCounts, SiteKey, Unattributed, WaitKey},
    loss::{HostLoss, ProcessLoss},
    probe::{Event, ProbeWord},
};

use crate::{
    creation_stack, host_loss,
    maps::{PROCESSES, SITES, UNATTRIBUTED, WAITS},
    processes, registers, window,
};

const BIRTH: u64 = Event::Birth as u64;
const PARK: u64 = Event::Park as u64;
const EXIT: u64 = Event::Exit as u64;

/// Handles a hit of a probe that carries its word.
#[inline(always)]
pub fn with_word(ctx: &ProbeContext, word: ProbeWord) {
    if word.skips_taken() && registers::branch_taken(ctx) {
        return;
    }
    let tgid = current_tgid();
    // SAFETY: the entry may be replaced while we read it; it is then another run of the same pid, handled as such.
    let process = match unsafe { PROCESSES.get(&tgid) } {
        Some(process) => process,
        None if word.adopts() => match processes::adopt(tgid, word, registers::instruction(ctx)) {
            Some(process) => process,
            None => return,
        },
        None => return,
    };
    // A second link to the same code (two paths to one inode) must not count twice, nor a second runtime in one process.
    if ProbeWord(process.word).binary() != word.binary() {
        return;
    }
    match word.event_number() {
        BIRTH => birth(ctx, process, word),
        PARK => park(ctx, process, word),
        EXIT => exit(ctx, process, word),
        // Stories only.
        _ => {}
    }
}

/// Handles a hit of a probe without a word (kernels before 5.15): the process's own serves.
#[inline(always)]
pub fn without_word(ctx: &ProbeContext, event: Event) {
    // SAFETY: as in `with_word`.
    let Some(process) = (unsafe { PROCESSES.get(&current_tgid()) }) else { return };
    let word = ProbeWord(process.word);
    if word.skips_taken() && registers::branch_taken(ctx) {
        return;
    }
    match event {
        Event::Birth => birth(ctx, process, word),
        Event::Park => park(ctx, process, word),
        Event::Exit => exit(ctx, process, word),
        // Stories need a word.
        Event::Run => {}
    }
}

#[inline(always)]
pub fn current_tgid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// `newproc1(fn *funcval, callergp *g, callerpc uintptr, …)`: the new g is not there yet.
#[inline(always)]
fn birth(ctx: &ProbeContext, process: &Process, word: ProbeWord) {
    let function = registers::argument_1(ctx);
    let gopc = registers::argument_3(ctx);
    // SAFETY: reads user memory through the kernel's checked copy.
    let startpc = match unsafe { bpf_probe_read_user(function as *const u64) } {
        Ok(startpc) => startpc,
        Err(_) => {
            lose(process.id, ProcessLoss::StartUnreadable, None);
            0
        }
    };
    let key = SiteKey { process: process.id, gopc, startpc };
    let open = window::of(process.id);
    match slot(&SITES, &key) {
        // SAFETY: a map value lives until its process's counters are read and removed, after its end.
        Some(counts) => unsafe {
            if window::is_inside(open) {
                add_one(&raw mut (*counts).window_births);
            } else {
                add_one(&raw mut (*counts).births);
            }
            if (*counts).stacks == 0 && creation_stack::send(ctx, &key, word) {
                add_one(&raw mut (*counts).stacks);
            }
        },
        None => lose(process.id, ProcessLoss::SiteMapFull, Some(Event::Birth)),
    }
    if let Some(open) = open {
        window::tell_birth(ctx, &key, open);
    }
}

/// `gdestroy(gp *g)`, `goexit0(gp *g)`: the dying g is whole.
#[inline(always)]
fn exit(ctx: &ProbeContext, process: &Process, word: ProbeWord) {
    let g = registers::argument_1(ctx);
    let Some(key) = site_of(process.id, g, word) else {
        lose(process.id, ProcessLoss::GoroutineUnreadable, Some(Event::Exit));
        return;
    };
    let open = window::of(process.id);
    match slot(&SITES, &key) {
        // SAFETY: a map value lives until its process's counters are read and removed, after its end.
        Some(counts) if window::is_inside(open) => add_one(unsafe { &raw mut (*counts).window_exits }),
        // SAFETY: a map value lives until its process's counters are read and removed, after its end.
        Some(counts) => add_one(unsafe { &raw mut (*counts).exits }),
        None => lose(process.id, ProcessLoss::SiteMapFull, Some(Event::Exit)),
    }
    if let Some(open) = open {
        window::tell_exit(g, &key, open);
    }
}

/// Which goroutine parks, and why: `gopark(unlockf, lock, reason, …)` on the goroutine itself, or `park_m(gp *g)` on g0
/// with the reason in g.
#[inline(always)]
pub fn parking(ctx: &ProbeContext, word: ProbeWord) -> (u64, Option<u8>) {
    if word.is_park_in_registers() {
        (registers::current_g(ctx), Some(registers::argument_3(ctx) as u8))
    } else {
        let g = registers::argument_1(ctx);
        // SAFETY: reads user memory through the kernel's checked copy.
        (g, unsafe { bpf_probe_read_user((g + word.waitreason_offset()) as *const u8) }.ok())
    }
}

#[inline(always)]
fn park(ctx: &ProbeContext, process: &Process, word: ProbeWord) {
    let (g, reason) = parking(ctx, word);
    let (Some(reason), Some(site)) = (reason, site_of(process.id, g, word)) else {
        lose(process.id, ProcessLoss::GoroutineUnreadable, Some(Event::Park));
        return;
    };
    let key = WaitKey { site, reason: u64::from(reason) };
    match slot(&WAITS, &key) {
        Some(parks) => add_one(parks),
        None => lose(process.id, ProcessLoss::WaitMapFull, Some(Event::Park)),
    }
}

/// Reads where goroutine `g` comes from: `gopc`, `ancestors`, `startpc` stand together.
#[inline(always)]
pub fn site_of(process: ProcessId, g: u64, word: ProbeWord) -> Option<SiteKey> {
    // SAFETY: reads user memory through the kernel's checked copy.
    let [gopc, _ancestors, startpc] =
        unsafe { bpf_probe_read_user((g + word.gopc_offset()) as *const [u64; 3]) }.ok()?;
    Some(SiteKey { process, gopc, startpc })
}

/// This CPU's value for `key`, made if need be. `None` where the map is full.
#[inline(always)]
fn slot<K, V: Zero>(map: &PerCpuHashMap<K, V>, key: &K) -> Option<*mut V> {
    if let Some(value) = map.get_ptr_mut(key) {
        return Some(value);
    }
    // Two CPUs may come here at once: one insert wins, both then find the value. A lock of the map that cannot be had (its
    // holder has lost its processor to the hypervisor) fails an insert, too, from 6.15 on: that is no full map.
    for _ in 0..INSERTS {
        let made = map.insert(key, &V::ZERO, BPF_NOEXIST.into());
        let value = map.get_ptr_mut(key);
        if value.is_some() || made == Err(MAP_IS_FULL) {
            return value;
        }
    }
    None
}

/// How often a value is tried to be made.
const INSERTS: u32 = 3;
/// E2BIG.
const MAP_IS_FULL: i32 = -7;

trait Zero {
    const ZERO: Self;
}
impl Zero for u64 {
    const ZERO: Self = 0;
}
impl Zero for SiteCounts {
    const ZERO: Self = Self { births: 0, exits: 0, window_births: 0, window_exits: 0, stacks: 0 };
}

/// Counts a loss and, where the event found no site, the event itself.
#[inline(never)]
pub fn lose(process: ProcessId, loss: ProcessLoss, event: Option<Event>) {
    let value = match UNATTRIBUTED.get_ptr_mut(&process) {
        Some(value) => value,
        None => {
            let zero = Unattributed { births: 0, exits: 0, parks: 0, losses: [0; ProcessLoss::COUNT] };
            let _ = UNATTRIBUTED.insert(&process, &zero, BPF_NOEXIST.into());
            match UNATTRIBUTED.get_ptr_mut(&process) {
                Some(value) => value,
                None => {
                    host_loss(HostLoss::UnattributedFull);
                    return;
                }
            }
        }
    };
    // SAFETY: as in `exit`.
    unsafe {
        add_one(&raw mut (*value).losses[loss as usize]);
        match event {
            Some(Event::Birth) => add_one(&raw mut (*value).births),
            Some(Event::Exit) => add_one(&raw mut (*value).exits),
            Some(Event::Park) => add_one(&raw mut (*value).parks),
            Some(Event::Run) | None => {}
        }
    }
}

/// Adds one atomically: on one CPU too, a program can be preempted between load and store.
#[inline(always)]
pub fn add_one(value: *mut u64) {
    add(value, 1);
}

/// Adds atomically.
#[inline(always)]
pub fn add(value: *mut u64, more: u64) {
    // SAFETY: `value` points into a map's value, checked by the verifier.
    unsafe { intrinsics::atomic_xadd::<u64, u64, { intrinsics::AtomicOrdering::Relaxed }>(value, more) };
}
