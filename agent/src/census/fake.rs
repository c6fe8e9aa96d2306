//! Memory made up for tests: a few pieces at chosen addresses, nothing elsewhere.

use std::{cell::Cell, collections::BTreeMap};

use crate::{
    address::RuntimeAddr,
    host::{Batch, Memory, MemoryError},
};

/// Pieces of memory by address.
#[derive(Default)]
pub(super) struct Fake {
    pieces: BTreeMap<u64, Vec<u8>>,
    pub(super) reads: Cell<usize>,
}

impl Fake {
    /// Puts words at an address.
    pub(super) fn words(&mut self, address: u64, words: &[u64]) {
        self.bytes(address, words.iter().flat_map(|word| word.to_le_bytes()).collect());
    }

    /// Puts bytes at an address.
    pub(super) fn bytes(&mut self, address: u64, bytes: Vec<u8>) {
        self.pieces.insert(address, bytes);
    }

    fn find(&self, address: u64, buf: &mut [u8]) -> Option<()> {
        let (start, piece) = self.pieces.range(..=address).next_back()?;
        let at = usize::try_from(address - start).ok()?;
        buf.copy_from_slice(piece.get(at..at.checked_add(buf.len())?)?);
        Some(())
    }
}

impl Memory for Fake {
    fn read(&self, address: RuntimeAddr, buf: &mut [u8]) -> Result<(), MemoryError> {
        self.reads.set(self.reads.get() + 1);
        let bytes = buf.len();
        self.find(address.0, buf).ok_or(MemoryError::Unmapped { pid: 0, address, bytes })
    }

    fn read_batch(&self, batch: &mut Batch) -> Result<(), MemoryError> {
        batch.fill_with(|address, buf| self.read(address, buf).is_ok());
        Ok(())
    }

    fn still_there(&self) -> Result<(), MemoryError> {
        Ok(())
    }
}
