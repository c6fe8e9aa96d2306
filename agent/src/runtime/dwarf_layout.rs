//! The layout of `runtime.g` as the binary's own DWARF describes it.
//!
//! Go's linker puts the types into a unit called `runtime`; only units of that name are looked into, and no more of the
//! section is inflated than up to the struct. Refuses debug sections over [`MAX_SECTION_BYTES`] and a struct without the
//! fields asked for.

use std::{collections::BTreeMap, sync::Arc};

use gimli::{
    Abbreviations, AttributeValue, DebugAbbrev, DebugAbbrevOffset, DebugInfo, DebugInfoOffset, DebugLineStr, DebugStr,
    DwAt, LittleEndian, SectionId, UnitOffset,
};

use super::{Layout, LayoutSource};
use crate::binary::{
    Binary, BinaryError,
    bytes::u32_at,
    debug_info::{Entry, MAX_UNITS, Slice, check_entry, too_much},
    prefix::Prefix,
};

const MAX_SECTION_BYTES: u64 = 256 << 20;
/// Bytes of the debug information that are searched; the struct is within the first MiBs.
const MAX_LOOKED_AT_BYTES: usize = 64 << 20;
const LENGTH_BYTES: usize = 4;
const MAX_FIELDS: usize = 512;
/// `g.sched.sp` is two deep.
const MAX_DEPTH: u32 = 3;

/// A struct: its size, and where its fields are in it, those of structs in it as `outer.inner`.
pub(super) struct Struct {
    pub(super) size: u32,
    pub(super) fields: BTreeMap<String, u32>,
}

/// Reads the layout. `Ok(None)` where there is no DWARF or no `runtime.g` in it.
pub(super) fn read(binary: &Binary) -> Result<Option<Layout>, BinaryError> {
    read_struct(binary, b"runtime.g", |g| layout(&g.fields, g.size))
}

/// The result of `complete` for one of the runtime's structs; it is asked again with more of it where it makes nothing.
/// `Ok(None)` where there is no DWARF or no such struct in it.
pub(super) fn read_struct<T>(
    binary: &Binary,
    name: &[u8],
    complete: impl Fn(&Struct) -> Option<T>,
) -> Result<Option<T>, BinaryError> {
    let Some(image) = binary.image_with(SectionId::DebugInfo.name()) else { return Ok(None) };
    let section = |id: SectionId| {
        let data = image.section_data(id.name(), MAX_SECTION_BYTES);
        data.map(Option::unwrap_or_default)
    };
    let Some(info) = Prefix::of(image, SectionId::DebugInfo.name(), MAX_SECTION_BYTES)? else {
        return Ok(None);
    };
    let strings = (section(SectionId::DebugStr)?, section(SectionId::DebugLineStr)?);
    let abbreviations = section(SectionId::DebugAbbrev)?;
    let mut search = Search { info, abbreviations, strings, tables: BTreeMap::new() };
    let mut at = 0;
    for _ in 0..MAX_UNITS {
        let Some(bytes) = search.unit_bytes(at)? else { return Ok(None) };
        if search.is_runtime(at, bytes)?
            && let Some(found) = search.in_unit(at, bytes, name, &complete)?
        {
            return Ok(Some(found));
        }
        at = at.saturating_add(bytes);
    }
    Ok(None)
}

/// Goes from unit to unit, inflating no more of the section than the start of each, and of those called `runtime` as
/// much as it takes.
struct Search<'i> {
    info: Prefix<'i>,
    abbreviations: Vec<u8>,
    /// `.debug_str`, `.debug_line_str`.
    strings: (Vec<u8>, Vec<u8>),
    /// Abbreviation tables by where they start. Go's linker makes one for all packages.
    tables: BTreeMap<usize, Arc<Abbreviations>>,
}

