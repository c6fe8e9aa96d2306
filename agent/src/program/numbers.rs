//! The Go runtime's numbers about itself: garbage collections, heap, threads, processors. Read out of its own
//! variables, where [`NumberPlaces`] knows them.

use crate::{
    address::{Bias, RuntimeAddr, VirtAddr},
    binary::bytes::{u32_at, u64_at},
    host::{Batch, Memory, MemoryError},
    runtime::{NumberPlaces, scheduler::GOID_BATCH},
};

/// Numbers of one process at one time; `None` where they cannot be had with certainty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// `memstats.numgc`: completed garbage collections. Wraps around.
    pub gc_cycles: Option<u32>,
    /// `memstats.pause_total_ns`: time the world was stopped for them.
    pub gc_pause_ns: Option<u64>,
    /// `gcController.gcPercentHeapGoal`: the size of the heap that GOGC lets it grow to; `None` also with GOGC=off.
    pub heap_goal_bytes: Option<u64>,
    /// `gcController.heapLive`: the heap in use, whole spans as they are allocated.
    pub heap_live_bytes: Option<u64>,
    /// `sched.mnext` - `sched.nmfreed`: threads of the runtime.
    pub threads: Option<u64>,
    /// `gomaxprocs`.
    pub processors: Option<u32>,
    /// `sched.npidle`.
    pub idle_processors: Option<u32>,
    /// `sched.runqsize`, `sched.runq.size`: goroutines in the global run queue.
    pub run_queue: Option<u32>,
    /// `p.runq` and `p.runnext` of all processors.
    pub local_queues: Option<LocalQueues>,
}

/// Runnable goroutines that processors have in queues of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalQueues {
    /// In all of them.
    pub goroutines: u64,
    /// In the longest one.
    pub longest: u32,
}

/// More threads or processors than any machine has: then it is something else that was read.
const MAX_THREADS: u64 = 1 << 20;
/// More processors than whose queues are looked at.
const MAX_PROCESSORS: u32 = 4096;
/// `len(p.runq)`.
const QUEUE: u32 = 256;
/// `p.status` goes to `_Pdead`.
const LAST_STATUS: u32 = 4;
/// In a `p`, from `goidcache` on: `goidcache`, `goidcacheend`, `runqhead` and `runqtail` of 4 bytes, `runq`, `runnext`.
const QUEUE_HEAD: usize = 16;
const STOCK_AND_QUEUE_BYTES: u32 = 24;
const NEXT_AFTER_STOCK: u32 = STOCK_AND_QUEUE_BYTES + 8 * QUEUE;

impl NumberPlaces {
    /// Reads them from a process that loaded the binary with `bias`.
    ///
    /// # Errors
    ///
    /// [`MemoryError`].
    pub fn read(&self, memory: &impl Memory, bias: Bias) -> Result<Numbers, MemoryError> {
        let mut batch = Batch::default();
        let all = [self.memstats.as_slice().as_flattened(), self.controller.as_slice().as_flattened()];
        let sched = self.sched.as_slice().as_flattened();
        let places: Vec<VirtAddr> =
            all.concat().into_iter().chain(sched.iter().copied()).chain(self.gomaxprocs).collect();
        for place in &places {
            batch.add(bias.to_runtime(*place), 8);
        }
        memory.read_batch(&mut batch)?;
        let bytes = |place: VirtAddr| {
            let piece = places.iter().position(|other| *other == place)?;
            batch.get(piece)
        };
        let word = |place| bytes(place).and_then(|bytes| u64_at(bytes, 0));
        let half = |place| bytes(place).and_then(|bytes| u32_at(bytes, 0));
        let mut numbers = Numbers::default();
        if let Some([pause, cycles]) = self.memstats {
            (numbers.gc_pause_ns, numbers.gc_cycles) = (word(pause), half(cycles));
        }
        if let Some([goal, live]) = self.controller {
            numbers.heap_goal_bytes = word(goal).filter(|goal| *goal != u64::MAX);
            numbers.heap_live_bytes = word(live);
        }
        numbers.processors =
            self.gomaxprocs.and_then(half).filter(|count| (1..MAX_THREADS).contains(&u64::from(*count)));
        if let (Some([mnext, nmfreed, npidle, queue]), Some(processors)) = (self.sched, numbers.processors) {
            let threads = word(mnext).zip(word(nmfreed)).and_then(|(made, freed)| made.checked_sub(freed));
            numbers.threads = threads.filter(|threads| (1..MAX_THREADS).contains(threads));
            numbers.idle_processors = half(npidle).filter(|idle| *idle <= processors);
            numbers.run_queue = half(queue).filter(|length| i32::try_from(*length).is_ok());
        }
        if let (Some((allp, stock)), Some(processors)) = (self.allp, numbers.processors) {
            numbers.local_queues = local_queues(memory, bias.to_runtime(allp), stock, processors)?;
        }
        Ok(numbers)
    }
}

