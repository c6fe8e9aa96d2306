//! Stories: how long the goroutines of some processes wait, and live. These programs are attached beside those that count,
//! at the park and exit probes and where goroutines get to run, and only while a story is told.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::{bpf_ktime_get_ns, bpf_probe_read_user},
    maps::HashMap,
    programs::ProbeContext,
};
use parkranger_common::{
    counts::{ProcessId, SiteKey},
    loss::ProcessLoss,
    probe::{Event, ProbeWord},
    story::{BUCKETS, Goroutine, GoroutineKey, Histogram, HistogramKey, LIFETIME, Spent, SpentKey, Story, bucket},
};

use crate::{
    maps::{GOROUTINES, HISTOGRAMS, SPENT, STORIES},
    registers,
    scheduler::{add, add_one, current_tgid, lose, parking, site_of},
};

const PARK: u64 = Event::Park as u64;
const RUN: u64 = Event::Run as u64;

/// Too large for the stack of a program.
static EMPTY: Histogram = Histogram::EMPTY;

/// Handles a hit.
#[inline(always)]
pub fn with_word(ctx: &ProbeContext, word: ProbeWord) {
    if word.skips_taken() && registers::branch_taken(ctx) {
        return;
    }
    let Some(story) = STORIES.get_ptr_mut(&current_tgid()) else { return };
    // SAFETY: the entry may be removed while we read it: then the last event of a story is still in it.
    let Story { process, word: of, since_ns, .. } = unsafe { *story };
    if ProbeWord(of).binary() != word.binary() {
        return;
    }
    match word.event_number() {
        PARK => park(ctx, process, since_ns, word),
        RUN => {
            // SAFETY: as above.
            add_one(unsafe { &raw mut (*story).runs });
            run(ctx, process, since_ns, word);
        }
        _ => exit(ctx, process, since_ns),
    }
}

/// A park. A goroutine that cannot be read is counted as a loss where parks are counted.
#[inline(always)]
fn park(ctx: &ProbeContext, process: ProcessId, story_ns: u64, word: ProbeWord) {
    let (g, reason) = parking(ctx, word);
    let (Some(reason), Some(site)) = (reason, site_of(process, g, word)) else { return };
    let key = GoroutineKey { process, g };
    // SAFETY: the helper has no preconditions.
    let parked_ns = unsafe { bpf_ktime_get_ns() };
    let reason = u64::from(reason);
    if let Some(goroutine) = known(&key, story_ns) {
        // SAFETY: a goroutine's entry is its own: it is in one place at a time, and goes at its end.
        unsafe {
            (*goroutine).reason = reason;
            (*goroutine).gopc = site.gopc;
            (*goroutine).startpc = site.startpc;
            (*goroutine).parked_ns = parked_ns;
        }
        return;
    }
    let (gopc, startpc) = (site.gopc, site.startpc);
    remember(&key, &Goroutine { story_ns, begun_ns: 0, parked_ns, reason, gopc, startpc });
}

/// `execute(gp *g, inheritTime bool)`: every goroutine that gets to run passes here, but not the coroutines of `iter.Pull`,
/// which do not park either.
#[inline(always)]
fn run(ctx: &ProbeContext, process: ProcessId, story_ns: u64, word: ProbeWord) {
    let g = registers::argument_1(ctx);
    let key = GoroutineKey { process, g };
    let Some(goroutine) = known(&key, story_ns) else {
        first_run(&key, story_ns, word);
        return;
    };
    // SAFETY: as in `park`.
    let Goroutine { parked_ns, reason, gopc, startpc, .. } = unsafe { *goroutine };
    if parked_ns != 0 {
        // SAFETY: as in `park`.
        unsafe { (*goroutine).parked_ns = 0 };
        count(SiteKey { process, gopc, startpc }, reason, parked_ns);
    }
}

/// A goroutine that has not run yet goes on at the beginning of its start function, and no other does: one that was
/// stopped goes on behind a call. One that has is older than the story, and its life is not told.
#[inline(always)]
fn first_run(key: &GoroutineKey, story_ns: u64, word: ProbeWord) {
    let Some(site) = site_of(key.process, key.g, word) else { return };
    // SAFETY: reads user memory through the kernel's checked copy.
    let pc = unsafe { bpf_probe_read_user((key.g + word.sched_pc_offset()) as *const u64) };
    if pc == Ok(site.startpc) && site.startpc != 0 {
        // SAFETY: the helper has no preconditions.
        let begun_ns = unsafe { bpf_ktime_get_ns() };
        let (gopc, startpc) = (site.gopc, site.startpc);
        remember(key, &Goroutine { story_ns, begun_ns, parked_ns: 0, reason: 0, gopc, startpc });
    }
}

#[inline(always)]
fn exit(ctx: &ProbeContext, process: ProcessId, story_ns: u64) {
    let key = GoroutineKey { process, g: registers::argument_1(ctx) };
    let Some(goroutine) = known(&key, story_ns) else { return };
    // SAFETY: as in `park`.
    let Goroutine { begun_ns, gopc, startpc, .. } = unsafe { *goroutine };
    let _ = GOROUTINES.remove(&key);
    if begun_ns != 0 {
        count(SiteKey { process, gopc, startpc }, LIFETIME, begun_ns);
    }
}

/// The entry of a goroutine, if it is of this story.
#[inline(always)]
fn known(key: &GoroutineKey, story_ns: u64) -> Option<*mut Goroutine> {
    let goroutine = GOROUTINES.get_ptr_mut(key)?;
    // SAFETY: as in `park`.
    (unsafe { (*goroutine).story_ns } == story_ns).then_some(goroutine)
}

#[inline(always)]
fn remember(key: &GoroutineKey, goroutine: &Goroutine) {
    if GOROUTINES.insert(key, goroutine, BPF_ANY.into()).is_err() {
        lose(key.process, ProcessLoss::GoroutineMapFull, None);
    }
}

/// Counts what began at `since_ns` and ends now.
#[inline(always)]
fn count(site: SiteKey, of: u64, since_ns: u64) {
    // SAFETY: the helper has no preconditions.
    let ns = unsafe { bpf_ktime_get_ns() }.saturating_sub(since_ns);
    let histogram = slot(&HISTOGRAMS, &HistogramKey { process: site.process, of }, &EMPTY);
    let spent = slot(&SPENT, &SpentKey { site, of }, &Spent { count: 0, ns: 0 });
    if let Some(histogram) = histogram {
        // SAFETY: a map value lives until its process's counters are read and removed, after its end. The index is within
        // the array.
        unsafe {
            add(&raw mut (*histogram).ns, ns);
            add_one((&raw mut (*histogram).buckets).cast::<u64>().add(bucket(ns) & (BUCKETS - 1)));
        }
    }
    if let Some(spent) = spent {
        // SAFETY: as above.
        unsafe {
            add_one(&raw mut (*spent).count);
            add(&raw mut (*spent).ns, ns);
        }
    }
    if histogram.is_none() || spent.is_none() {
        lose(site.process, ProcessLoss::TimeMapFull, None);
    }
}

/// The value for `key`, made if need be. `None` where the map is full.
#[inline(always)]
fn slot<K, V>(map: &HashMap<K, V>, key: &K, zero: &V) -> Option<*mut V> {
    if let Some(value) = map.get_ptr_mut(key) {
        return Some(value);
    }
    // Two CPUs may come here at once: one insert wins, both then find the value.
    let _ = map.insert(key, zero, BPF_NOEXIST.into());
    map.get_ptr_mut(key)
}
