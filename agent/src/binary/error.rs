//! Why the bytes of a binary were refused.

use std::io;

/// Why a file is not read as a Go binary.
///
/// `NotElf` and `NotGo` are the ordinary answers for most files of a host; the others say that a Go binary was meant.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BinaryError {
    /// No ELF magic, or the file is shorter than an ELF header.
    #[error("not an ELF file")]
    NotElf,
    /// A valid ELF file without a Go function table.
    #[error("no Go runtime in it")]
    NotGo,
    /// Well-formed, but of a kind that is not read.
    #[error("not supported: {what}")]
    Unsupported {
        /// What it is.
        what: &'static str,
    },
    /// A length, offset, count or string that contradicts the rest of the file.
    #[error("malformed {what} at {at:#x}")]
    Malformed {
        /// Which fact of the binary.
        what: &'static str,
        /// Where: a virtual address for what the program maps, else a file offset.
        at: u64,
    },
    /// The file could not be read, or is shorter than it was.
    #[error("cannot read: {0}")]
    Read(#[from] io::Error),
}

impl BinaryError {
    pub(crate) fn malformed(what: &'static str, at: u64) -> Self {
        Self::Malformed { what, at }
    }
}
