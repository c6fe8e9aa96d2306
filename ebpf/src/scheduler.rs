//! Birth, park and exit: find the process, read two words of the goroutine, add one.
//!
//! Nothing here can stop or change the target. What cannot be read or stored is counted as a loss, and the event itself
//! still counts: totals stay right.
//!
//! The path of every event uses at most 48 bytes of stack. From 64 on (rounded up to 16) kernels from 6.13 on give a
//! program a stack of its own in per-CPU memory, and with hardened user copies every read into that looks up which memory it
//! is: on some machines that costs as much as all else a program does. So keys are read in place, and whatever is
//! rare is a function of its own.

use core::{ffi::c_void, intrinsics, mem::MaybeUninit, ptr::null_mut};

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::{bpf_get_current_pid_tgid, bpf_probe_read_user, generated::bpf_probe_read_user as read_user},
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
    processes, registers,
    window::{self, Told},
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
    // One for all that is looked up: the compiler does not see that there is never use for two of them.
    let mut key: MaybeUninit<WaitKey> = MaybeUninit::uninit();
    let tgid = key.as_mut_ptr().cast::<u32>();
    // SAFETY: there is room for it, and it was written. The entry may be replaced while we read it; it is then another run of
    // the same pid, handled as such.
    let listed = unsafe {
        tgid.write(current_tgid());
        PROCESSES.get(&*tgid)
    };
    let process = match listed {
        Some(process) => process,
        None if word.adopts() => match processes::adopt(current_tgid(), word, registers::instruction(ctx)) {
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
        BIRTH => birth(ctx, process, word, &mut key),
        PARK => park(ctx, process, word, &mut key),
        EXIT => exit(ctx, process, word, &mut key),
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
    let mut key = MaybeUninit::uninit();
    match event {
        Event::Birth => birth(ctx, process, word, &mut key),
        Event::Park => park(ctx, process, word, &mut key),
        Event::Exit => exit(ctx, process, word, &mut key),
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
fn birth(ctx: &ProbeContext, process: &Process, word: ProbeWord, key: &mut MaybeUninit<WaitKey>) {
    let function = registers::argument_1(ctx) as *const c_void;
    let words = key.as_mut_ptr().cast::<u64>();
    // SAFETY: the words are within the key, the first three of which are a site; user memory is read through the kernel's
    // checked copy, which fills what it is given with zeros where it cannot read. A map value lives until its process's
    // counters are read and removed, after its end.
    unsafe {
        words.write(process.id.0);
        words.add(1).write(registers::argument_3(ctx));
        if read_user(words.add(2).cast::<c_void>(), size_of::<u64>() as u32, function) != 0 {
            lose(process.id, ProcessLoss::StartUnreadable, None);
        }
        // Kept where there is room: the compiler would take more of the stack for it.
        words.add(3).write_volatile(window::of(process.id) as u64);
        let key = &*words.cast::<SiteKey>();
        let mut counts = SITES.get_ptr_mut(key).unwrap_or(null_mut());
        if counts.is_null() {
            counts = new_site(key);
        }
        let told = words.add(3).read_volatile();
        if counts.is_null() {
            lose(key.process, ProcessLoss::SiteMapFull, Some(Event::Birth));
        } else {
            if told == Told::Inside as u64 {
                add_one(&raw mut (*counts).window_births);
            } else {
                add_one(&raw mut (*counts).births);
            }
            if (*counts).stacks == 0
                && creation_stack::send(registers::argument_2(ctx), registers::current_g(ctx), key, word)
            {
                add_one(&raw mut (*counts).stacks);
            }
        }
        if words.add(3).read_volatile() != Told::No as u64 {
            window::tell_birth(registers::argument_2(ctx), key, told);
        }
    }
}

/// `gdestroy(gp *g)`, `goexit0(gp *g)`: the dying g is whole.
#[inline(always)]
fn exit(ctx: &ProbeContext, process: &Process, word: ProbeWord, key: &mut MaybeUninit<WaitKey>) {
    let g = registers::argument_1(ctx);
    let Some(WaitKey { site: key, .. }) = read_site(key, process.id, g, word) else {
        lose(process.id, ProcessLoss::GoroutineUnreadable, Some(Event::Exit));
        return;
    };
    let window = window::of(process.id);
    let mut counts = SITES.get_ptr_mut(&*key).unwrap_or(null_mut());
    if counts.is_null() {
        counts = new_site(key);
    }
    if counts.is_null() {
        lose(process.id, ProcessLoss::SiteMapFull, Some(Event::Exit));
    } else {
        // SAFETY: as in `birth`.
        unsafe {
            add_one(if window == Told::Inside { &raw mut (*counts).window_exits } else { &raw mut (*counts).exits });
        }
    }
    if window == Told::Inside {
        window::tell_exit(g, key);
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
fn park(ctx: &ProbeContext, process: &Process, word: ProbeWord, key: &mut MaybeUninit<WaitKey>) {
    let (g, reason) = parking(ctx, word);
    let (Some(reason), Some(key)) = (reason, read_site(key, process.id, g, word)) else {
        lose(process.id, ProcessLoss::GoroutineUnreadable, Some(Event::Park));
        return;
    };
    key.reason = u64::from(reason);
    let mut parks = WAITS.get_ptr_mut(&*key).unwrap_or(null_mut());
    if parks.is_null() {
        parks = new_wait(key);
    }
    if parks.is_null() {
        lose(process.id, ProcessLoss::WaitMapFull, Some(Event::Park));
    } else {
        add_one(parks);
    }
}

/// Reads where goroutine `g` comes from into a key, in place. Its reason is not set.
#[inline(always)]
fn read_site(key: &mut MaybeUninit<WaitKey>, process: ProcessId, g: u64, word: ProbeWord) -> Option<&mut WaitKey> {
    // `gopc`, `ancestors` and `startpc` stand together in g; `gopc`, `startpc` and `reason` in the key.
    const WORDS: u32 = 3 * size_of::<u64>() as u32;
    let words = key.as_mut_ptr().cast::<u64>();
    // SAFETY: the three words are within the key, which is four; user memory is read through the kernel's checked copy, which
    // fills them whether or not it can read. Every pattern is a key.
    unsafe {
        words.write(process.0);
        let read = read_user(words.add(1).cast::<c_void>(), WORDS, (g + word.gopc_offset()) as *const c_void);
        let key = key.assume_init_mut();
        key.site.startpc = key.reason;
        (read == 0).then_some(key)
    }
}

/// The same as a value.
#[inline(always)]
pub fn site_of(process: ProcessId, g: u64, word: ProbeWord) -> Option<SiteKey> {
    let mut key = MaybeUninit::uninit();
    read_site(&mut key, process, g, word).map(|key| key.site)
}

/// The counts of a site that has none yet; null where the map is full.
#[inline(never)]
fn new_site(key: &SiteKey) -> *mut SiteCounts {
    new(&SITES, key)
}

/// The parks of a site for a reason that has none yet; null where the map is full.
#[inline(never)]
fn new_wait(key: &WaitKey) -> *mut u64 {
    new(&WAITS, key)
}

/// Makes the value for `key`; null where the map is full.
#[inline(always)]
fn new<K, V: Zero>(map: &PerCpuHashMap<K, V>, key: &K) -> *mut V {
    // Two CPUs may come here at once: one insert wins, both then find the value. A lock of the map that cannot be had (its
    // holder has lost its processor to the hypervisor) fails an insert, too, from 6.15 on: that is no full map.
    for _ in 0..INSERTS {
        let made = map.insert(key, &V::ZERO, BPF_NOEXIST.into());
        let value = map.get_ptr_mut(key).unwrap_or(null_mut());
        if !value.is_null() || made == Err(MAP_IS_FULL) {
            return value;
        }
    }
    null_mut()
}

/// Tries to make a value.
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
