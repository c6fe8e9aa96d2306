//! The rows of the table of layouts, and the choice of a binary's row.
//!
//! The rows are in `table`, which `cargo xtask layouts` writes from the DWARF of real toolchains for amd64 and arm64.

use super::{Layout, LayoutSource, table::ROWS};
use crate::binary::GoVersion;

/// Offsets of fields in the structs of one minor version of Go: bytes from the start of the struct, and sizes in bytes.
/// `xtask/src/layouts` names the fields in the same order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) go: (u32, u32),
    /// The toolchain it was read from; `None` for a version that none can be had of, which has its neighbour's numbers.
    pub(super) toolchain: Option<&'static str>,
    /// `struct g`, in the order of the fields of [`Layout`]; the 15th is `parent_goid`, 0 for none.
    pub(super) g: [u32; 20],
    /// `struct sudog`: `g`, `elem`, `waitlink`, `c`, size.
    pub(super) sudog: [u32; 5],
    /// `struct hchan`: `qcount`, `dataqsiz`, `closed`.
    pub(super) hchan: [u32; 3],
    /// `m.p`, `p.goidcache`.
    pub(super) goid_stock: [u32; 2],
    /// `struct mstats`: `pause_total_ns`, `numgc`, size.
    pub(super) mstats: [u32; 3],
    /// `struct gcControllerState`: `gcPercentHeapGoal`, `heapLive`, size on amd64, size on arm64.
    pub(super) gc_controller: [u32; 4],
    /// `struct schedt`: `mnext`, `nmfreed`, `npidle`, the size of the run queue, size.
    pub(super) sched: [u32; 5],
    /// `struct schedt`: `goidgen`, `ngsys`, the sizes of its one or two lists of free goroutines (the second is 0 where there is
    /// one); `struct p`: the size of its list of free goroutines.
    pub(super) goroutine_counts: [u32; 5],
    /// `struct moduledata`: `minpc`, `maxpc`, `text`, `gofunc`. For the check of what [`crate::binary`] goes by.
    pub(super) moduledata: [u32; 4],
}

impl Row {
    /// The row of a Go version; of the nearest for one that is not in the table.
    pub(super) fn nearest(version: &GoVersion) -> &'static Self {
        let [oldest, ..] = &ROWS;
        ROWS.iter().rfind(|row| row.go <= (version.major, version.minor)).unwrap_or(oldest)
    }

    /// Its version, as `1.27`.
    pub(super) fn name(&self) -> String {
        format!("{}.{}", self.go.0, self.go.1)
    }

    pub(super) fn layout(&self) -> Layout {
        let [
            stack_lo,
            stack_hi,
            m,
            sched_sp,
            sched_pc,
            sched_g,
            sched_bp,
            syscallsp,
            syscallpc,
            atomicstatus,
            goid,
            waitsince,
            waitreason,
            lockedm,
            parent_goid,
            gopc,
            startpc,
            waiting,
            labels,
            size,
        ] = self.g;
        Layout {
            stack_lo,
            stack_hi,
            m,
            sched_sp,
            sched_pc,
            sched_g,
            sched_bp,
            syscallsp,
            syscallpc,
            atomicstatus,
            goid,
            waitsince,
            waitreason,
            lockedm,
            parent_goid: (parent_goid != 0).then_some(parent_goid),
            gopc,
            startpc,
            waiting,
            labels,
            size,
            source: match self.toolchain {
                Some(_) => LayoutSource::Table { version: self.name() },
                None => LayoutSource::Neighbour { version: self.name() },
            },
        }
    }
}
