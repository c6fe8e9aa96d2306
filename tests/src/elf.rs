//! Finds functions by symbol, for tests: the little that the counter and the benchmarks need, apart from the agent's
//! own reader so that one does not vouch for the other.

use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};
use object::{Object, ObjectSegment, ObjectSymbol};

/// Offset in the file of the first instruction of a function, by its name in the symbol table.
///
/// # Errors
/// When the file cannot be read or has no such symbol.
pub fn function_offset(path: &Path, function: &str) -> Result<u64> {
    let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let file = object::File::parse(&*bytes)?;
    let symbol = file.symbol_by_name(function).with_context(|| format!("{} has no {function}", path.display()))?;
    file_offset(&file, symbol.address()).with_context(|| format!("{function} is in no segment"))
}

/// Whether the file has a function of that name.
///
/// # Errors
/// When the file cannot be read.
pub fn has_function(path: &Path, function: &str) -> Result<bool> {
    let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(object::File::parse(&*bytes)?.symbol_by_name(function).is_some())
}

/// How long the instruction at a file offset is, if it is a conditional branch of x86-64 (`70`..`7f` with 8 bits of
/// distance, `0f 80`..`0f 8f` with 32).
///
/// # Errors
/// When the file cannot be read there.
pub fn conditional_branch_length(path: &Path, file_offset: u64) -> Result<Option<u64>> {
    let mut code = [0; 2];
    std::fs::File::open(path)?.read_exact_at(&mut code, file_offset)?;
    Ok(match code {
        [0x70..=0x7f, _] => Some(2),
        [0x0f, 0x80..=0x8f] => Some(6),
        _ => None,
    })
}

/// file offset = virtual address − segment's `p_vaddr` + segment's `p_offset`
fn file_offset(file: &object::File<'_>, address: u64) -> Option<u64> {
    file.segments().find_map(|segment| {
        let (offset, size) = segment.file_range();
        let within = address.checked_sub(segment.address())?;
        (within < size).then_some(offset + within)
    })
}