/// Reads the queues of all processors. `None` where what is there is not the list of that many.
fn local_queues(
    memory: &impl Memory,
    allp: RuntimeAddr,
    stock: u64,
    processors: u32,
) -> Result<Option<LocalQueues>, MemoryError> {
    let mut batch = Batch::default();
    batch.add(allp, 16);
    memory.read_batch(&mut batch)?;
    let list = batch.get(0).and_then(|bytes| Some((u64_at(bytes, 0)?, u64_at(bytes, 8)?)));
    let Some((list, _)) = list.filter(|(_, length)| *length == u64::from(processors) && processors <= MAX_PROCESSORS)
    else {
        return Ok(None);
    };
    let mut batch = Batch::default();
    batch.add(RuntimeAddr(list), 8 * processors);
    memory.read_batch(&mut batch)?;
    let Some(pointers) = batch.get(0).map(|bytes| bytes.as_chunks::<8>().0.to_vec()) else { return Ok(None) };
    let mut batch = Batch::default();
    for pointer in &pointers {
        let p = u64::from_le_bytes(*pointer);
        batch.add(RuntimeAddr(p), 8);
        batch.add(RuntimeAddr(p.wrapping_add(stock)), STOCK_AND_QUEUE_BYTES);
        batch.add(RuntimeAddr(p.wrapping_add(stock + u64::from(NEXT_AFTER_STOCK))), 8);
    }
    memory.read_batch(&mut batch)?;
    let mut queues = LocalQueues::default();
    for number in 0..pointers.len() {
        let piece = |part: usize| batch.get(3 * number + part);
        let length = match (piece(0), piece(1), piece(2)) {
            (Some(head), Some(queue), Some(next)) => queue_length(number, head, queue, next),
            _ => None,
        };
        let Some(length) = length else { return Ok(None) };
        queues.goroutines += u64::from(length);
        queues.longest = queues.longest.max(length);
    }
    Ok(Some(queues))
}

/// Goroutines that a processor has in stock; `None` where it is none.
fn queue_length(number: usize, head: &[u8], queue: &[u8], next: &[u8]) -> Option<u32> {
    let (id, status) = (u32_at(head, 0)?, u32_at(head, 4)?);
    let goids = u64_at(queue, 8)?.checked_sub(u64_at(queue, 0)?)?;
    let length = u32_at(queue, QUEUE_HEAD + 4)?.wrapping_sub(u32_at(queue, QUEUE_HEAD)?);
    let is_one = usize::try_from(id) == Ok(number) && status <= LAST_STATUS && goids <= GOID_BATCH && length <= QUEUE;
    is_one.then_some(length + u32::from(u64_at(next, 0)? != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_processor_has_a_queue() {
        let bytes = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
        let (head, next) = (bytes(&[3, 1]), bytes(&[7, 0]));
        let queue = bytes(&[17, 0, 33, 0, u32::MAX, 1]);
        assert_eq!(queue_length(3, &head, &queue, &next), Some(3), "the ends wrap around");
        assert_eq!(queue_length(3, &head, &queue, &bytes(&[0, 0])), Some(2));
        assert_eq!(queue_length(2, &head, &queue, &next), None, "another one");
        assert_eq!(queue_length(3, &bytes(&[3, 5]), &queue, &next), None, "no such status");
        assert_eq!(queue_length(3, &head, &bytes(&[17, 0, 34, 0, 0, 0]), &next), None, "too many goids");
        assert_eq!(queue_length(3, &head, &bytes(&[17, 0, 33, 0, 0, 257]), &next), None, "too long");
        assert_eq!(queue_length(3, &head, &[], &next), None);
    }
}