impl Search<'_> {
    /// Bytes of the unit at `at`, its length field included. `None` at the end of what is looked at.
    fn unit_bytes(&mut self, at: usize) -> Result<Option<usize>, BinaryError> {
        /// Stands for a length of 64 bits, which Go does not write.
        const FIRST_RESERVED: u32 = 0xffff_fff0;
        if at >= MAX_LOOKED_AT_BYTES {
            return Ok(None);
        }
        let length = u32_at(self.info.range(at, at + LENGTH_BYTES)?, 0).filter(|&length| length < FIRST_RESERVED);
        Ok(length.map(|length| LENGTH_BYTES + length as usize))
    }

    /// The first `wanted` bytes of a unit, made to be all of it.
    fn start_of(&mut self, at: usize, bytes: usize, wanted: usize) -> Result<Vec<u8>, BinaryError> {
        let end = at.saturating_add(bytes.min(wanted)).min(MAX_LOOKED_AT_BYTES);
        let mut start = self.info.range(at, end)?.to_vec();
        let length = u32::try_from(start.len().saturating_sub(LENGTH_BYTES)).unwrap_or_default();
        if let Some(place) = start.first_chunk_mut::<LENGTH_BYTES>() {
            *place = length.to_le_bytes();
        }
        Ok(start)
    }

    /// True if the unit is called `runtime`. Wrong DWARF counts as none.
    fn is_runtime(&mut self, at: usize, bytes: usize) -> Result<bool, BinaryError> {
        /// Its header and first entry.
        const ROOT_BYTES: usize = 4096;
        let root = self.start_of(at, bytes, ROOT_BYTES)?;
        let is_runtime = |unit: &Unit<'_>| {
            let mut entries = unit.header.entries(&unit.abbreviations);
            let root = entries.next_dfs()?;
            Ok(root.and_then(|root| unit.name(root)).is_some_and(|name| name.slice() == b"runtime"))
        };
        Ok(self.parse(at, &root).and_then(|unit| is_runtime(&unit)).unwrap_or(false))
    }

    /// Looks for the struct in a unit, each time in twice as much of it.
    fn in_unit<T>(
        &mut self,
        at: usize,
        bytes: usize,
        name: &[u8],
        complete: impl Fn(&Struct) -> Option<T>,
    ) -> Result<Option<T>, BinaryError> {
        /// The struct is behind the functions, and the types are in alphabetical order.
        const FIRST_BYTES: usize = 128 << 10;
        let mut wanted = FIRST_BYTES;
        loop {
            let start = self.start_of(at, bytes, wanted)?;
            // Where the cut goes through the struct, fields are missing.
            let found = self.parse(at, &start).and_then(|unit| find_in(&unit, name)).unwrap_or_default();
            if let Some(found) = found.as_ref().and_then(&complete) {
                return Ok(Some(found));
            }
            if wanted >= bytes || at.saturating_add(wanted) >= MAX_LOOKED_AT_BYTES {
                return Ok(None);
            }
            wanted = wanted.saturating_mul(2);
        }
    }

    /// The unit whose bytes these are.
    fn parse<'a>(&'a mut self, at: usize, bytes: &'a [u8]) -> gimli::Result<Unit<'a>> {
        /// More tables than a program has that is not mostly C, and more bytes than any of them has.
        const MAX_TABLES: usize = 1024;
        const MAX_TABLE_BYTES: usize = 64 << 10;
        let header = DebugInfo::new(bytes, LittleEndian).header_from_offset(DebugInfoOffset(0))?;
        let place = header.debug_abbrev_offset().0;
        let abbreviations = match self.tables.get(&place) {
            Some(table) => Arc::clone(table),
            None if self.tables.len() >= MAX_TABLES => return Err(too_much()),
            None => {
                let table = self.abbreviations.get(place..).unwrap_or_default();
                let table = table.get(..MAX_TABLE_BYTES).unwrap_or(table);
                let table = DebugAbbrev::new(table, LittleEndian).abbreviations(DebugAbbrevOffset(0));
                let table = Arc::new(table.unwrap_or_default());
                self.tables.insert(place, Arc::clone(&table));
                table
            }
        };
        let strings = (DebugStr::new(&self.strings.0, LittleEndian), DebugLineStr::new(&self.strings.1, LittleEndian));
        Ok(Unit { at, header, abbreviations, strings })
    }
}

/// A unit, cut out of its section, without its line program and address ranges, which nothing here needs.
struct Unit<'a> {
    /// Its offset in the section.
    at: usize,
    header: gimli::UnitHeader<Slice<'a>>,
    abbreviations: Arc<Abbreviations>,
    strings: (DebugStr<Slice<'a>>, DebugLineStr<Slice<'a>>),
}

