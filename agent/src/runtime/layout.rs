//! Byte offsets in `runtime.g`, the struct of a goroutine (`runtime/runtime2.go`).
//!
//! Refuses a Go version older than the table where the binary has no DWARF. A newer one gets the newest layout, marked
//! as a guess; whoever uses it must check it against live memory first.

use super::{dwarf_layout, layouts::Row, table::ROWS};
use crate::binary::{Binary, BinaryError};

/// Offsets of the fields of `struct g`, in bytes from its start. The same on amd64 and arm64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// `stack.lo`: lowest address of the stack.
    pub stack_lo: u32,
    /// `stack.hi`: just above the highest address of the stack.
    pub stack_hi: u32,
    /// `m`: the thread it runs on, or 0.
    pub m: u32,
    /// `sched.sp`: stack pointer while it does not run.
    pub sched_sp: u32,
    /// `sched.pc`: where it goes on.
    pub sched_pc: u32,
    /// `sched.g`: the address of this very struct, once it has run.
    pub sched_g: u32,
    /// `sched.bp`: frame pointer while it does not run.
    pub sched_bp: u32,
    /// `syscallsp`: stack pointer at the entry of a system call, else 0.
    pub syscallsp: u32,
    /// `syscallpc`: where the system call was entered.
    pub syscallpc: u32,
    /// `atomicstatus`, 4 bytes; 0x1000 is the scan bit.
    pub atomicstatus: u32,
    /// `goid`.
    pub goid: u32,
    /// `waitsince`: time it parked, set by the first GC after that only.
    pub waitsince: u32,
    /// `waitreason`, 1 byte: a number of [`super::WaitReasons`].
    pub waitreason: u32,
    /// `lockedm`: the thread it is wired to, or 0.
    pub lockedm: u32,
    /// `parentGoid`: from Go 1.21 on.
    pub parent_goid: Option<u32>,
    /// `gopc`: the return address of its `go` statement, its creation site.
    pub gopc: u32,
    /// `startpc`: entry of its function.
    pub startpc: u32,
    /// `waiting`: the sudogs it waits on.
    pub waiting: u32,
    /// `labels`: its pprof labels.
    pub labels: u32,
    /// Size of the struct.
    pub size: u32,
    /// The source of these offsets.
    pub source: LayoutSource,
}

/// The source of a layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayoutSource {
    /// The binary's own DWARF.
    Dwarf,
    /// The DWARF of a debug file beside it.
    DebugFile,
    /// The table, for the binary's Go version.
    Table {
        /// The row, as `1.27`.
        version: String,
    },
    /// The table, for the binary's Go version, of which no toolchain could be had: the neighbour's numbers.
    Neighbour {
        /// The row, as `1.20`.
        version: String,
    },
    /// The newest row of the table, for a Go version newer than it.
    NewestKnown {
        /// The row, as `1.27`.
        version: String,
    },
}

impl LayoutSource {
    /// True if it is only supposed: then nothing is shown before a process's memory has proved it.
    #[must_use]
    pub fn is_guess(&self) -> bool {
        matches!(self, Self::Neighbour { .. } | Self::NewestKnown { .. })
    }
}

impl std::fmt::Display for LayoutSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dwarf => f.write_str("the binary's own DWARF"),
            Self::DebugFile => f.write_str("the DWARF of its debug file"),
            Self::Table { version } => write!(f, "the table, for Go {version}"),
            Self::Neighbour { version } => {
                write!(f, "the table, for Go {version} (as its neighbour's: there is no such toolchain to be had)")
            }
            Self::NewestKnown { version } => {
                write!(f, "the table's newest version, Go {version}: this binary's is newer and not in it")
            }
        }
    }
}

/// Why there is no layout.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// Older than the table, and without DWARF.
    #[error("no layout for {version}: the oldest known Go is {oldest}")]
    UnknownVersion {
        /// The binary's version.
        version: String,
        /// The first row of the table.
        oldest: String,
    },
    /// The binary could not be read.
    #[error(transparent)]
    Binary(#[from] BinaryError),
}

impl Layout {
    /// The layout of a binary: from its DWARF, else from the table.
    ///
    /// # Errors
    ///
    /// [`LayoutError::UnknownVersion`]. DWARF that cannot be read is no error as long as the table has the version.
    pub fn of(binary: &Binary) -> Result<Self, LayoutError> {
        // A broken debug section must not keep a process from being watched: the table is as good.
        if let Ok(Some(layout)) = dwarf_layout::read(binary) {
            let source = if binary.has_dwarf() { LayoutSource::Dwarf } else { LayoutSource::DebugFile };
            return Ok(Self { source, ..layout });
        }
        Self::from_table(binary)
    }

    /// The layout of the table alone.
    ///
    /// # Errors
    ///
    /// [`LayoutError::UnknownVersion`].
    pub fn from_table(binary: &Binary) -> Result<Self, LayoutError> {
        let version = binary.go_version();
        let asked = (version.major, version.minor);
        if let Some(exact) = ROWS.iter().find(|row| row.go == asked) {
            return Ok(exact.layout());
        }
        match ROWS.last().filter(|newest| newest.go < asked) {
            Some(newest) => {
                Ok(Self { source: LayoutSource::NewestKnown { version: newest.name() }, ..newest.layout() })
            }
            None => Err(LayoutError::UnknownVersion {
                version: version.raw.clone(),
                oldest: ROWS.first().map(Row::name).unwrap_or_default(),
            }),
        }
    }
}
