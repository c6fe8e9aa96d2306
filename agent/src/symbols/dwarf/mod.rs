//! Frames out of a binary's DWARF, versions 2 to 5, through gimli.
//!
//! Sections are inflated when the first pc is asked for, and all symbolizers together hold at most
//! [`MAX_HELD_BYTES`] of them (one binary's where that one has more): answers are cached above, so a second look is
//! rare, and a host full of large binaries must not add up. Units are found by one pass over their headers and decoded one by one.
//!
//! Refused, so that crafted debug information costs little: sections over the stated sizes, more units or ranges than
//! stated, abbreviation tables that overlap, entries with absurdly many attributes, oversized line tables.

mod sections;
mod unit;

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use super::{Frame, SymbolError};
use crate::{address::VirtAddr, binary::Binary};
use sections::Sections;
use unit::{Budget, Unit};

/// Decoded units kept beside the sections.
const MAX_UNITS_BYTES: usize = 16 << 20;

/// The minor version of Go whose symbols have type arguments.
const TYPE_ARGUMENTS_SINCE: u32 = 21;

/// Gives access to one binary's DWARF.
pub(super) struct Dwarf {
    binary: Arc<Binary>,
    limit_bytes: u64,
    /// Why none of it can be read.
    refused: OnceLock<Arc<str>>,
}

/// Inflated sections held at a time.
const MAX_HELD_BYTES: usize = 32 << 20;

/// The DWARF that is inflated now, and whose it is. Most recently used last.
static HELD: Mutex<Vec<(Weak<Binary>, Arc<Debug>)>> = Mutex::new(Vec::new());

struct Debug {
    sections: Sections,
    index: unit::Index,
    /// Most recently used last.
    units: Mutex<Vec<(usize, Arc<Unit>)>>,
}

/// Lets go of whatever DWARF is held, to be read again when needed.
pub(super) fn release() {
    *HELD.lock().unwrap_or_else(PoisonError::into_inner) = Vec::new();
}

impl Dwarf {
    /// Reads nothing yet. Sections that need more than `limit_bytes` when inflated are refused later.
    pub(super) fn new(binary: Arc<Binary>, limit_bytes: u64) -> Self {
        Self { binary, limit_bytes, refused: OnceLock::new() }
    }

    /// The frames at `pc` itself, innermost first. `None` where DWARF knows no function.
    pub(super) fn frames_at(&self, pc: VirtAddr) -> Result<Option<Vec<Frame>>, SymbolError> {
        if let Some(why) = self.refused.get() {
            return Err(SymbolError::Refused(Arc::clone(why)));
        }
        let debug = self.open().inspect_err(|error| {
            let _ = self.refused.set(error.to_string().into());
        })?;
        let Some(number) = debug.index.unit_of(pc.0) else { return Ok(None) };
        let unit = debug.unit(number)?;
        let mut frames = unit.frames(&debug.sections, &debug.index, pc.0, &mut Budget::default())?;
        // Until then the linker shortened the names of symbols, but not those of DWARF.
        if self.binary.go_version().minor < TYPE_ARGUMENTS_SINCE {
            frames.iter_mut().flatten().for_each(|frame| frame.symbol = None);
        }
        Ok(frames)
    }

    fn open(&self) -> Result<Arc<Debug>, SymbolError> {
        // Locked while reading, so that two threads do not inflate two binaries at once.
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|(binary, _)| binary.strong_count() > 0);
        if let Some(at) = held.iter().position(|(binary, _)| binary.as_ptr() == Arc::as_ptr(&self.binary)) {
            let entry = held.remove(at);
            let debug = Arc::clone(&entry.1);
            held.push(entry);
            return Ok(debug);
        }
        let sections = Sections::read(&self.binary, self.limit_bytes)?;
        let mut bytes: usize = held.iter().map(|(_, debug)| debug.sections.bytes()).sum::<usize>() + sections.bytes();
        while bytes > MAX_HELD_BYTES && !held.is_empty() {
            let (_, oldest) = held.remove(0);
            bytes -= oldest.sections.bytes();
        }
        let index = unit::Index::build(&sections)?;
        let debug = Arc::new(Debug { sections, index, units: Mutex::default() });
        held.push((Arc::downgrade(&self.binary), Arc::clone(&debug)));
        Ok(debug)
    }
}

impl Debug {
    fn unit(&self, number: usize) -> Result<Arc<Unit>, SymbolError> {
        let mut units = self.units.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = units.iter().position(|(other, _)| *other == number) {
            let entry = units.remove(at);
            let unit = Arc::clone(&entry.1);
            units.push(entry);
            return Ok(unit);
        }
        let unit = Arc::new(Unit::decode(&self.sections, &self.index, number, &mut Budget::default())?);
        units.push((number, Arc::clone(&unit)));
        let mut bytes: usize = units.iter().map(|(_, unit)| unit.bytes()).sum();
        while bytes > MAX_UNITS_BYTES && units.len() > 1 {
            let (_, oldest) = units.remove(0);
            bytes -= oldest.bytes();
        }
        Ok(unit)
    }
}
