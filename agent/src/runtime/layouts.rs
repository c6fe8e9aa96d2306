//! Layouts per Go version, for binaries without DWARF. Generated from real toolchains; not edited by hand.

use super::{Layout, LayoutSource};

/// The layout of one minor version of Go.
pub(super) struct Row {
    pub(super) go: (u32, u32),
    /// In the order of the fields of [`Layout`]; the 15th is `parent_goid`, 0 for none.
    offsets: [u32; 20],
}

impl Row {
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
        ] = self.offsets;
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
            source: LayoutSource::Table { version: format!("{}.{}", self.go.0, self.go.1) },
        }
    }
}

/// Oldest first.
pub(super) const ROWS: &[Row] = &[
    Row {
        go: (1, 19),
        offsets: [0, 8, 48, 56, 64, 72, 104, 112, 120, 144, 152, 168, 176, 232, 0, 296, 312, 328, 360, 392],
    },
    // No 1.20 toolchain was at hand: taken to be as 1.19, until memory says otherwise.
    Row {
        go: (1, 20),
        offsets: [0, 8, 48, 56, 64, 72, 104, 112, 120, 144, 152, 168, 176, 232, 0, 296, 312, 328, 360, 392],
    },
    Row {
        go: (1, 21),
        offsets: [0, 8, 48, 56, 64, 72, 104, 112, 120, 144, 152, 168, 176, 208, 272, 280, 296, 312, 344, 408],
    },
    Row {
        go: (1, 22),
        offsets: [0, 8, 48, 56, 64, 72, 104, 112, 120, 144, 152, 168, 176, 208, 272, 280, 296, 312, 344, 424],
    },
    Row {
        go: (1, 23),
        offsets: [0, 8, 48, 56, 64, 72, 104, 112, 120, 152, 160, 176, 184, 216, 280, 288, 304, 320, 352, 432],
    },
    Row {
        go: (1, 24),
        offsets: [0, 8, 48, 56, 64, 72, 104, 112, 120, 152, 160, 176, 184, 216, 280, 288, 304, 320, 352, 440],
    },
    Row {
        go: (1, 25),
        offsets: [0, 8, 48, 56, 64, 72, 96, 104, 112, 144, 152, 168, 176, 208, 272, 280, 296, 312, 344, 440],
    },
    Row {
        go: (1, 26),
        offsets: [0, 8, 48, 56, 64, 72, 96, 104, 112, 144, 152, 168, 176, 208, 280, 288, 304, 320, 352, 456],
    },
    Row {
        go: (1, 27),
        offsets: [0, 8, 48, 56, 64, 72, 96, 104, 112, 144, 152, 168, 176, 208, 280, 288, 304, 320, 352, 456],
    },
];
