//! Where the bytes of a binary come from.
//!
//! A binary is read piece by piece with positioned reads and never mapped: its owner can truncate the file at any
//! moment, which turns a map into a SIGBUS and a read into an error.

use std::io;

use crate::address::FileOffset;

/// Random access to the bytes of one file.
///
/// Not for a host's files only: tests read a `Vec<u8>`.
pub trait Source: Send + Sync {
    /// Size of the file in bytes, as it was when it was opened.
    fn len(&self) -> u64;

    /// Fills `buf` with the bytes from `offset` on, all of it or an error.
    ///
    /// # Errors
    ///
    /// Whatever the file says; `UnexpectedEof` where the file ends before `buf` does.
    fn read_at(&self, offset: FileOffset, buf: &mut [u8]) -> io::Result<()>;

    /// Whether there is nothing to read.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Source for Vec<u8> {
    fn len(&self) -> u64 {
        self.as_slice().len() as u64
    }

    fn read_at(&self, offset: FileOffset, buf: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(offset.0).ok();
        let piece = from.and_then(|from| self.get(from..from.checked_add(buf.len())?));
        let piece = piece.ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(piece);
        Ok(())
    }
}