impl<'a> Unit<'a> {
    /// The name of a DIE. Go writes strings in place, other compilers into string sections.
    fn name(&self, entry: &Entry<'a>) -> Option<Slice<'a>> {
        match entry.attr_value(gimli::DW_AT_name)? {
            AttributeValue::String(name) => Some(name),
            AttributeValue::DebugStrRef(offset) => self.strings.0.get_str(offset).ok(),
            AttributeValue::DebugLineStrRef(offset) => self.strings.1.get_str(offset).ok(),
            _ => None,
        }
    }

    /// The entry that an attribute refers to, if it is in this unit.
    fn target(&self, value: Option<AttributeValue<Slice<'a>>>) -> Option<UnitOffset> {
        match value? {
            AttributeValue::UnitRef(offset) => Some(offset),
            AttributeValue::DebugInfoRef(offset) => offset.0.checked_sub(self.at).map(UnitOffset),
            _ => None,
        }
    }
}

/// Looks for a struct among the DIEs of a unit.
fn find_in(unit: &Unit<'_>, wanted: &[u8]) -> gimli::Result<Option<Struct>> {
    let mut entries = unit.header.entries(&unit.abbreviations);
    while let Some(entry) = entries.next_dfs()? {
        check_entry(entry)?;
        let is_struct = entry.tag() == gimli::DW_TAG_structure_type;
        if !is_struct || unit.name(entry).is_none_or(|name| name.slice() != wanted) {
            continue;
        }
        let mut fields = BTreeMap::new();
        members(unit, entry.offset(), "", 0, MAX_DEPTH, &mut fields)?;
        return Ok(number(entry, gimli::DW_AT_byte_size).map(|size| Struct { size, fields }));
    }
    Ok(None)
}

fn number(entry: &Entry<'_>, name: DwAt) -> Option<u32> {
    entry.attr_value(name)?.udata_value().and_then(|value| u32::try_from(value).ok())
}

/// Collects the members of the struct at `offset` into `fields`, those of structs in it as `outer.inner`.
fn members(
    unit: &Unit<'_>,
    offset: UnitOffset,
    prefix: &str,
    base: u32,
    depth: u32,
    fields: &mut BTreeMap<String, u32>,
) -> gimli::Result<()> {
    let mut tree = unit.header.entries_tree(&unit.abbreviations, Some(offset))?;
    let mut children = tree.root()?.children();
    while let Some(child) = children.next()? {
        let entry = child.entry();
        if entry.tag() != gimli::DW_TAG_member || fields.len() >= MAX_FIELDS {
            continue;
        }
        let at = number(entry, gimli::DW_AT_data_member_location).and_then(|at| at.checked_add(base));
        let (Some(name), Some(at)) = (unit.name(entry), at) else { continue };
        let name = format!("{prefix}{}", name.to_string_lossy());
        if let (Some(inner), true) = (struct_of(unit, entry)?, depth > 1) {
            members(unit, inner, &format!("{name}."), at, depth - 1, fields)?;
        }
        fields.insert(name, at);
    }
    Ok(())
}

/// The struct that is the type of a member, seen through typedefs.
fn struct_of<'a>(unit: &Unit<'a>, member: &Entry<'a>) -> gimli::Result<Option<UnitOffset>> {
    const MAX_TYPEDEFS: u32 = 8;
    let mut next = unit.target(member.attr_value(gimli::DW_AT_type));
    for _ in 0..MAX_TYPEDEFS {
        let Some(offset) = next else { return Ok(None) };
        let entry = unit.header.entry(&unit.abbreviations, offset)?;
        match entry.tag() {
            gimli::DW_TAG_structure_type => return Ok(Some(offset)),
            gimli::DW_TAG_typedef => next = unit.target(entry.attr_value(gimli::DW_AT_type)),
            _ => return Ok(None),
        }
    }
    Ok(None)
}

fn layout(fields: &BTreeMap<String, u32>, size: u32) -> Option<Layout> {
    let field = |name: &str| fields.get(name).copied().filter(|&at| at < size);
    Some(Layout {
        stack_lo: field("stack.lo")?,
        stack_hi: field("stack.hi")?,
        m: field("m")?,
        sched_sp: field("sched.sp")?,
        sched_pc: field("sched.pc")?,
        sched_g: field("sched.g")?,
        sched_bp: field("sched.bp")?,
        syscallsp: field("syscallsp")?,
        syscallpc: field("syscallpc")?,
        atomicstatus: field("atomicstatus")?,
        goid: field("goid")?,
        waitsince: field("waitsince")?,
        waitreason: field("waitreason")?,
        lockedm: field("lockedm")?,
        parent_goid: field("parentGoid"),
        gopc: field("gopc")?,
        startpc: field("startpc")?,
        waiting: field("waiting")?,
        labels: field("labels")?,
        size,
        source: LayoutSource::Dwarf,
    })
}
