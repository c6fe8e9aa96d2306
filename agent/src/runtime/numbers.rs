//! What the Go runtime knows of itself: garbage collections, heap, threads, processors. Read out of its own variables.
//!
//! They are found by name in the symbol table, and a number is read only where the Go version is in the table below and
//! the variable has the very size it has there: an experiment or a patch that moved fields changes the size. Anywhere
//! else there is no number.

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

/// Sizes and offsets in bytes (`runtime/mstats.go`, `runtime/mgcpacer.go`, `runtime/runtime2.go`).
struct Row {
    minor: u32,
    /// Size of `mstats`; `pause_total_ns`, `numgc`.
    memstats: [u32; 3],
    /// Size of `gcControllerState` on amd64, on arm64; `gcPercentHeapGoal`, `heapLive`.
    controller: [u32; 4],
    /// Size of `schedt`; `mnext`, `nmfreed`, `npidle`, the size of the run queue.
    sched: [u32; 5],
}

/// Taken from the DWARF of real toolchains, first and last patch release of each. No Go 1.20 was at hand.
const ROWS: [Row; 8] = [
    Row { minor: 19, memstats: [13512, 3600, 7704], controller: [424, 424, 104, 136], sched: [6080, 48, 64, 88, 112] },
    Row { minor: 21, memstats: [9040, 3600, 7704], controller: [392, 456, 72, 104], sched: [1632, 48, 64, 88, 120] },
    Row { minor: 22, memstats: [7744, 3600, 7704], controller: [392, 456, 72, 104], sched: [6824, 48, 64, 88, 120] },
    Row { minor: 23, memstats: [7744, 3600, 7704], controller: [392, 456, 72, 104], sched: [6824, 48, 64, 88, 120] },
    Row { minor: 24, memstats: [7744, 3600, 7704], controller: [392, 456, 72, 104], sched: [6824, 48, 64, 88, 120] },
    Row { minor: 25, memstats: [8264, 3576, 7680], controller: [392, 456, 72, 104], sched: [6848, 56, 72, 96, 128] },
    Row { minor: 26, memstats: [10440, 3576, 7680], controller: [392, 456, 72, 104], sched: [6872, 72, 88, 112, 144] },
    Row { minor: 27, memstats: [10440, 3576, 7680], controller: [392, 456, 72, 104], sched: [6872, 72, 88, 112, 144] },
];

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
        let row = ROWS.iter().find(|row| (1, row.minor) == (version.major, version.minor));
        let Some(row) = row.filter(|_| released && experiment.is_none_or(str::is_empty)) else {
            return Ok(Self::default());
        };
        let [memstats, controller, sched, gomaxprocs] =
            symbols(binary, ["runtime.memstats", "runtime.gcController", "runtime.sched", "runtime.gomaxprocs"])?;
        let place = |symbol: Option<Symbol>, size: u32| symbol.filter(|symbol| symbol.size == u64::from(size));
        let controller_size = match binary.architecture() {
            Architecture::Amd64 => row.controller[0],
            Architecture::Arm64 => row.controller[1],
        };
        let (memory, heap, threads) = (row.memstats, row.controller, row.sched);
        Ok(Self {
            memstats: place(memstats, memory[0]).map(|symbol| [symbol.field(memory[1]), symbol.field(memory[2])]),
            controller: place(controller, controller_size).map(|symbol| [symbol.field(heap[2]), symbol.field(heap[3])]),
            sched: place(sched, threads[0]).map(|symbol| {
                let [_, mnext, nmfreed, npidle, queue] = threads;
                [mnext, nmfreed, npidle, queue].map(|offset| symbol.field(offset))
            }),
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
