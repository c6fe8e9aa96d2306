//! Reads every goroutine struct, in large batches, until each has held still.
//!
//! A batch of structs is read, then what they lead to (stacks, labels, sudogs), then the structs again. A goroutine
//! that neither ran nor was reused in between is the same to the last byte: each time it leaves a thread the runtime
//! counts up a byte in its struct (`trackingSeq`). The others are read again in ever smaller batches, where there is
//! less time to change. One that runs has no stack to read; for it its identity must hold still.

use std::time::{Instant, SystemTime};

use super::{
    Census, CensusError, Detail, Goroutine, MAX_ENDED, Origin, Origins, Runtime, Unsettled,
    goroutine::{Raw, Slot, Status, run_mark, same_bytes},
    holders,
    labels::{self, LabelSets, LabelsId},
    running,
    stacks::{CallSite, Depth, Stacks},
    unwind::{Begin, StackBytes, Unwinder},
    waits::{self, WaitObjects, WaitsOn},
};
use crate::{
    address::RuntimeAddr,
    host::{Batch, Memory, Threads, monotonic_ns},
    runtime::waiting::SudogLayout,
};

/// Sizes of batches, from the first reading to the last.
const TRIES: [usize; 12] = [4096, 256, 32, 4, 1, 1, 1, 1, 1, 1, 1, 1];
/// Bytes of stacks that are read before their goroutines are looked at again.
const MAX_GROUP_BYTES: usize = 8 << 20;
/// Bytes of one stack.
const MAX_STACK_BYTES: u64 = 4 << 20;
/// Bytes of all stacks: a floor, and more for each goroutine.
const STACK_BUDGET_BYTES: u64 = 256 << 20;
const STACK_BUDGET_PER_SLOT_BYTES: u64 = 16 << 10;
/// Structs that may be read again: a floor, and a share of all.
const RETRY_BUDGET: u64 = 50_000;
const RETRY_SHARE: u64 = 2;
/// Sudogs per goroutine, on average, beside a floor.
const LINKS_PER_SLOT: u64 = 4;
const LINKS: u64 = 1 << 20;

/// One struct on its way.
#[derive(Clone, Copy)]
struct Entry {
    slot: u32,
    address: RuntimeAddr,
}

/// A struct that holds a goroutine, with what was read of it.
struct Candidate {
    entry: Entry,
    /// Its number in the first batch.
    piece: usize,
    raw: Raw,
    resumes_at: Option<(u64, u64)>,
    stack_piece: Option<usize>,
    labels: Option<LabelsId>,
    asked: Option<usize>,
}

struct Walk<'a, M> {
    runtime: &'a Runtime,
    memory: &'a M,
    detail: Detail,
    sudog: SudogLayout,
    /// Before Go 1.24 a goroutine is runnable for an instant before it has its number.
    goid_comes_late: bool,
    first: Batch,
    again: Batch,
    extra: Batch,
    unwinder: Unwinder<'a>,
    label_reader: labels::Reader,
    calls: Vec<CallSite>,
    stack_budget: u64,
    retry_budget: u64,
    link_budget: u64,
    /// Slots and addresses of goroutines that run.
    running: Vec<(u32, RuntimeAddr)>,
    census: Census,
}

