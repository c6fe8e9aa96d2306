//! Which unit holds a pc, and what that unit says about it.
//!
//! A unit keeps its functions' ranges and its line rows; the tree of inlined calls is walked anew for each question,
//! since one function's is short. Everything counts against a [`Budget`].

use std::{ops::Range, sync::Arc};

use gimli::{Abbreviations, AttributeValue, Dwarf, Section, UnitOffset};

use super::sections::Sections;
use crate::binary::debug_info::{Entry, Slice, Units, check_entry, too_much};
use crate::binary::pclntab::cut_name;
use crate::printable;
use crate::symbols::{Frame, SymbolError, gopclntab::MAX_INLINE_DEPTH};

const MAX_ORIGINS: u32 = 8;
const MAX_PATH_BYTES: usize = 4096;

/// The work one question may still cost. Crafted data runs out of it; real data does not come near.
pub(super) struct Budget {
    ranges: u32,
    rows: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Self { ranges: 2 << 20, rows: 4 << 20 }
    }
}

impl Budget {
    fn take(left: &mut u32) -> gimli::Result<()> {
        *left = left.checked_sub(1).ok_or_else(too_much)?;
        Ok(())
    }

    /// The ranges of an entry, empty ones left out.
    fn ranges<'a>(
        &mut self,
        dwarf: &Dwarf<Slice<'a>>,
        unit: &gimli::Unit<Slice<'a>>,
        entry: &Entry<'a>,
        mut visit: impl FnMut(u64, u64),
    ) -> gimli::Result<()> {
        check_entry(entry)?;
        let mut ranges = dwarf.die_ranges(unit, entry)?;
        while let Some(range) = ranges.next()? {
            Self::take(&mut self.ranges)?;
            if range.begin < range.end {
                visit(range.begin, range.end);
            }
        }
        Ok(())
    }
}

/// Which unit holds which addresses.
pub(super) struct Index {
    units: Units,
    /// (begin, end, number of the unit), sorted.
    ranges: Vec<(u64, u64, u32)>,
}

impl Index {
    pub(super) fn build(sections: &Sections) -> Result<Self, SymbolError> {
        let dwarf = sections.dwarf();
        let mut index = Self { units: Units::read(&dwarf)?, ranges: Vec::new() };
        let mut budget = Budget::default();
        let mut ranges = Vec::new();
        let mut before: Option<(usize, Arc<Abbreviations>)> = None;
        // Every unit has a line table of its own, so reading all their headers passes over the section once.
        let mut line_bytes_left = dwarf.debug_line.reader().slice().len() as u64;
        for number in 0..index.units.len() {
            let last = before.as_ref().map(|(number, abbreviations)| (*number, abbreviations));
            let abbreviations = index.units.abbreviations(&dwarf, number, last)?;
            before = Some((number, Arc::clone(&abbreviations)));
            let (unit, line_bytes) = index.open(sections, &dwarf, number, abbreviations)?;
            line_bytes_left = line_bytes_left.checked_sub(line_bytes).ok_or_else(too_much)?;
            let mut entries = unit.entries();
            if let Some(root) = entries.next_dfs()? {
                budget.ranges(&dwarf, &unit, root, |begin, end| ranges.push((begin, end, number as u32)))?;
            }
        }
        ranges.sort_unstable();
        index.ranges = ranges;
        Ok(index)
    }

    /// The number of the unit that holds `pc`.
    pub(super) fn unit_of(&self, pc: u64) -> Option<usize> {
        let after = self.ranges.partition_point(|&(begin, _, _)| begin <= pc);
        let (_, end, number) = *self.ranges.get(after.checked_sub(1)?)?;
        (pc < end).then_some(number as usize)
    }

    /// A unit, and how long the header of its line table is.
    fn open<'a>(
        &self,
        sections: &'a Sections,
        dwarf: &Dwarf<Slice<'a>>,
        number: usize,
        abbreviations: Arc<Abbreviations>,
    ) -> gimli::Result<(gimli::Unit<Slice<'a>>, u64)> {
        let offset = self.units.offset(number).ok_or_else(too_much)?;
        let header = dwarf.debug_info.header_from_offset(offset)?;
        let mut entries = header.entries(&abbreviations);
        let mut line_bytes = 0;
        if let Some(root) = entries.next_dfs()? {
            check_entry(root)?;
            if let Some(AttributeValue::DebugLineRef(line)) = root.attr_value(gimli::DW_AT_stmt_list) {
                line_bytes = sections.line_header_bytes(line.0)?;
            }
        }
        Ok((gimli::Unit::new_with_abbreviations(dwarf, header, abbreviations)?, line_bytes))
    }
}

/// One decoded unit.
pub(super) struct Unit {
    number: usize,
    abbreviations: Arc<Abbreviations>,
    /// (begin, end, its DIE), sorted.
    functions: Vec<(u64, u64, UnitOffset)>,
    /// (begin, end, its rows), sorted: one per sequence of the line program.
    sequences: Vec<(u64, u64, Range<u32>)>,
    /// Sorted within each sequence.
    rows: Vec<Row>,
}

