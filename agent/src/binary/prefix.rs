//! A section read from its start on, piece by piece, inflated on the way and forgotten behind.
//!
//! What is looked for in debug information often stands in its first tenth; inflating the rest would cost more than
//! everything else that is read of a binary together, and keeping it more memory. Only zlib, which is what Go writes, can
//! be inflated in parts.

use flate2::{Decompress, FlushDecompress, Status};
use object::read::CompressionFormat;

use super::{
    BinaryError,
    elf::{Image, Place},
};

/// Read from the file, or inflated, at a time.
const PIECE_BYTES: usize = 64 << 10;

/// A section, and the part of it that is at hand.
pub(crate) struct Prefix<'i> {
    image: &'i Image,
    place: Place,
    inflate: Decompress,
    /// Compressed bytes, and how many of them are used up.
    input: Vec<u8>,
    used: usize,
    /// How many bytes of the stored section were read.
    taken: u64,
    /// Contents from `start` on.
    contents: Vec<u8>,
    start: usize,
}

impl<'i> Prefix<'i> {
    /// A section of which nothing is read yet. `Ok(None)` where there is none.
    pub(crate) fn of(image: &'i Image, name: &str, limit_bytes: u64) -> Result<Option<Self>, BinaryError> {
        let Some(place) = image.section_place(name, limit_bytes)? else { return Ok(None) };
        if !matches!(place.format, CompressionFormat::None | CompressionFormat::Zlib) {
            return Err(BinaryError::Unsupported { what: "a section compressed in another way than zlib" });
        }
        let (input, contents) = (Vec::new(), Vec::new());
        Ok(Some(Self { image, place, inflate: Decompress::new(true), input, used: 0, taken: 0, contents, start: 0 }))
    }

    /// The bytes from `from` to `to`, fewer only where the section ends. What is before `from` is forgotten: a later call
    /// may not ask for it.
    pub(crate) fn range(&mut self, from: usize, to: usize) -> Result<&[u8], BinaryError> {
        let whole = usize::try_from(self.place.inflated_bytes).unwrap_or(usize::MAX);
        let (from, to) = (from.min(whole), to.min(whole));
        if from < self.start {
            return Err(self.malformed());
        }
        while self.start + self.contents.len() < from {
            self.start += self.contents.len();
            self.contents.clear();
            self.extend(whole)?;
        }
        if from - self.start > PIECE_BYTES {
            self.contents.drain(..from - self.start);
            self.start = from;
        }
        while self.start + self.contents.len() < to {
            self.extend(whole)?;
        }
        Ok(self.contents.get(from - self.start..to.max(from) - self.start).unwrap_or_default())
    }

    fn malformed(&self) -> BinaryError {
        BinaryError::malformed("debug section", self.place.offset)
    }

    /// Adds up to a piece to the contents, of a section of `whole` bytes.
    fn extend(&mut self, whole: usize) -> Result<(), BinaryError> {
        let room = PIECE_BYTES.min(whole.saturating_sub(self.start + self.contents.len()));
        if self.place.format == CompressionFormat::None {
            let piece = self.stored(room)?;
            self.contents.extend(piece);
            return Ok(());
        }
        if self.used == self.input.len() {
            (self.input, self.used) = (self.stored(PIECE_BYTES)?, 0);
        }
        let before = (self.inflate.total_in(), self.contents.len());
        self.contents.reserve_exact(room);
        // Inflates into the reserved space, which may be more than asked for.
        let input = self.input.get(self.used..).unwrap_or_default();
        let status = self.inflate.decompress_vec(input, &mut self.contents, FlushDecompress::None);
        self.used += usize::try_from(self.inflate.total_in() - before.0).unwrap_or(usize::MAX);
        let moved = (self.inflate.total_in(), self.contents.len()) != before;
        match status {
            Ok(Status::StreamEnd) if self.start + self.contents.len() < whole => Err(self.malformed()),
            Ok(_) if moved => Ok(()),
            _ => Err(self.malformed()),
        }
    }

    /// The next bytes of the section as it stands in the file: at least one, at most `limit`.
    fn stored(&mut self, limit: usize) -> Result<Vec<u8>, BinaryError> {
        let bytes = self.place.bytes.saturating_sub(self.taken).min(limit as u64);
        if bytes == 0 {
            return Err(self.malformed());
        }
        let piece = self.image.file(self.place.offset + self.taken, bytes, "section")?;
        self.taken += bytes;
        Ok(piece)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::binary::testing::{Variant, toolchains};

    /// Whatever pieces are asked for, they are those of the section inflated whole.
    #[test]
    #[ignore = "reads real Go programs: `cargo xtask test` builds them"]
    fn pieces_are_those_of_the_whole() {
        for toolchain in toolchains() {
            let image = Image::parse(Arc::new(toolchain.program(Variant::Plain).bytes.clone())).expect("ELF");
            for name in [".debug_info", ".text"] {
                let whole = image.section_data(name, u64::MAX).expect("readable").expect("there");
                let mut prefix = Prefix::of(&image, name, u64::MAX).expect("readable").expect("there");
                let (mut from, mut step) = (0, 1);
                while from < whole.len() + 10 {
                    let to = from + step * 3;
                    let expected = whole.get(from.min(whole.len())..to.min(whole.len())).expect("in it");
                    assert_eq!(prefix.range(from, to).expect("readable"), expected, "{name} {from}..{to}");
                    from += step;
                    step = (step * 7 + 3) % 300_007;
                }
                assert!(prefix.range(0, 1).is_err(), "what was forgotten is not made up");
            }
            assert!(Prefix::of(&image, ".debug_info", 1000).is_err());
            assert!(Prefix::of(&image, ".nothing", 1000).expect("readable").is_none());
        }
    }
}
