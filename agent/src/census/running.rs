//! Stacks of goroutines that run: nothing is saved of them in memory, so the kernel samples their threads.
//!
//! A sample is of one instant. It is a goroutine's if the stack pointer is in its stack, and if it is the same goroutine
//! with the same stack before the sampling and after; and it is believed if it leads to the function the goroutine began
//! with. A thread may be elsewhere when it is sampled (the scheduler's own stack, C); then the next sample may do.

use std::time::Duration;

use super::{
    Census, CensusError, Goroutine, Runtime, Status,
    goroutine::Raw,
    stacks::{CallSite, Depth},
    unwind::{Begin, StackBytes, Unwinder},
};
use crate::{
    address::RuntimeAddr,
    host::{Batch, Memory, Sample, Threads},
};

/// How long threads are sampled; some milliseconds are enough where they get a processor.
const LIMIT: Duration = Duration::from_millis(100);

/// A running goroutine on its way to a stack.
struct Candidate {
    /// Its position in the census.
    index: usize,
    address: RuntimeAddr,
    goid: u64,
    stack_lo: u64,
    stack_hi: u64,
    found: Option<Found>,
}

struct Found {
    calls: Vec<CallSite>,
    depth: Depth,
    used_bytes: u64,
}

/// Fills in what can be had. `running`: goroutines of the census by position, with the addresses of their structs.
pub(super) fn fill_in(
    runtime: &Runtime,
    memory: &impl Memory,
    threads: &Threads,
    running: &[(usize, RuntimeAddr)],
    census: &mut Census,
) -> Result<(), CensusError> {
    if running.is_empty() {
        return Ok(());
    }
    let mut candidates = candidates(runtime, memory, running, census)?;
    let mut sampling = match threads.sample() {
        Ok(sampling) => sampling,
        Err(error) => {
            tracing::info!("running goroutines have no stacks: their threads cannot be sampled: {error}");
            return Ok(());
        }
    };
    let mut unwinder = Unwinder::new(&runtime.binary, runtime.bias);
    let mut missing = candidates.len();
    sampling.for_each(LIMIT, |sample| {
        let at = |candidate: &&mut Candidate| (candidate.stack_lo..candidate.stack_hi).contains(&sample.stack_pointer);
        if let Some(candidate) = candidates.iter_mut().find(at).filter(|candidate| candidate.found.is_none()) {
            let start = census.goroutines.get(candidate.index).map(|one| census.origin(one).startpc);
            candidate.found = start.and_then(|start| unwind(runtime, &mut unwinder, sample, candidate, start));
            missing -= usize::from(candidate.found.is_some());
        }
        missing == 0
    });
    drop(sampling);
    keep(runtime, memory, candidates, census)
}

/// Those that are still who they were.
fn candidates(
    runtime: &Runtime,
    memory: &impl Memory,
    running: &[(usize, RuntimeAddr)],
    census: &Census,
) -> Result<Vec<Candidate>, CensusError> {
    let raws = read(runtime, memory, running.iter().map(|(_, address)| *address))?;
    let both = running.iter().zip(raws);
    let same = both.filter_map(|((index, address), raw)| {
        let goid = census.goroutines.get(*index)?.goid;
        let raw = raw.filter(|raw| raw.goid == goid && raw.is_at(*address))?;
        let (stack_lo, stack_hi) = (raw.stack_lo, raw.stack_hi);
        Some(Candidate { index: *index, address: *address, goid, stack_lo, stack_hi, found: None })
    });
    Ok(same.collect())
}

fn read(
    runtime: &Runtime,
    memory: &impl Memory,
    addresses: impl Iterator<Item = RuntimeAddr>,
) -> Result<Vec<Option<Raw>>, CensusError> {
    let mut batch = Batch::default();
    let pieces: Vec<usize> = addresses.map(|address| batch.add(address, runtime.layout.size)).collect();
    memory.read_batch(&mut batch)?;
    Ok(pieces.into_iter().map(|piece| Raw::parse(batch.get(piece)?, &runtime.layout)).collect())
}

fn unwind(
    runtime: &Runtime,
    unwinder: &mut Unwinder<'_>,
    sample: &Sample,
    candidate: &Candidate,
    start: RuntimeAddr,
) -> Option<Found> {
    let used_bytes = candidate.stack_hi - sample.stack_pointer;
    let length = usize::try_from(used_bytes).unwrap_or(usize::MAX).min(sample.stack.len());
    let stack = StackBytes { start: sample.stack_pointer, bytes: sample.stack.get(..length)?, end: candidate.stack_hi };
    let mut calls = Vec::new();
    let depth = unwinder.unwind(Begin::Sampled { pc: sample.pc, link: sample.link }, &stack, &mut calls);
    let believed = match depth {
        Depth::Whole => calls.last().is_some_and(|first| runtime.is_in_function(*first, start)),
        // Deeper than a sample holds.
        Depth::Cut => (length as u64) < used_bytes,
        Depth::Broken => false,
    };
    believed.then_some(Found { calls, depth, used_bytes })
}

/// Takes the stacks of those that are the same goroutine, on the same stack, as before.
fn keep(
    runtime: &Runtime,
    memory: &impl Memory,
    candidates: Vec<Candidate>,
    census: &mut Census,
) -> Result<(), CensusError> {
    let raws = read(runtime, memory, candidates.iter().map(|candidate| candidate.address))?;
    for (candidate, raw) in candidates.into_iter().zip(raws) {
        let same = raw.is_some_and(|raw| {
            (raw.goid, raw.stack_lo, raw.stack_hi) == (candidate.goid, candidate.stack_lo, candidate.stack_hi)
        });
        let Some(found) = candidate.found.filter(|_| same) else { continue };
        let stack = census.stacks.intern(&found.calls, found.depth);
        if let Some(Goroutine { stack: place, stack_used_bytes, status: Status::Running, .. }) =
            census.goroutines.get_mut(candidate.index)
        {
            *place = stack;
            *stack_used_bytes = u32::try_from(found.used_bytes).unwrap_or(u32::MAX);
        }
    }
    Ok(())
}
