//! The first part of a compressed section, longer at every call.
//!
//! What is looked for in debug information often stands in its first tenth; inflating the rest would cost more than
//! everything else that is read of a binary together. Only zlib, which is what Go writes, can be inflated in parts.

use flate2::{Decompress, FlushDecompress, Status};
use object::read::CompressionFormat;

use super::{
    BinaryError,
    elf::{Image, Stored},
};

/// A section and how much of it is inflated.
pub(crate) struct Prefix {
    stored: Stored,
    inflate: Decompress,
    inflated: Vec<u8>,
}

impl Prefix {
    /// Reads a section as it stands in the file, inflating nothing. `Ok(None)` where there is none.
    pub(crate) fn read(image: &Image, name: &str, limit_bytes: u64) -> Result<Option<Self>, BinaryError> {
        let stored = image.stored_section(name, limit_bytes)?;
        Ok(stored.map(|stored| Self { stored, inflate: Decompress::new(true), inflated: Vec::new() }))
    }

    /// Size of the whole section.
    pub(crate) fn whole_bytes(&self) -> usize {
        usize::try_from(self.stored.inflated_bytes).unwrap_or(usize::MAX)
    }

    /// The first `bytes` bytes, fewer only where the section ends.
    pub(crate) fn first(&mut self, bytes: usize) -> Result<&[u8], BinaryError> {
        let malformed = BinaryError::Malformed { what: "debug section", at: self.stored.offset };
        let bytes = bytes.min(self.whole_bytes());
        match self.stored.format {
            CompressionFormat::None => return Ok(self.stored.bytes.get(..bytes).unwrap_or_default()),
            CompressionFormat::Zlib => {}
            _ => return Err(BinaryError::Unsupported { what: "a section compressed in another way than zlib" }),
        }
        self.inflated.reserve_exact(bytes.saturating_sub(self.inflated.len()));
        while self.inflated.len() < bytes {
            let before = (self.inflate.total_in(), self.inflated.len());
            let from = self.stored.at.saturating_add(usize::try_from(before.0).unwrap_or(usize::MAX));
            let input = self.stored.bytes.get(from..).unwrap_or_default();
            // Inflates into the reserved space only.
            let status = self.inflate.decompress_vec(input, &mut self.inflated, FlushDecompress::None);
            let moved = (self.inflate.total_in(), self.inflated.len()) != before;
            match status {
                Ok(Status::StreamEnd) if self.inflated.len() < bytes => return Err(malformed),
                Ok(_) if moved => {}
                _ => return Err(malformed),
            }
        }
        Ok(self.inflated.get(..bytes).unwrap_or_default())
    }
}
