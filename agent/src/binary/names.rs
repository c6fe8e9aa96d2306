//! Functions by name, and where a function was inlined.
//!
//! The table has no index by name. Names of the runtime, which are what probes and layouts ask for, get a small one on
//! first use (8 bytes per runtime function); any other name costs one pass over the table.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use super::{
    BinaryError,
    elf::Image,
    pclntab::{Pclntab, Record},
};

const RUNTIME: &str = "runtime.";
/// More functions of one name than any linker makes.
const MAX_SAME_NAME: usize = 64;
/// Functions one name is reported to be inlined into; there may be more.
const MAX_INLINED_INTO: usize = 1024;
/// More functions than any Go runtime has (Go 1.27: some 5,000).
const MAX_RUNTIME_FUNCTIONS: usize = 1 << 16;

/// The functions whose name starts with `runtime.`, by a hash of the name.
pub(crate) struct RuntimeNames {
    /// (hash of the name, number of the function), sorted.
    entries: Vec<(u32, u32)>,
}

fn hash(name: &[u8]) -> u32 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish() as u32
}

impl RuntimeNames {
    pub(crate) fn build(image: &Image, table: &Pclntab) -> Result<Self, BinaryError> {
        let mut names = BTreeMap::new();
        each_name(image, table, RUNTIME.as_bytes(), |offset, name| {
            if names.len() < MAX_RUNTIME_FUNCTIONS {
                names.insert(offset, hash(name));
            }
        })?;
        let mut entries = Vec::new();
        table.each(image, |index, record| {
            if let Some(&hash) = names.get(&record.name_offset) {
                entries.push((hash, index));
            }
            Ok((entries.len() >= MAX_RUNTIME_FUNCTIONS).then_some(()))
        })?;
        entries.sort_unstable();
        Ok(Self { entries })
    }

    /// The functions of that name, in order of address.
    pub(crate) fn find(&self, image: &Image, table: &Pclntab, name: &str) -> Result<Vec<Record>, BinaryError> {
        let hash = hash(name.as_bytes());
        let from = self.entries.partition_point(|&(other, _)| other < hash);
        let mut found = Vec::new();
        let same = self.entries.iter().skip(from).take_while(|&&(other, _)| other == hash);
        for &(_, index) in same.take(MAX_SAME_NAME) {
            let record = table.record(image, index)?;
            if table.name(image, record.name_offset)? == name {
                found.push(record);
            }
        }
        Ok(found)
    }
}

/// Whether [`RuntimeNames`] knows that name.
pub(crate) fn is_of_runtime(name: &str) -> bool {
    name.starts_with(RUNTIME)
}

/// All functions of that name, in order of address, by reading the whole table.
pub(crate) fn find(image: &Image, table: &Pclntab, name: &str) -> Result<Vec<Record>, BinaryError> {
    let offsets = offsets_of(image, table, name)?;
    let mut found = Vec::new();
    if offsets.is_empty() {
        return Ok(found);
    }
    table.each(image, |_, record| {
        if offsets.contains(&record.name_offset) {
            found.push(record.clone());
        }
        Ok((found.len() >= MAX_SAME_NAME).then_some(()))
    })?;
    Ok(found)
}

/// The functions in which some pc belongs to an inlined copy of `name`.
///
/// First asks whether the name occurs in any inline tree at all, by looking for its number in the memory that holds
/// them: for a function that is nowhere inlined that is one pass over some MiB and no decoding.
pub(crate) fn inlined_into(image: &Image, table: &Pclntab, name: &str) -> Result<Vec<String>, BinaryError> {
    let Some(gofunc) = table.gofunc else {
        return Err(BinaryError::Unsupported { what: "inline trees that cannot be found" });
    };
    let offsets = offsets_of(image, table, name)?;
    let mut hits = Vec::new();
    let end = end_of_trees(image, table, gofunc);
    let start = gofunc.next_multiple_of(4);
    for &offset in &offsets {
        let wanted = offset.to_le_bytes();
        image.scan(start..end, 0, |address, bytes| {
            let words = bytes.as_chunks::<4>().0;
            if words.contains(&wanted) {
                let places = words.iter().zip((0u64..).step_by(4)).filter(|(word, _)| **word == wanted);
                hits.extend(places.map(|(_, at)| address + at));
            }
            // Beyond this a number is so common that looking at every tree is cheaper than at every hit.
            Ok((hits.len() > 1 << 20).then_some(()))
        })?;
    }
    if hits.is_empty() {
        return Ok(Vec::new());
    }
    hits.sort_unstable();
    let (first, end) = table.bounds(image)?;
    let mut left = u64::from(end.saturating_sub(first));
    let mut into = Vec::new();
    table.each(image, |_, record| {
        let Some(tree) = table.inline_tree(record) else { return Ok(None) };
        // Most functions are dismissed here: no hit near their tree.
        let first = hits.partition_point(|&hit| hit < tree);
        if hits.len() <= 1 << 20 && hits.get(first).is_none_or(|&hit| hit - tree > tree_limit(table, record)) {
            return Ok(None);
        }
        // Functions do not overlap, so looking at every one of them passes over the code once.
        let spent = left.checked_sub(record.end - record.entry);
        left = spent.ok_or(BinaryError::malformed("overlapping functions", record.entry))?;
        let last = table.last_inlined(image, record)?.unwrap_or_default();
        if tree_names(image, table, tree, last, &offsets)? {
            into.push(table.name(image, record.name_offset)?);
        }
        Ok((into.len() >= MAX_INLINED_INTO).then_some(()))
    })?;
    into.sort_unstable();
    into.dedup();
    Ok(into)
}

