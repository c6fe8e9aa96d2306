//! The maps. Sizes are defaults; the agent sets them at load.

use aya_ebpf::{
    macros::map,
    maps::{HashMap, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf},
};
use parkranger_common::{
    callers::{CallerCounts, CallerKey, Calling, GoidKey, ProcessorKey},
    counts::{Process, ProcessId, SiteCounts, SiteKey, Unattributed, WaitKey},
    loss::HostLoss,
    story::{Goroutine, GoroutineKey, Histogram, HistogramKey, Spent, SpentKey, Story},
};

/// Watched processes, by tgid.
#[map]
pub static PROCESSES: HashMap<u32, Process> = HashMap::with_max_entries(8192, 0);

/// Births and exits by site.
#[map]
pub static SITES: PerCpuHashMap<SiteKey, SiteCounts> = PerCpuHashMap::with_max_entries(16384, 0);

/// Parks by site and reason.
#[map]
pub static WAITS: PerCpuHashMap<WaitKey, u64> = PerCpuHashMap::with_max_entries(32768, 0);

/// Events without a site, and losses, by process.
#[map]
pub static UNATTRIBUTED: HashMap<ProcessId, Unattributed> = HashMap::with_max_entries(8192, 0);

/// Losses that belong to no process, by `HostLoss`.
#[map]
pub static HOST_LOSSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(HostLoss::COUNT as u32, 0);

/// Processes that have a story told, by tgid.
#[map]
pub static STORIES: HashMap<u32, Story> = HashMap::with_max_entries(8192, 0);

/// The goroutines of stories.
#[map]
pub static GOROUTINES: HashMap<GoroutineKey, Goroutine> = HashMap::with_max_entries(65536, 0);

/// Waits by reason, and lifetimes, of processes.
#[map]
pub static HISTOGRAMS: HashMap<HistogramKey, Histogram> = HashMap::with_max_entries(1024, 0);

/// The same by site, summed up.
#[map]
pub static SPENT: HashMap<SpentKey, Spent> = HashMap::with_max_entries(16384, 0);

/// Processes whose callers are told apart, by tgid.
#[map]
pub static CALLING: HashMap<u32, Calling> = HashMap::with_max_entries(8192, 0);

/// Births and exits by site and caller.
#[map]
pub static CALLERS: HashMap<CallerKey, CallerCounts> = HashMap::with_max_entries(16384, 0);

/// Goroutines born since callers are told apart.
#[map]
pub static BORN: HashMap<GoidKey, CallerKey> = HashMap::with_max_entries(65536, 0);

/// The last birth of each processor, where it has no goid yet.
#[map]
pub static UNNUMBERED: HashMap<ProcessorKey, CallerKey> = HashMap::with_max_entries(8192, 0);

/// Exits whose birth is not numbered yet. Of goroutines that are older there is an entry, too, which is never asked for: the
/// oldest go.
#[map]
pub static EARLY_EXITS: LruHashMap<GoidKey, u64> = LruHashMap::with_max_entries(8192, 0);

/// `ProcessRecord`s: adoptions and execve. Nothing else is written here, so that no flood of events costs an adoption.
#[map]
pub static PROCESS_RECORDS: RingBuf = RingBuf::with_byte_size(1 << 18, 0);

/// `StreamRecord`s: creation stacks, births and exits of the audited process.
#[map]
pub static STREAM_RECORDS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);