/// Reads all goroutines; of those that run, their stacks, where there are `threads` to be sampled.
pub(super) fn walk(
    runtime: &Runtime,
    memory: &impl Memory,
    detail: Detail,
    threads: Option<&Threads>,
) -> Result<Census, CensusError> {
    let start = Instant::now();
    let (time, monotonic_ns) = (SystemTime::now(), monotonic_ns());
    let slots = runtime.allgs.slots(memory)?;
    let count = slots.len() as u64;
    let version = runtime.binary.go_version();
    let mut walk = Walk {
        runtime,
        memory,
        detail,
        sudog: SudogLayout::of(version),
        goid_comes_late: (version.major, version.minor) < (1, 24),
        first: Batch::default(),
        again: Batch::default(),
        extra: Batch::default(),
        unwinder: Unwinder::new(&runtime.binary, runtime.bias),
        label_reader: labels::Reader::new(version),
        calls: Vec::new(),
        stack_budget: STACK_BUDGET_BYTES + count * STACK_BUDGET_PER_SLOT_BYTES,
        retry_budget: RETRY_BUDGET + count / RETRY_SHARE,
        link_budget: LINKS + count * LINKS_PER_SLOT,
        running: Vec::new(),
        census: Census {
            time,
            monotonic_ns: Some(monotonic_ns),
            took: start.elapsed(),
            goroutines: Vec::with_capacity(slots.len()),
            vacant: 0,
            ended: Vec::new(),
            stacks: Stacks::default(),
            labels: LabelSets::default(),
            wait_objects: WaitObjects::default(),
            mentions: Vec::new(),
            unsettled: Unsettled::default(),
            origins: Origins::default(),
        },
    };
    walk.all(&slots)?;
    let (mut census, running) = (walk.census, walk.running);
    census.unsettled.frame_pointers = walk.unwinder.frame_pointer_differs;
    if !census.goroutines.is_sorted_by_key(|goroutine| goroutine.slot) {
        census.goroutines.sort_by_key(|goroutine| goroutine.slot);
    }
    if let Some(threads) = threads.filter(|_| detail.stacks) {
        let place = |(slot, address): (u32, RuntimeAddr)| {
            let index = census.goroutines.binary_search_by_key(&slot, |goroutine| goroutine.slot);
            index.ok().map(|index| (index, address))
        };
        let running: Vec<_> = running.into_iter().filter_map(place).collect();
        running::fill_in(runtime, memory, threads, &running, &mut census)?;
    }
    if detail.waits && detail.stacks {
        census.mentions = holders::mentions(runtime, memory, &slots, &census)?;
    }
    if detail.stacks {
        runtime.mark_user_code(&mut census);
    }
    census.took = start.elapsed();
    Ok(census)
}

