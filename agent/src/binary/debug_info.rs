//! The units of `.debug_info`, and which bytes of `.debug_abbrev` each may read.
//!
//! A unit says only where its abbreviation table starts. Real tables do not overlap, so each is taken to end where the
//! next one starts: reading those of all units costs the section once, whatever a crafted file says. Refuses more than
//! [`MAX_UNITS`] units, and entries with more than [`MAX_ATTRIBUTES`] attributes.

use std::sync::Arc;

use gimli::{Abbreviations, DebugInfoOffset, Dwarf, EndianSlice, LittleEndian, Section};

pub(crate) type Slice<'a> = EndianSlice<'a, LittleEndian>;
pub(crate) type Entry<'a> = gimli::DebuggingInformationEntry<Slice<'a>>;

/// One per Go package or C file: large programs have some thousand.
pub(crate) const MAX_UNITS: usize = 1 << 16;
/// Compilers write some twenty.
const MAX_ATTRIBUTES: usize = 128;

/// The units of one binary, in order.
pub(crate) struct Units {
    units: Vec<UnitAt>,
}

#[derive(Clone, Copy)]
struct UnitAt {
    offset: DebugInfoOffset,
    abbreviations: usize,
    /// Where the next table starts.
    abbreviations_end: usize,
}

impl Units {
    pub(crate) fn read(dwarf: &Dwarf<Slice<'_>>) -> gimli::Result<Self> {
        let mut units = Vec::new();
        let mut headers = dwarf.units();
        while let Some(header) = headers.next()? {
            if units.len() >= MAX_UNITS {
                return Err(too_much());
            }
            let Some(offset) = header.debug_info_offset() else { continue };
            let abbreviations = header.debug_abbrev_offset().0;
            units.push(UnitAt { offset, abbreviations, abbreviations_end: usize::MAX });
        }
        let mut starts: Vec<usize> = units.iter().map(|unit| unit.abbreviations).collect();
        starts.sort_unstable();
        starts.dedup();
        for unit in &mut units {
            let next = starts.partition_point(|&start| start <= unit.abbreviations);
            unit.abbreviations_end = starts.get(next).copied().unwrap_or(usize::MAX);
        }
        Ok(Self { units })
    }

    pub(crate) fn len(&self) -> usize {
        self.units.len()
    }

    /// Where a unit starts in its section.
    pub(crate) fn offset(&self, number: usize) -> Option<DebugInfoOffset> {
        self.units.get(number).map(|unit| unit.offset)
    }

    /// The unit with the entry at a place of the whole section.
    pub(crate) fn holding(&self, offset: DebugInfoOffset) -> Option<usize> {
        self.units.partition_point(|unit| unit.offset.0 <= offset.0).checked_sub(1)
    }

    /// The abbreviations of a unit; those of the unit `before`, if they are the same.
    pub(crate) fn abbreviations(
        &self,
        dwarf: &Dwarf<Slice<'_>>,
        number: usize,
        before: Option<(usize, &Arc<Abbreviations>)>,
    ) -> gimli::Result<Arc<Abbreviations>> {
        let unit = self.units.get(number).ok_or_else(too_much)?;
        if let Some((before, same)) = before
            && self.units.get(before).is_some_and(|before| before.abbreviations == unit.abbreviations)
        {
            return Ok(Arc::clone(same));
        }
        let bytes = dwarf.debug_abbrev.reader().slice();
        let table = bytes.get(unit.abbreviations..unit.abbreviations_end.min(bytes.len())).unwrap_or_default();
        let table = gimli::DebugAbbrev::new(table, LittleEndian);
        table.abbreviations(gimli::DebugAbbrevOffset(0)).map(Arc::new)
    }
}

/// Refuses an entry that costs more to read than it can tell.
pub(crate) fn check_entry(entry: &Entry<'_>) -> gimli::Result<()> {
    if entry.attrs().len() > MAX_ATTRIBUTES { Err(too_much()) } else { Ok(()) }
}

/// The error for debug information beyond what is read of any binary.
pub(crate) fn too_much() -> gimli::Error {
    gimli::Error::UnsupportedOffset
}
