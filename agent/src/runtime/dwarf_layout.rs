//! The layout of `runtime.g` as the binary's own DWARF describes it.
//!
//! Go's linker puts the types into a unit called `runtime`; only units of that name are looked into, and no more
//! of the section is inflated than the struct's place asks for. Refuses debug sections over [`MAX_SECTION_BYTES`] and a struct without the fields asked for.

use std::{collections::BTreeMap, sync::Arc};

use gimli::{
    AttributeValue, DebugAbbrev, DebugInfo, DebugLineStr, DebugStr, DwAt, LittleEndian, SectionId, UnitOffset,
};

use super::{Layout, LayoutSource};
use crate::binary::{
    Binary, BinaryError,
    bytes::u32_at,
    debug_info::{Slice, Units, check_entry},
    prefix::Prefix,
};

const MAX_SECTION_BYTES: u64 = 256 << 20;
/// How far into the debug information is looked; the struct is within the first MiBs.
const MAX_LOOKED_AT_BYTES: usize = 64 << 20;
const MAX_FIELDS: usize = 512;
/// `g.sched.sp` is two deep.
const MAX_DEPTH: u32 = 3;

/// Reads the layout. `Ok(None)` where there is no DWARF or no `runtime.g` in it.
pub(super) fn read(binary: &Binary) -> Result<Option<Layout>, BinaryError> {
    /// `runtime.g` is behind the standard library's low layers; with each further try twice as far is looked.
    const FIRST_BYTES: usize = 512 << 10;
    let Some(image) = binary.image_with(SectionId::DebugInfo.name()) else { return Ok(None) };
    let section = |id: SectionId| {
        let data = image.section_data(id.name(), MAX_SECTION_BYTES);
        data.map(Option::unwrap_or_default)
    };
    let Some(mut info) = Prefix::read(image, SectionId::DebugInfo.name(), MAX_SECTION_BYTES)? else {
        return Ok(None);
    };
    let sections = (section(SectionId::DebugAbbrev)?, section(SectionId::DebugStr)?, section(SectionId::DebugLineStr)?);
    let (mut first, mut done) = (FIRST_BYTES, 0);
    loop {
        let mut prefix = info.first(first)?.to_vec();
        let whole = prefix.len() >= info.whole_bytes().min(MAX_LOOKED_AT_BYTES);
        if prefix.len() < info.whole_bytes() {
            end_last_unit(&mut prefix);
        }
        let dwarf = gimli::Dwarf::<Slice<'_>> {
            debug_abbrev: DebugAbbrev::new(&sections.0, LittleEndian),
            debug_info: DebugInfo::new(&prefix, LittleEndian),
            debug_str: DebugStr::new(&sections.1, LittleEndian),
            debug_line_str: DebugLineStr::new(&sections.2, LittleEndian),
            ..Default::default()
        };
        // What DWARF says wrongly is the same as what it does not say.
        match find(&dwarf, &mut done) {
            Ok(Some(layout)) => return Ok(Some(layout)),
            _ if whole => return Ok(None),
            _ => first = first.saturating_mul(2),
        }
    }
}

/// Makes the unit that a prefix cuts through end where the prefix does.
fn end_last_unit(prefix: &mut Vec<u8>) {
    const LENGTH_BYTES: usize = 4;
    /// The longest header of a unit, and then some.
    const WORTH_READING_BYTES: usize = 64;
    let mut at = 0;
    while let Some(length) = u32_at(prefix, at) {
        let end = at.saturating_add(LENGTH_BYTES).saturating_add(length as usize);
        let left = prefix.len() - at;
        if end > prefix.len() {
            match prefix.get_mut(at..at + LENGTH_BYTES).filter(|_| left >= WORTH_READING_BYTES) {
                Some(length) => length.copy_from_slice(&((left - LENGTH_BYTES) as u32).to_le_bytes()),
                None => break,
            }
        }
        at = end;
    }
    prefix.truncate(at.min(prefix.len()));
}

/// Looks for the layout in the units from number `done` on, and moves that behind the units that cannot hold it.
fn find(dwarf: &gimli::Dwarf<Slice<'_>>, done: &mut usize) -> gimli::Result<Option<Layout>> {
    let units = Units::read(dwarf)?;
    let mut before = None;
    for number in *done..units.len() {
        let Some(offset) = units.offset(number) else { continue };
        let header = dwarf.debug_info.header_from_offset(offset)?;
        let last = before.as_ref().map(|(number, abbreviations)| (*number, abbreviations));
        let abbreviations = units.abbreviations(dwarf, number, last)?;
        before = Some((number, Arc::clone(&abbreviations)));
        let unit = Unit { header: &header, abbreviations: &abbreviations };
        if unit.is_runtime(dwarf)?
            && let Some(layout) = find_in(dwarf, &unit)?
        {
            return Ok(Some(layout));
        }
        // The last one may be cut short.
        if number + 1 < units.len() {
            *done = number + 1;
        }
    }
    Ok(None)
}

