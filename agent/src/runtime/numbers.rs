//! What the Go runtime knows of itself: garbage collections, heap, threads, processors. Read out of its own variables.
//!
//! They are found by name in the symbol table, and a number is read only where the Go version is in the table and the
//! variable has the very size it has there: an experiment or a patch that moved fields changes the size. Anywhere
//! else there is no number.

use super::table::ROWS;
use crate::{
    address::{Bias, VirtAddr},
    binary::{
        Architecture, Binary, BinaryError,
        bytes::{u32_at, u64_at},
    },
    host::{Batch, Memory, MemoryError},
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
}

/// A symbol table larger than this is not looked through.
const MAX_SYMBOLS_BYTES: u64 = 256 << 20;
const SYMBOL_BYTES: usize = 24;
/// More threads or processors than any machine has: then it is something else that was read.
const MAX_THREADS: u64 = 1 << 20;

/// Where the numbers are in a binary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NumberPlaces {
    memstats: Option<[VirtAddr; 2]>,
    controller: Option<[VirtAddr; 2]>,
    sched: Option<[VirtAddr; 4]>,
    gomaxprocs: Option<VirtAddr>,
}

impl NumberPlaces {
    /// Finds them; none where the version is not in the table or there is no symbol table.
    ///
    /// # Errors
    ///
    /// [`BinaryError`] for a symbol table that cannot be read.
    pub fn of(binary: &Binary) -> Result<Self, BinaryError> {
        let version = binary.go_version();
        let experiment = binary.build_info().and_then(|info| info.setting("GOEXPERIMENT"));
        let released = version.raw.starts_with("go1.") && !version.raw.contains("X:");
        let row = ROWS.iter().find(|row| row.go == (version.major, version.minor) && row.toolchain.is_some());
        let Some(row) = row.filter(|_| released && experiment.is_none_or(str::is_empty)) else {
            return Ok(Self::default());
        };
        let [memstats, controller, sched, gomaxprocs] =
            symbols(binary, ["runtime.memstats", "runtime.gcController", "runtime.sched", "runtime.gomaxprocs"])?;
        let place = |symbol: Option<Symbol>, size: u32| symbol.filter(|symbol| symbol.size == u64::from(size));
        let [pause_total, cycles, mstats_bytes] = row.mstats;
        let [heap_goal, heap_live, on_amd64, on_arm64] = row.gc_controller;
        let [mnext, nmfreed, npidle, queue, sched_bytes] = row.sched;
        let controller_bytes = match binary.architecture() {
            Architecture::Amd64 => on_amd64,
            Architecture::Arm64 => on_arm64,
        };
        Ok(Self {
            memstats: place(memstats, mstats_bytes).map(|symbol| [pause_total, cycles].map(|at| symbol.field(at))),
            controller: place(controller, controller_bytes)
                .map(|symbol| [heap_goal, heap_live].map(|at| symbol.field(at))),
            sched: place(sched, sched_bytes).map(|symbol| [mnext, nmfreed, npidle, queue].map(|at| symbol.field(at))),
            gomaxprocs: place(gomaxprocs, 4).map(|symbol| symbol.field(0)),
        })
    }

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
        Ok(numbers)
    }
}

#[derive(Clone, Copy)]
struct Symbol {
    address: u64,
    size: u64,
}

impl Symbol {
    fn field(self, offset: u32) -> VirtAddr {
        VirtAddr(self.address.saturating_add(u64::from(offset)))
    }
}

/// Looks variables up by name.
fn symbols<const N: usize>(binary: &Binary, names: [&str; N]) -> Result<[Option<Symbol>; N], BinaryError> {
    let mut found = [None; N];
    let Some(image) = binary.image_with(".symtab") else { return Ok(found) };
    let Some(table) = image.section_data(".symtab", MAX_SYMBOLS_BYTES)? else { return Ok(found) };
    let Some(strings) = image.section_data(".strtab", MAX_SYMBOLS_BYTES)? else { return Ok(found) };
    for entry in table.as_chunks::<SYMBOL_BYTES>().0 {
        let Some(name) = u32_at(entry, 0).and_then(|at| strings.get(at as usize..)) else { continue };
        for (place, wanted) in found.iter_mut().zip(names) {
            let is_it = name.strip_prefix(wanted.as_bytes()).is_some_and(|rest| rest.first() == Some(&0));
            if let (true, Some(address), Some(size)) = (is_it, u64_at(entry, 8), u64_at(entry, 16)) {
                *place = Some(Symbol { address, size });
            }
        }
    }
    Ok(found)
}