#[derive(Clone, Copy)]
struct Row {
    address: u64,
    file: u32,
    line: u32,
}

/// A call that was inlined around the pc.
struct Call {
    depth: isize,
    file: u64,
    line: u32,
}

impl Unit {
    pub(super) fn decode(
        sections: &Sections,
        index: &Index,
        number: usize,
        budget: &mut Budget,
    ) -> Result<Self, SymbolError> {
        let dwarf = sections.dwarf();
        let abbreviations = index.units.abbreviations(&dwarf, number, None)?;
        let (unit, _) = index.open(sections, &dwarf, number, Arc::clone(&abbreviations))?;
        let mut functions = Vec::new();
        let mut entries = unit.entries();
        while let Some(entry) = entries.next_dfs()? {
            if entry.tag() == gimli::DW_TAG_subprogram {
                let offset = entry.offset();
                budget.ranges(&dwarf, &unit, entry, |begin, end| functions.push((begin, end, offset)))?;
            } else {
                check_entry(entry)?;
            }
        }
        functions.sort_unstable_by_key(|&(begin, end, _)| (begin, end));
        let mut decoded = Self { number, abbreviations, functions, sequences: Vec::new(), rows: Vec::new() };
        decoded.decode_lines(&unit, budget)?;
        Ok(decoded)
    }

    fn decode_lines(&mut self, unit: &gimli::Unit<Slice<'_>>, budget: &mut Budget) -> gimli::Result<()> {
        let Some(program) = unit.line_program.clone() else { return Ok(()) };
        let mut rows = program.rows();
        let mut first = 0;
        while let Some((_, row)) = rows.next_row()? {
            Budget::take(&mut budget.rows)?;
            if !row.end_sequence() {
                let line = row.line().map_or(0, |line| u32::try_from(line.get()).unwrap_or_default());
                let file = u32::try_from(row.file_index()).unwrap_or(u32::MAX);
                self.rows.push(Row { address: row.address(), file, line });
                continue;
            }
            let sequence = self.rows.get_mut(first..).unwrap_or_default();
            // A later row for the same address replaces an earlier one: keep the order among equals.
            sequence.sort_by_key(|row| row.address);
            let begin = sequence.first().map(|row| row.address);
            if let Some(begin) = begin.filter(|&begin| begin < row.address()) {
                self.sequences.push((begin, row.address(), first as u32..self.rows.len() as u32));
            }
            first = self.rows.len();
        }
        self.sequences.sort_unstable_by_key(|&(begin, end, _)| (begin, end));
        Ok(())
    }

    /// The memory this takes, in bytes.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(self.functions.as_slice())
            + size_of_val(self.sequences.as_slice())
            + size_of_val(self.rows.as_slice())
    }

    /// The frames at `pc`. `None` where no function of the unit holds it.
    pub(super) fn frames(
        &self,
        sections: &Sections,
        index: &Index,
        pc: u64,
        budget: &mut Budget,
    ) -> Result<Option<Vec<Frame>>, SymbolError> {
        let after = self.functions.partition_point(|&(begin, _, _)| begin <= pc);
        let function = after.checked_sub(1).and_then(|at| self.functions.get(at));
        let Some(&(_, _, function)) = function.filter(|&&(_, end, _)| pc < end) else { return Ok(None) };
        let dwarf = sections.dwarf();
        let (unit, _) = index.open(sections, &dwarf, self.number, Arc::clone(&self.abbreviations))?;
        let mut names = Names { sections, index, dwarf: &dwarf, here: &unit, here_number: self.number };
        let mut entries = unit.entries_at_offset(function)?;
        let Some(entry) = entries.next_dfs()? else { return Ok(None) };
        let physical = names.of(entry)?;
        // Outermost first.
        let mut calls: Vec<Call> = Vec::new();
        let mut callees = Vec::new();
        while let Some(entry) = entries.next_dfs()?.filter(|entry| entry.depth() > 0) {
            let deeper = calls.last().is_none_or(|call| entry.depth() > call.depth);
            if entry.tag() != gimli::DW_TAG_inlined_subroutine || !deeper {
                continue;
            }
            let mut holds = false;
            budget.ranges(&dwarf, &unit, entry, |begin, end| holds |= (begin..end).contains(&pc))?;
            if holds && calls.len() < MAX_INLINE_DEPTH {
                let number = |name| entry.attr_value(name).and_then(|value| value.udata_value());
                let file = match entry.attr_value(gimli::DW_AT_call_file) {
                    Some(AttributeValue::FileIndex(file)) => file,
                    value => value.and_then(|value| value.udata_value()).unwrap_or(u64::MAX),
                };
                let line = number(gimli::DW_AT_call_line).and_then(|line| u32::try_from(line).ok());
                calls.push(Call { depth: entry.depth(), file, line: line.unwrap_or_default() });
                callees.push(names.of(entry)?);
            }
        }
        let (file, line) = self.line_at(pc).unwrap_or((u64::MAX, 0));
        // Each frame stands at the place its callee was called from.
        let mut places = vec![(file, line)];
        places.extend(calls.iter().rev().map(|call| (call.file, call.line)));
        let functions = callees.into_iter().rev().map(|name| (name, true)).chain([(physical, false)]);
        let frames = functions.zip(places).map(|((function, inlined), (file, line))| {
            let unknown = || "?".to_owned();
            let file = path(&dwarf, &unit, file).unwrap_or_else(unknown);
            Frame::of_symbol(function.unwrap_or_else(unknown), file, line, inlined)
        });
        Ok(Some(frames.collect()))
    }

    /// File index and line of the row that covers `pc`.
    fn line_at(&self, pc: u64) -> Option<(u64, u32)> {
        let after = self.sequences.partition_point(|(begin, _, _)| *begin <= pc);
        let (_, end, rows) = self.sequences.get(after.checked_sub(1)?)?;
        let rows = self.rows.get(rows.start as usize..rows.end as usize).filter(|_| pc < *end)?;
        let after = rows.partition_point(|row| row.address <= pc);
        let row = rows.get(after.checked_sub(1)?)?;
        Some((u64::from(row.file), row.line))
    }
}

