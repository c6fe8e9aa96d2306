//! Births and exits split by caller. These programs are attached beside those that count, and only where that is asked for.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::bpf_probe_read_user,
    programs::ProbeContext,
};
use parkranger_common::{
    callers::{CallerCounts, CallerKey, Calling, GOID_BATCH, GoidKey, ProcessorKey},
    counts::SiteKey,
    loss::ProcessLoss,
    probe::{Event, ProbeWord},
};

use crate::{
    maps::{BORN, CALLERS, CALLING, EARLY_EXITS, UNNUMBERED},
    registers,
    scheduler::{add_one, current_tgid, lose},
};

const BIRTH: u64 = Event::Birth as u64;
/// Frames between the runtime's part of the `go` statement and the function that holds it, at most.
const FRAMES: usize = 4;

/// Handles a hit.
#[inline(always)]
pub fn with_word(ctx: &ProbeContext, word: ProbeWord) {
    if word.skips_taken() && registers::branch_taken(ctx) {
        return;
    }
    // SAFETY: the entry may be removed while we read it: then the last event is still counted.
    let Some(calling) = (unsafe { CALLING.get(&current_tgid()) }) else { return };
    if ProbeWord(calling.word).binary() != word.binary() {
        return;
    }
    if word.event_number() == BIRTH {
        birth(ctx, calling, word);
    } else {
        exit(registers::argument_1(ctx), calling);
    }
}

/// As [`crate::scheduler`]'s, with the caller.
#[inline(always)]
fn birth(ctx: &ProbeContext, calling: &Calling, word: ProbeWord) {
    let (creator, gopc) = (registers::argument_2(ctx), registers::argument_3(ctx));
    // SAFETY: reads user memory through the kernel's checked copy.
    let startpc = unsafe { bpf_probe_read_user(registers::argument_1(ctx) as *const u64) }.unwrap_or(0);
    let caller = if creator == registers::current_g(ctx) { 0 } else { caller_of(creator, gopc, word) };
    let key = CallerKey { site: SiteKey { process: calling.process, gopc, startpc }, caller };
    if !count(&key, true) {
        return;
    }
    number(creator, calling, &key);
}

/// The return address in the caller of the function that has `gopc` in it; 0 where it is not found.
#[inline(never)]
fn caller_of(creator: u64, gopc: u64, word: ProbeWord) -> u64 {
    // SAFETY: reads user memory through the kernel's checked copy, here and below. A frame is
    // `[saved frame pointer, return address]`.
    let Ok(mut frame) = (unsafe { bpf_probe_read_user((creator + word.sched_bp_offset()) as *const u64) }) else {
        return 0;
    };
    let mut passed = false;
    for _ in 0..FRAMES {
        let Ok([next, return_address]) = (unsafe { bpf_probe_read_user(frame as *const [u64; 2]) }) else { return 0 };
        if passed {
            return return_address;
        }
        // Beyond it the frame is that of the function with the `go` statement.
        passed = return_address == gopc;
        if next <= frame {
            return 0;
        }
        frame = next;
    }
    0
}

/// Remembers a birth by the goid that the goroutine is about to get, and the processor's last one by the one it got.
#[inline(never)]
fn number(creator: u64, calling: &Calling, key: &CallerKey) {
    let Some((p, [next, end])) = stock(creator, calling) else {
        lose(key.site.process, ProcessLoss::CallerUnknown, None);
        return;
    };
    let processor = ProcessorKey { process: calling.process, p };
    // SAFETY: a processor's entry is touched by the thread that has the processor alone.
    if let Some(last) = unsafe { UNNUMBERED.get(&processor) } {
        let last = *last;
        let _ = UNNUMBERED.remove(&processor);
        numbered(next.wrapping_sub(1), &last);
    }
    if next != end {
        numbered(next, key);
    } else if UNNUMBERED.insert(&processor, key, BPF_ANY.into()).is_err() {
        lose(key.site.process, ProcessLoss::CallerUnknown, None);
    }
}

/// The creator's processor, and its stock of goids.
#[inline(always)]
fn stock(creator: u64, calling: &Calling) -> Option<(u64, [u64; 2])> {
    // SAFETY: reads user memory through the kernel's checked copy, here and below.
    let m = unsafe { bpf_probe_read_user((creator + calling.m) as *const u64) }.ok()?;
    let p = unsafe { bpf_probe_read_user((m + calling.p) as *const u64) }.ok()?;
    let stock = unsafe { bpf_probe_read_user((p + calling.goidcache) as *const [u64; 2]) }.ok()?;
    Some((p, stock))
}

/// A goroutine's goid is known. It may have ended before that: whoever takes the early exit away counts it, and only one can.
#[inline(never)]
fn numbered(goid: u64, key: &CallerKey) {
    let goroutine = GoidKey { process: key.site.process, goid };
    if BORN.insert(&goroutine, key, BPF_ANY.into()).is_err() {
        lose(key.site.process, ProcessLoss::CallerUnknown, None);
        return;
    }
    if goid % GOID_BATCH == 1 && EARLY_EXITS.remove(&goroutine).is_ok() {
        let _ = BORN.remove(&goroutine);
        count(key, false);
    }
}

#[inline(always)]
fn exit(g: u64, calling: &Calling) {
    // SAFETY: reads user memory through the kernel's checked copy.
    let Ok(goid) = (unsafe { bpf_probe_read_user((g + calling.goid) as *const u64) }) else {
        lose(calling.process, ProcessLoss::CallerUnknown, None);
        return;
    };
    let goroutine = GoidKey { process: calling.process, goid };
    // SAFETY: a goroutine ends once, so nobody else removes its entry.
    if let Some(key) = unsafe { BORN.get(&goroutine) } {
        let key = *key;
        let _ = BORN.remove(&goroutine);
        count(&key, false);
    } else if goid % GOID_BATCH == 1 {
        early(&goroutine);
    }
}

/// The first of a batch ends before its goid was told; or it is older than the question.
#[inline(never)]
fn early(goroutine: &GoidKey) {
    let _ = EARLY_EXITS.insert(goroutine, &1, BPF_ANY.into());
    // SAFETY: as in `exit`.
    if let Some(key) = unsafe { BORN.get(goroutine) } {
        let key = *key;
        if EARLY_EXITS.remove(goroutine).is_ok() {
            let _ = BORN.remove(goroutine);
            count(&key, false);
        }
    }
}

/// Counts a birth, or an exit. Whether there was room for it.
#[inline(never)]
fn count(key: &CallerKey, is_birth: bool) -> bool {
    let counts = match CALLERS.get_ptr_mut(key) {
        Some(counts) => counts,
        None => {
            // Two CPUs may come here at once: one insert wins, both then find the value.
            let _ = CALLERS.insert(key, &CallerCounts { births: 0, exits: 0 }, BPF_NOEXIST.into());
            match CALLERS.get_ptr_mut(key) {
                Some(counts) => counts,
                None => {
                    lose(key.site.process, ProcessLoss::CallerUnknown, None);
                    return false;
                }
            }
        }
    };
    // SAFETY: a map value lives until its process's callers are removed, after its end.
    unsafe { add_one(if is_birth { &raw mut (*counts).births } else { &raw mut (*counts).exits }) };
    true
}
