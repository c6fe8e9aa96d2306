//! Pieces of a process's memory that are asked for together, and how they are put into few reads.
//!
//! Goroutine structs and stacks lie side by side: neighbours are read as one run, as long as that touches no page that
//! nobody asked for.

use std::ops::Range;

use crate::address::RuntimeAddr;

/// Bytes of one system call. The kernel copies in steps of some MiB and can be interrupted between them only.
pub(super) const MAX_CALL_BYTES: usize = 8 << 20;
/// Two pieces closer than this are read as one, as long as no page lies between them.
const MERGE_GAP_BYTES: u64 = 512;
const PAGE_BYTES: u64 = 4096;

/// Pieces of memory that are read together. Its buffers are kept from one use to the next.
#[derive(Debug, Default)]
pub struct Batch {
    pub(super) pieces: Vec<Piece>,
    /// Numbers of pieces in order of address.
    pub(super) order: Vec<u32>,
    pub(super) runs: Vec<Run>,
    pub(super) bytes: Vec<u8>,
    total: usize,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) address: u64,
    pub(super) bytes: u32,
    /// Its offset in `Batch::bytes`; `None` until it was read.
    pub(super) at: Option<usize>,
}

/// Neighbouring pieces, read as one.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) address: u64,
    pub(super) bytes: usize,
    pub(super) at: usize,
    /// Of `order`.
    pub(super) pieces: Range<usize>,
}

impl Batch {
    /// Forgets all pieces.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.order.clear();
        self.runs.clear();
        self.total = 0;
    }

    /// Asks for `bytes` bytes at `address` and tells the number of the piece.
    pub fn add(&mut self, address: RuntimeAddr, bytes: u32) -> usize {
        self.pieces.push(Piece { address: address.0, bytes, at: None });
        self.total += bytes as usize;
        self.pieces.len() - 1
    }

    /// The number of bytes asked for.
    #[must_use]
    pub fn total_bytes(&self) -> usize {
        self.total
    }

    /// The number of pieces asked for.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// True if nothing was asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The bytes of a piece; `None` where it could not be read.
    #[must_use]
    pub fn get(&self, piece: usize) -> Option<&[u8]> {
        let piece = self.pieces.get(piece)?;
        let at = piece.at?;
        self.bytes.get(at..at.checked_add(piece.bytes as usize)?)
    }

    /// Fills every piece by asking `read` for it: what a test's memory does.
    pub fn fill_with(&mut self, mut read: impl FnMut(RuntimeAddr, &mut [u8]) -> bool) {
        self.bytes.clear();
        for piece in &mut self.pieces {
            let at = self.bytes.len();
            self.bytes.resize(at + piece.bytes as usize, 0);
            let done = self.bytes.get_mut(at..).is_some_and(|buf| read(RuntimeAddr(piece.address), buf));
            piece.at = done.then_some(at);
        }
    }

    /// Sorts the pieces into runs.
    pub(super) fn plan(&mut self) {
        self.order.clear();
        self.order.extend(0..u32::try_from(self.pieces.len()).unwrap_or(u32::MAX));
        let pieces = &self.pieces;
        let address = |index: u32| pieces.get(index as usize).map_or(0, |piece| piece.address);
        if !self.order.is_sorted_by_key(|&index| address(index)) {
            self.order.sort_unstable_by_key(|&index| address(index));
        }
        self.runs.clear();
        let mut at = 0;
        for (position, &index) in self.order.iter().enumerate() {
            let Some(piece) = self.pieces.get_mut(index as usize) else { continue };
            piece.at = None;
            let end = piece.address.saturating_add(u64::from(piece.bytes));
            if let Some(run) = self.runs.last_mut() {
                let run_end = run.address + run.bytes as u64;
                let near = piece.address <= run_end.saturating_add(MERGE_GAP_BYTES);
                let grown = usize::try_from(end.max(run_end) - run.address).unwrap_or(usize::MAX);
                let no_page_between = piece.address <= run_end.next_multiple_of(PAGE_BYTES);
                if near && no_page_between && grown <= MAX_CALL_BYTES {
                    at += grown - run.bytes;
                    run.bytes = grown;
                    run.pieces.end = position + 1;
                    continue;
                }
            }
            let bytes = piece.bytes as usize;
            self.runs.push(Run { address: piece.address, bytes, at, pieces: position..position + 1 });
            at += bytes;
        }
        self.bytes.resize(at, 0);
    }

    /// Notes that a run was read.
    pub(super) fn done(&mut self, run: usize) {
        let Some(run) = self.runs.get(run) else { return };
        for &index in self.order.get(run.pieces.clone()).unwrap_or_default() {
            if let Some(piece) = self.pieces.get_mut(index as usize) {
                let skip = usize::try_from(piece.address - run.address).unwrap_or(usize::MAX);
                piece.at = run.at.checked_add(skip);
            }
        }
    }
}