/// Names of functions, which may be written in another unit than the code that was inlined from them.
struct Names<'n, 'a> {
    sections: &'a Sections,
    index: &'n Index,
    dwarf: &'n Dwarf<Slice<'a>>,
    here: &'n gimli::Unit<Slice<'a>>,
    here_number: usize,
}

impl<'a> Names<'_, 'a> {
    /// The name of a function, or of the function an inlined or concrete copy was made from.
    fn of(&mut self, entry: &Entry<'a>) -> gimli::Result<Option<String>> {
        if let Some(name) = entry.attr_value(gimli::DW_AT_name) {
            return Ok(Some(cut_name(self.dwarf.attr_string(self.here, name)?.slice())));
        }
        let mut next = self.origin(entry, self.here, self.here_number);
        for _ in 0..MAX_ORIGINS {
            let Some((number, offset)) = next else { return Ok(None) };
            let here = Some((self.here_number, &self.here.abbreviations));
            let abbreviations = self.index.units.abbreviations(self.dwarf, number, here)?;
            let (unit, _) = self.index.open(self.sections, self.dwarf, number, abbreviations)?;
            let entry = unit.entry(offset)?;
            if let Some(name) = entry.attr_value(gimli::DW_AT_name) {
                return Ok(Some(cut_name(self.dwarf.attr_string(&unit, name)?.slice())));
            }
            next = self.origin(&entry, &unit, number);
        }
        Ok(None)
    }

    /// The unit and entry that an entry takes its name from.
    fn origin(&self, entry: &Entry<'a>, unit: &gimli::Unit<Slice<'a>>, number: usize) -> Option<(usize, UnitOffset)> {
        let origin =
            entry.attr_value(gimli::DW_AT_abstract_origin).or_else(|| entry.attr_value(gimli::DW_AT_specification))?;
        match origin {
            AttributeValue::UnitRef(offset) => Some((number, offset)),
            AttributeValue::DebugInfoRef(offset) => match offset.to_unit_offset(&unit.header) {
                Some(offset) => Some((number, offset)),
                None => {
                    let number = self.index.units.holding(offset)?;
                    let start = self.index.units.offset(number)?.0;
                    Some((number, UnitOffset(offset.0.checked_sub(start)?)))
                }
            },
            _ => None,
        }
    }
}

fn text(bytes: Slice<'_>, limit: usize) -> String {
    let bytes = bytes.slice();
    printable::name(&String::from_utf8_lossy(bytes.get(..limit).unwrap_or(bytes))).into_owned()
}

/// A file of the unit's line table: its name behind its directory.
fn path(dwarf: &Dwarf<Slice<'_>>, unit: &gimli::Unit<Slice<'_>>, file: u64) -> Option<String> {
    let header = unit.line_program.as_ref()?.header();
    let file = header.file(file)?;
    let name = text(dwarf.attr_string(unit, file.path_name()).ok()?, MAX_PATH_BYTES);
    if name.starts_with('/') {
        return Some(name);
    }
    let directory = file.directory(header).and_then(|directory| dwarf.attr_string(unit, directory).ok());
    let directory = directory.map(|directory| text(directory, MAX_PATH_BYTES)).unwrap_or_default();
    // Directory 0 is where the compiler ran: no part of a name Go gives, "." where Go writes it.
    let here = file.directory_index() == 0 || directory.is_empty();
    Some(if here { name } else { format!("{directory}/{name}") })
}