/// A unit without its line program and address ranges, which nothing here needs.
struct Unit<'u, 'a> {
    header: &'u gimli::UnitHeader<Slice<'a>>,
    abbreviations: &'u gimli::Abbreviations,
}

impl Unit<'_, '_> {
    fn is_runtime(&self, dwarf: &gimli::Dwarf<Slice<'_>>) -> gimli::Result<bool> {
        let mut entries = self.header.entries(self.abbreviations);
        let Some(root) = entries.next_dfs()? else { return Ok(false) };
        Ok(name(dwarf, root).is_some_and(|name| name.slice() == b"runtime"))
    }
}

/// The name of a DIE. Go writes strings in place, other compilers into string sections.
fn name<'a>(dwarf: &gimli::Dwarf<Slice<'a>>, entry: &gimli::DebuggingInformationEntry<Slice<'a>>) -> Option<Slice<'a>> {
    match entry.attr_value(gimli::DW_AT_name)? {
        AttributeValue::String(name) => Some(name),
        AttributeValue::DebugStrRef(offset) => dwarf.string(offset).ok(),
        AttributeValue::DebugLineStrRef(offset) => dwarf.line_string(offset).ok(),
        _ => None,
    }
}

/// Looks for `struct runtime.g` among the DIEs of a unit.
fn find_in(dwarf: &gimli::Dwarf<Slice<'_>>, unit: &Unit<'_, '_>) -> gimli::Result<Option<Layout>> {
    let mut entries = unit.header.entries(unit.abbreviations);
    while let Some(entry) = entries.next_dfs()? {
        check_entry(entry)?;
        let is_struct = entry.tag() == gimli::DW_TAG_structure_type;
        if !is_struct || name(dwarf, entry).is_none_or(|name| name.slice() != b"runtime.g") {
            continue;
        }
        let mut fields = BTreeMap::new();
        members(dwarf, unit, entry.offset(), "", 0, MAX_DEPTH, &mut fields)?;
        let size = number(entry, gimli::DW_AT_byte_size);
        if let Some(layout) = size.and_then(|size| layout(&fields, size)) {
            return Ok(Some(layout));
        }
    }
    Ok(None)
}

fn number(entry: &gimli::DebuggingInformationEntry<Slice<'_>>, name: DwAt) -> Option<u32> {
    entry.attr_value(name)?.udata_value().and_then(|value| u32::try_from(value).ok())
}

/// Collects the members of the struct at `offset` into `fields`, those of structs in it as `outer.inner`.
fn members(
    dwarf: &gimli::Dwarf<Slice<'_>>,
    unit: &Unit<'_, '_>,
    offset: UnitOffset,
    prefix: &str,
    base: u32,
    depth: u32,
    fields: &mut BTreeMap<String, u32>,
) -> gimli::Result<()> {
    let mut tree = unit.header.entries_tree(unit.abbreviations, Some(offset))?;
    let mut children = tree.root()?.children();
    while let Some(child) = children.next()? {
        let entry = child.entry();
        if entry.tag() != gimli::DW_TAG_member || fields.len() >= MAX_FIELDS {
            continue;
        }
        let at = number(entry, gimli::DW_AT_data_member_location).and_then(|at| at.checked_add(base));
        let (Some(name), Some(at)) = (name(dwarf, entry), at) else { continue };
        let name = format!("{prefix}{}", name.to_string_lossy());
        if let (Some(inner), true) = (struct_of(unit, entry)?, depth > 1) {
            members(dwarf, unit, inner, &format!("{name}."), at, depth - 1, fields)?;
        }
        fields.insert(name, at);
    }
    Ok(())
}

/// The struct that is the type of a member, seen through typedefs.
fn struct_of(
    unit: &Unit<'_, '_>,
    member: &gimli::DebuggingInformationEntry<Slice<'_>>,
) -> gimli::Result<Option<UnitOffset>> {
    const MAX_TYPEDEFS: u32 = 8;
    let target = |value| match value {
        Some(AttributeValue::UnitRef(offset)) => Some(offset),
        Some(AttributeValue::DebugInfoRef(offset)) => offset.to_unit_offset(unit.header),
        _ => None,
    };
    let mut next = target(member.attr_value(gimli::DW_AT_type));
    for _ in 0..MAX_TYPEDEFS {
        let Some(offset) = next else { return Ok(None) };
        let entry = unit.header.entry(unit.abbreviations, offset)?;
        match entry.tag() {
            gimli::DW_TAG_structure_type => return Ok(Some(offset)),
            gimli::DW_TAG_typedef => next = target(entry.attr_value(gimli::DW_AT_type)),
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
