//! Plain data shared by parkranger's eBPF programs and its agent.
//!
//! Everything here crosses the kernel boundary byte for byte: `#[repr(C)]`, no padding, no pointers.
//!
//! - [`probe`]: the 64-bit word that a probe carries (its attach cookie),
//! - [`callers`]: births and exits by who called the function with the `go` statement,
//! - [`counts`]: keys and values of the counter maps,
//! - [`loss`]: everything that can go missing, by name,
//! - [`record`]: records of the ring buffers,
//! - [`story`]: how long goroutines wait and live,
//! - [`window`]: births and exits told one by one, for an audit.
#![no_std]

pub mod callers;
pub mod counts;
pub mod loss;
pub mod probe;
pub mod record;
pub mod story;
pub mod window;

/// Names of the eBPF programs and maps, as both sides spell them.
pub mod names {
    /// All three scheduler events through one uprobe_multi link, told apart by the attach cookie (kernel 6.6).
    pub const SCHEDULER_MULTI: &str = "scheduler_multi";
    /// The same through a perf-event uprobe with a cookie (kernel 5.15).
    pub const SCHEDULER_SINGLE: &str = "scheduler_single";
    /// Births through a perf-event uprobe without a cookie (kernel 5.8).
    pub const BIRTH_PLAIN: &str = "birth_plain";
    /// Parks through a perf-event uprobe without a cookie.
    pub const PARK_PLAIN: &str = "park_plain";
    /// Exits through a perf-event uprobe without a cookie.
    pub const EXIT_PLAIN: &str = "exit_plain";
    /// The waits and lifetimes of a story, through a uprobe_multi link beside the one that counts.
    pub const STORY_MULTI: &str = "story_multi";
    /// The same through a perf-event uprobe with a cookie.
    pub const STORY_SINGLE: &str = "story_single";
    /// Counts nothing, through a perf-event uprobe without a cookie.
    pub const MARK_PLAIN: &str = "mark_plain";
    /// Births and exits by caller, through a uprobe_multi link beside the one that counts.
    pub const CALLERS_MULTI: &str = "callers_multi";
    /// The same through a perf-event uprobe with a cookie.
    pub const CALLERS_SINGLE: &str = "callers_single";
    /// A process called execve.
    pub const PROCESS_EXEC: &str = "process_exec";

    /// tgid ▶ [`crate::counts::Process`]: who is watched.
    pub const PROCESSES: &str = "PROCESSES";
    /// [`crate::counts::SiteKey`] ▶ [`crate::counts::SiteCounts`], per CPU.
    pub const SITES: &str = "SITES";
    /// [`crate::counts::WaitKey`] ▶ parks, per CPU.
    pub const WAITS: &str = "WAITS";
    /// Process id ▶ [`crate::counts::Unattributed`]: events without a site, and losses.
    pub const UNATTRIBUTED: &str = "UNATTRIBUTED";
    /// [`crate::loss::HostLoss`] ▶ count, per CPU.
    pub const HOST_LOSSES: &str = "HOST_LOSSES";
    /// The object's zeroed data: one [`crate::window::Window`].
    pub const WINDOW: &str = ".bss";
    /// tgid ▶ [`crate::story::Story`]: whose story is told.
    pub const STORIES: &str = "STORIES";
    /// [`crate::story::GoroutineKey`] ▶ [`crate::story::Goroutine`].
    pub const GOROUTINES: &str = "GOROUTINES";
    /// [`crate::story::HistogramKey`] ▶ [`crate::story::Histogram`].
    pub const HISTOGRAMS: &str = "HISTOGRAMS";
    /// [`crate::story::SpentKey`] ▶ [`crate::story::Spent`].
    pub const SPENT: &str = "SPENT";
    /// tgid ▶ [`crate::callers::Calling`]: processes whose callers are told apart.
    pub const CALLING: &str = "CALLING";
    /// [`crate::callers::CallerKey`] ▶ [`crate::callers::CallerCounts`].
    pub const CALLERS: &str = "CALLERS";
    /// [`crate::callers::GoidKey`] ▶ [`crate::callers::CallerKey`]: goroutines born since callers are told apart.
    pub const BORN: &str = "BORN";
    /// [`crate::callers::ProcessorKey`] ▶ [`crate::callers::CallerKey`]: the last birth of a processor, without a goid yet.
    pub const UNNUMBERED: &str = "UNNUMBERED";
    /// [`crate::callers::GoidKey`] ▶ 1: exits of goroutines whose goid was not told yet, or that are older.
    pub const EARLY_EXITS: &str = "EARLY_EXITS";
    /// The ring buffer of [`crate::record::ProcessRecord`]s.
    pub const PROCESS_RECORDS: &str = "PROCESS_RECORDS";
    /// The ring buffer of [`crate::record::StreamRecord`]s.
    pub const STREAM_RECORDS: &str = "STREAM_RECORDS";
}
