//! The debug sections of one binary, inflated.
//!
//! Refuses sections that together exceed the caller's limit, and abbreviations over [`MAX_ABBREV_BYTES`]. Sections
//! that symbols do not need (types by hash, locations, frames) are never read.

use gimli::{EndianSlice, LittleEndian, Reader, Section, SectionId};

use crate::{
    binary::{
        Binary, BinaryError,
        debug_info::{Slice, too_much},
    },
    symbols::SymbolError,
};

/// Go needs less than one KiB for a whole binary; C compilers some KiB per file.
const MAX_ABBREV_BYTES: u64 = 8 << 20;

pub(super) struct Sections {
    sections: gimli::DwarfSections<Vec<u8>>,
    bytes: usize,
}

impl Sections {
    pub(super) fn read(binary: &Binary, limit_bytes: u64) -> Result<Self, SymbolError> {
        let image = binary.image_with(SectionId::DebugInfo.name()).ok_or(SymbolError::NoDwarf)?;
        let mut left = limit_bytes;
        let sections = gimli::DwarfSections::load(|id| {
            let limit = match id {
                SectionId::DebugAbbrev => left.min(MAX_ABBREV_BYTES),
                SectionId::DebugInfo
                | SectionId::DebugLine
                | SectionId::DebugRanges
                | SectionId::DebugRngLists
                | SectionId::DebugAddr
                | SectionId::DebugStr
                | SectionId::DebugLineStr
                | SectionId::DebugStrOffsets => left,
                _ => return Ok(Vec::new()),
            };
            let bytes = image.section_data(id.name(), limit)?.unwrap_or_default();
            left = left.saturating_sub(bytes.len() as u64);
            Ok::<_, BinaryError>(bytes)
        })?;
        Ok(Self { sections, bytes: limit_bytes.saturating_sub(left) as usize })
    }

    /// The memory they take, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn dwarf(&self) -> gimli::Dwarf<Slice<'_>> {
        self.sections.borrow(|bytes| EndianSlice::new(bytes, LittleEndian))
    }

    /// Bytes of the header of the line table at `offset`. Refuses one that claims more than real ones have: gimli
    /// allocates by what it says.
    pub(super) fn line_header_bytes(&self, offset: usize) -> gimli::Result<u64> {
        const MAX_LINE_HEADER_BYTES: u64 = 1 << 20;
        let dwarf = self.dwarf();
        let mut reader = *dwarf.debug_line.reader();
        reader.skip(offset)?;
        let (_, format) = reader.read_initial_length()?;
        let version = reader.read_u16()?;
        if version >= 5 {
            reader.skip(2)?;
        }
        let header_bytes = reader.read_offset(format)? as u64;
        if header_bytes > MAX_LINE_HEADER_BYTES {
            return Err(too_much());
        }
        Ok(header_bytes)
    }
}