impl<M: Memory> Walk<'_, M> {
    fn all(&mut self, slots: &[RuntimeAddr]) -> Result<(), CensusError> {
        let entries = (0u32..).zip(slots).map(|(slot, address)| Entry { slot, address: *address });
        // An empty entry is one that is just being added.
        let mut entries: Vec<Entry> = entries.filter(|entry| entry.address.0 != 0).collect();
        for (attempt, size) in TRIES.iter().enumerate() {
            let mut unsettled = Vec::new();
            let last = attempt + 1 == TRIES.len();
            for chunk in entries.chunks(*size) {
                if attempt > 0 {
                    let left = self.retry_budget.checked_sub(chunk.len() as u64);
                    self.retry_budget = left.unwrap_or_default();
                    self.pass(chunk, attempt, last || left.is_none(), &mut unsettled)?;
                } else {
                    self.pass(chunk, attempt, false, &mut unsettled)?;
                }
            }
            if unsettled.is_empty() {
                break;
            }
            entries = unsettled;
        }
        Ok(())
    }

    /// Reads some structs once. Those that did not hold still go to `unsettled`, or, the last time, are counted.
    fn pass(
        &mut self,
        entries: &[Entry],
        attempt: usize,
        last: bool,
        unsettled: &mut Vec<Entry>,
    ) -> Result<(), CensusError> {
        let layout = &self.runtime.layout;
        self.first.clear();
        for entry in entries {
            self.first.add(entry.address, layout.size);
        }
        self.memory.read_batch(&mut self.first)?;
        let mut group = Vec::new();
        let mut group_bytes = 0u64;
        for (piece, entry) in entries.iter().enumerate() {
            let raw = self.first.get(piece).and_then(|bytes| Raw::parse(bytes, layout));
            let raw = match raw {
                Some(Raw { slot: Slot::Vacant, goid, parent, .. }) => {
                    self.census.vacant += 1;
                    if goid != 0 && parent != 0 && self.census.ended.len() < MAX_ENDED {
                        self.census.ended.push((goid, parent));
                    }
                    continue;
                }
                Some(raw) if raw.is_at(entry.address) && raw.goid != 0 => raw,
                _ if last => {
                    self.census.unsettled.structs += 1;
                    continue;
                }
                _ => {
                    unsettled.push(*entry);
                    continue;
                }
            };
            let not_begun = raw.slot == Slot::Occupied(Status::Runnable) && raw.sched_pc == raw.startpc;
            if self.goid_comes_late && not_begun && attempt == 0 {
                unsettled.push(*entry);
                continue;
            }
            let resumes_at = raw.resumes_at();
            let stack = resumes_at.filter(|_| self.detail.stacks).map_or(0, |(_, sp)| raw.stack_hi - sp);
            let candidate =
                Candidate { entry: *entry, piece, raw, resumes_at, stack_piece: None, labels: None, asked: None };
            group.push(candidate);
            group_bytes += stack.min(MAX_STACK_BYTES);
            if group_bytes as usize >= MAX_GROUP_BYTES {
                self.settle(&mut group, last, unsettled)?;
                group_bytes = 0;
            }
        }
        self.settle(&mut group, last, unsettled)
    }

    /// Reads what the structs of a group lead to, then the structs again, and takes those that are the same.
    fn settle(
        &mut self,
        group: &mut Vec<Candidate>,
        last: bool,
        unsettled: &mut Vec<Entry>,
    ) -> Result<(), CensusError> {
        if group.is_empty() {
            return Ok(());
        }
        let waits = self.read_waits(group)?;
        self.read_labels(group)?;
        self.read_stacks(group)?;
        self.again.clear();
        for candidate in group.iter() {
            self.again.add(candidate.entry.address, self.runtime.layout.size);
        }
        self.memory.read_batch(&mut self.again)?;
        for (piece, candidate) in group.iter().enumerate() {
            let layout = &self.runtime.layout;
            let (first, again) = (self.first.get(candidate.piece), self.again.get(piece));
            let now = again.and_then(|bytes| Raw::parse(bytes, layout));
            let now = now.filter(|now| now.slot == Slot::Vacant || now.is_at(candidate.entry.address));
            let running = candidate.raw.slot == Slot::Occupied(Status::Running);
            let still = first.zip(again).is_some_and(|(first, again)| same_bytes(first, again, layout));
            match now {
                Some(now) if now.same_state(&candidate.raw) && (running || still) => {
                    let asked = candidate.asked.and_then(|index| waits.get(index));
                    self.take(candidate, asked);
                }
                Some(Raw { slot: Slot::Vacant, .. }) => self.census.vacant += 1,
                _ if !last => unsettled.push(candidate.entry),
                Some(now) if now.same_goroutine(&candidate.raw) => self.take_unsettled(candidate, &now),
                _ => self.census.unsettled.structs += 1,
            }
        }
        group.clear();
        Ok(())
    }

    /// A goroutine that held still.
    fn take(&mut self, candidate: &Candidate, asked: Option<&waits::Asked>) {
        let raw = &candidate.raw;
        let Slot::Occupied(status) = raw.slot else { return };
        let mut stack = None;
        if let (Some((pc, sp)), Some(piece)) = (candidate.resumes_at, candidate.stack_piece) {
            if let Some(bytes) = self.extra.get(piece) {
                let bytes = StackBytes { start: sp, bytes, end: raw.stack_hi };
                let saved_bp = (status != Status::Syscall && raw.syscall_sp == 0).then_some(raw.sched_bp);
                let saved_bp = saved_bp.filter(|bp| (raw.stack_lo..raw.stack_hi).contains(bp));
                let depth = self.unwinder.unwind(Begin::Saved { pc, bp: saved_bp }, &bytes, &mut self.calls);
                self.census.unsettled.broken_stacks += u64::from(depth == Depth::Broken);
                stack = self.census.stacks.intern(&self.calls, depth);
            }
            self.census.unsettled.details += u64::from(stack.is_none());
        }
        let waits = asked.map_or(WaitsOn::default(), |asked| self.census.wait_objects.record(&asked.found));
        let wait_reason = status.has_wait_reason().then_some(raw.wait_reason);
        let goroutine = self.goroutine(candidate, raw, status);
        let labels = candidate.labels.unwrap_or_default();
        if status == Status::Running {
            self.running.push((candidate.entry.slot, candidate.entry.address));
        }
        self.census.goroutines.push(Goroutine { stack, waits, wait_reason, labels, ..goroutine });
    }

    /// A goroutine whose state kept changing: it is there, and that is all there is to say.
    fn take_unsettled(&mut self, candidate: &Candidate, now: &Raw) {
        let Slot::Occupied(status) = now.slot else { return };
        self.census.unsettled.states += 1;
        let goroutine = self.goroutine(candidate, now, status);
        self.census.goroutines.push(goroutine);
    }

    fn goroutine(&mut self, candidate: &Candidate, raw: &Raw, status: Status) -> Goroutine {
        let origin = Origin { gopc: RuntimeAddr(raw.gopc), startpc: RuntimeAddr(raw.startpc) };
        let (origin, _) = self.census.origins.intern(origin, self.runtime);
        let bytes = self.first.get(candidate.piece).unwrap_or_default();
        let run_mark = run_mark(bytes, raw, &self.runtime.layout);
        let used = raw.resumes_at().map_or(0, |(_, sp)| raw.stack_hi.saturating_sub(sp));
        Goroutine {
            goid: raw.goid,
            parent_goid: raw.parent,
            wait_since_ns: raw.wait_since,
            run_mark,
            origin,
            stack: None,
            labels: LabelsId::NONE,
            waits: WaitsOn::default(),
            stack_bytes: raw.stack_hi.saturating_sub(raw.stack_lo),
            stack_used_bytes: u32::try_from(used).unwrap_or(u32::MAX),
            status,
            wait_reason: None,
            locked: raw.locked,
            runs_user_code: false,
            slot: candidate.entry.slot,
        }
    }

    fn read_stacks(&mut self, group: &mut [Candidate]) -> Result<(), CensusError> {
        if !self.detail.stacks {
            return Ok(());
        }
        self.extra.clear();
        for candidate in group {
            let Some((_, sp)) = candidate.resumes_at else { continue };
            let bytes = (candidate.raw.stack_hi - sp).min(MAX_STACK_BYTES);
            let Some(left) = self.stack_budget.checked_sub(bytes) else {
                self.census.unsettled.details += 1;
                continue;
            };
            self.stack_budget = left;
            candidate.stack_piece = Some(self.extra.add(RuntimeAddr(sp), u32::try_from(bytes).unwrap_or(0)));
        }
        Ok(self.memory.read_batch(&mut self.extra)?)
    }

    fn read_labels(&mut self, group: &mut [Candidate]) -> Result<(), CensusError> {
        self.label_reader.forget();
        for candidate in group.iter_mut().filter(|candidate| self.detail.labels && candidate.raw.labels != 0) {
            let sets = &mut self.census.labels;
            candidate.labels = self.label_reader.read(self.memory, candidate.raw.labels, sets)?;
            self.census.unsettled.details += u64::from(candidate.labels.is_none());
        }
        Ok(())
    }

    fn read_waits(&mut self, group: &mut [Candidate]) -> Result<Vec<waits::Asked>, CensusError> {
        let mut asked = Vec::new();
        if !self.detail.waits {
            return Ok(asked);
        }
        for candidate in group {
            let Slot::Occupied(status) = candidate.raw.slot else { continue };
            if status.has_wait_reason() && candidate.raw.waiting != 0 {
                candidate.asked = Some(asked.len());
                let (g, next) = (candidate.entry.address.0, candidate.raw.waiting);
                asked.push(waits::Asked { g, next, found: Vec::new() });
            }
        }
        waits::follow(self.memory, self.sudog, &mut asked, &mut self.extra, &mut self.link_budget)?;
        Ok(asked)
    }
}