/// More bytes than the inline tree of a function of that size has: nearly every entry has an instruction of its own.
fn tree_limit(table: &Pclntab, record: &Record) -> u64 {
    (record.end - record.entry).saturating_add(1024).saturating_mul(table.format.inlined_call_bytes())
}

/// Whether entry 0 to `last` of a tree names one of `offsets`.
fn tree_names(image: &Image, table: &Pclntab, tree: u64, last: u32, offsets: &[u32]) -> Result<bool, BinaryError> {
    let entry_bytes = table.format.inlined_call_bytes();
    let size = (u64::from(last) + 1) * entry_bytes;
    let found = image.scan(tree..tree.saturating_add(size), 0, |address, bytes| {
        let words = bytes.as_chunks::<4>().0.iter().zip((0u64..).step_by(4));
        let names = words.filter(|(_, at)| (address + at - tree) % entry_bytes == table.format.inlined_name_at());
        Ok(names.map(|(word, _)| u32::from_le_bytes(*word)).any(|name| offsets.contains(&name)).then_some(()))
    })?;
    Ok(found.is_some())
}

/// Where the memory that can hold inline trees ends: with its section, its segment, or where gopclntab starts.
fn end_of_trees(image: &Image, table: &Pclntab, gofunc: u64) -> u64 {
    let section = image.sections.iter().find(|section| {
        section.address != 0 && (section.address..section.address.saturating_add(section.bytes)).contains(&gofunc)
    });
    let mut end = gofunc.saturating_add(image.backed(gofunc));
    if let Some(section) = section {
        end = end.min(section.address.saturating_add(section.bytes));
    }
    if table.address > gofunc {
        end = end.min(table.address);
    }
    end
}

/// The places of that whole name in the name table: one, if a linker made it.
fn offsets_of(image: &Image, table: &Pclntab, name: &str) -> Result<Vec<u32>, BinaryError> {
    let mut offsets = Vec::new();
    each_name(image, table, name.as_bytes(), |offset, found| {
        if found.len() == name.len() && offsets.len() < MAX_SAME_NAME {
            offsets.push(offset);
        }
    })?;
    Ok(offsets)
}

/// Hands every name that starts with `prefix` to `visit`, with its offset. Names over 1 KiB are not seen whole.
fn each_name(
    image: &Image,
    table: &Pclntab,
    prefix: &[u8],
    mut visit: impl FnMut(u32, &[u8]),
) -> Result<(), BinaryError> {
    const OVERLAP_BYTES: usize = 1024;
    let range = table.name_range();
    let mut past = range.start;
    image.scan(range.clone(), OVERLAP_BYTES, |address, bytes| {
        let mut at = 0;
        while let Some(found) = bytes.get(at..).and_then(|rest| find_start(rest, prefix)) {
            let start = at + found;
            at = start + 1;
            let place = address + start as u64;
            let first = place == range.start || start > 0 && bytes.get(start - 1) == Some(&0);
            if !first || place < past {
                continue;
            }
            let rest = bytes.get(start..).unwrap_or_default();
            let Some(length) = rest.iter().position(|&byte| byte == 0) else { continue };
            past = place + 1;
            if let (Ok(offset), Some(name)) = (u32::try_from(place - range.start), rest.get(..length)) {
                visit(offset, name);
            }
        }
        Ok(None::<()>)
    })?;
    Ok(())
}

/// Where `prefix` first stands. Compares eight bytes at a time where it can.
fn find_start(bytes: &[u8], prefix: &[u8]) -> Option<usize> {
    let Some(first) = prefix.first_chunk::<8>() else { return super::bytes::find(bytes, prefix) };
    let wanted = u64::from_ne_bytes(*first);
    let mut from = 0;
    loop {
        let rest = bytes.get(from..)?;
        let step = rest.array_windows::<8>().position(|window| u64::from_ne_bytes(*window) == wanted)?;
        if rest.get(step..)?.starts_with(prefix) {
            return Some(from + step);
        }
        from += step + 1;
    }
}
