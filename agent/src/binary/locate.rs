//! Finds gopclntab and `runtime.firstmoduledata` in a file, with or without sections.
//!
//! gopclntab: by section name, else by its header in the mapped segments. moduledata: by its first two words, which
//! are the addresses of gopclntab and of the name table in it. What is found is accepted only where the two agree:
//! `minpc`, `maxpc` and `text` of moduledata must be what the function table says. Source: `runtime/symtab.go`
//! (`moduledata`, `moduledataverify1`).

use super::{
    BinaryError, GoVersion,
    bytes::u64_at,
    elf::{Image, Segment},
    pclntab::{Pclntab, Record},
    relocations::{read_relocated, words_set_to},
};

const PCLNTAB_SECTIONS: [&str; 2] = [".gopclntab", ".data.rel.ro.gopclntab"];
/// Read first when there: moduledata is in one of them unless the file was linked by another linker.
const MODULEDATA_SECTIONS: [&str; 3] = [".go.module", ".noptrdata", ".data"];
/// Enough of moduledata for every word used; the structure itself is longer in every version.
const MODULEDATA_BYTES: usize = 376;
const MIN_PC_AT: usize = 160;
const MAX_PC_AT: usize = 168;
const TEXT_AT: usize = 176;
/// For the test that holds them to the table of layouts.
#[cfg(test)]
pub(crate) const PLACES_IN_MODULEDATA: [usize; 3] = [MIN_PC_AT, MAX_PC_AT, TEXT_AT];
/// Where `gofunc` can be: from the end of the fixed part on.
const GOFUNC_AT: std::ops::Range<usize> = 288..368;
/// Candidates looked at before a file is called malformed: each word that happens to look like the table costs a read.
const MAX_CANDIDATES: u32 = 64;

/// The function table of the file, complete with what moduledata knows about it.
pub(crate) fn pclntab(image: &Image, version: Option<&GoVersion>) -> Result<Pclntab, BinaryError> {
    for name in PCLNTAB_SECTIONS {
        if let Some(section) = image.section(name) {
            return with_moduledata(image, &Pclntab::at(image, section.address, section.bytes)?, version);
        }
    }
    // Linked by another linker (data first, that is where such a table is) or without a section table.
    let mut left = MAX_CANDIDATES;
    let mut reason = BinaryError::NotGo;
    let mut order: Vec<&Segment> = image.segments.iter().collect();
    order.sort_by_key(|segment| (segment.executable, !segment.writable));
    for segment in order {
        let found = image.scan(segment.address..segment.end(), 0, |address, bytes| {
            for (word, at) in bytes.as_chunks::<8>().0.iter().zip((0u64..).step_by(8)) {
                if !is_header_start(u64::from_le_bytes(*word)) {
                    continue;
                }
                let candidate = address + at;
                let tried =
                    Pclntab::at(image, candidate, u64::MAX).and_then(|table| with_moduledata(image, &table, version));
                match tried {
                    Ok(table) => return Ok(Some(table)),
                    Err(error) => reason = error,
                }
                left = left.checked_sub(1).ok_or(BinaryError::malformed("gopclntab", candidate))?;
            }
            Ok(None)
        })?;
        if let Some(table) = found {
            return Ok(table);
        }
    }
    Err(reason)
}

/// Whether these eight bytes can start a gopclntab: magic, two zeros, instruction quantum, pointer size.
fn is_header_start(word: u64) -> bool {
    matches!(word as u32, 0xffff_fff0 | 0xffff_fff1) && matches!(word >> 32, 0x0801_0000 | 0x0802_0000 | 0x0804_0000)
}

fn with_moduledata(image: &Image, table: &Pclntab, version: Option<&GoVersion>) -> Result<Pclntab, BinaryError> {
    let sections = MODULEDATA_SECTIONS.iter().filter_map(|name| image.section(name));
    let sections = sections.map(|section| section.address..section.address.saturating_add(section.bytes));
    let segments = image.segments.iter().filter(|segment| !segment.executable);
    let segments = segments.map(|segment| segment.address..segment.end());
    let ranges: Vec<_> = sections.chain(segments).collect();
    let mut left = MAX_CANDIDATES;
    for range in ranges {
        let found = image.scan(range, 8, |address, bytes| {
            let words = bytes.as_chunks::<8>().0;
            for (pair, at) in words.windows(2).zip((0u64..).step_by(8)) {
                let [first, second] = pair else { continue };
                if u64::from_le_bytes(*first) == table.address && u64::from_le_bytes(*second) == table.names {
                    if let Some(table) = accept(image, table, address + at, version)? {
                        return Ok(Some(table));
                    }
                    left = left.checked_sub(1).ok_or(BinaryError::malformed("moduledata", address + at))?;
                }
            }
            Ok(None)
        })?;
        if let Some(table) = found {
            return Ok(table);
        }
    }
    if image.position_independent {
        for address in words_set_to(image, table.address)? {
            if let Some(table) = accept(image, table, address, version)? {
                return Ok(table);
            }
        }
    }
    Err(BinaryError::malformed("moduledata: none for the gopclntab", table.address))
}

/// `table` with the words of the moduledata at `address`, if that is one and the two agree.
fn accept(
    image: &Image,
    table: &Pclntab,
    address: u64,
    version: Option<&GoVersion>,
) -> Result<Option<Pclntab>, BinaryError> {
    let mut raw = [0; MODULEDATA_BYTES];
    if image.backed(address) < MODULEDATA_BYTES as u64 {
        return Ok(None);
    }
    read_relocated(image, address, &mut raw)?;
    let word = |at| u64_at(&raw, at).unwrap_or_default();
    let (min_pc, max_pc, text) = (word(MIN_PC_AT), word(MAX_PC_AT), word(TEXT_AT));
    let (first, end) = table.bounds(image)?;
    let agrees = word(0) == table.address
        && word(8) == table.names
        && text.checked_add(u64::from(first)) == Some(min_pc)
        && text.checked_add(u64::from(end)) == Some(max_pc)
        && min_pc < max_pc
        && (table.header_text == 0 || table.header_text == text)
        && image.segment_at(min_pc).is_some_and(|segment| segment.executable && segment.contains(max_pc - 1));
    if !agrees {
        return Ok(None);
    }
    let mut table = table.with_text(text);
    table.gofunc = gofunc(image, &table, &raw, version)?;
    Ok(Some(table))
}

/// `moduledata.gofunc`: the word that makes sense of the inline trees.
///
/// Its place moved in 1.20 and in 1.27, so the place of the binary's version is tried first and any other after it;
/// the trees decide. A binary without a single inlined call cannot decide and gets the place of its version.
fn gofunc(
    image: &Image,
    table: &Pclntab,
    moduledata: &[u8],
    version: Option<&GoVersion>,
) -> Result<Option<u64>, BinaryError> {
    let by_version = version.map(gofunc_place);
    let samples = trees(image, table)?;
    for at in by_version.into_iter().chain(GOFUNC_AT.step_by(8)) {
        let Some(gofunc) = u64_at(moduledata, at).filter(|&gofunc| image.segment_at(gofunc).is_some()) else {
            continue;
        };
        let table = table.with_gofunc(gofunc);
        if samples.is_empty() {
            return Ok(by_version.is_some().then_some(gofunc));
        }
        if samples.iter().all(|record| plausible(image, &table, record).unwrap_or(false)) {
            return Ok(Some(gofunc));
        }
    }
    Ok(None)
}

/// Where a Go version has `gofunc`.
pub(crate) fn gofunc_place(version: &GoVersion) -> usize {
    match (version.major, version.minor) {
        (1, ..=19) => 304,
        (1, ..=26) => 320,
        _ => 344,
    }
}

/// Some functions that have inlined calls.
fn trees(image: &Image, table: &Pclntab) -> Result<Vec<Record>, BinaryError> {
    const SAMPLES: usize = 8;
    let probe = table.with_gofunc(0);
    let mut samples = Vec::new();
    probe.each(image, |_, record| {
        if probe.inline_tree(record).is_some() {
            samples.push(record.clone());
        }
        Ok((samples.len() >= SAMPLES).then_some(()))
    })?;
    Ok(samples)
}

/// Whether the first entry of a function's inline tree names a function and a pc of the parent.
fn plausible(image: &Image, table: &Pclntab, record: &Record) -> Result<bool, BinaryError> {
    let Some(tree) = table.inline_tree(record) else { return Ok(false) };
    let call = table.tree_entry(image, tree, 0)?;
    // A name starts the table or follows the end of another.
    let mut before = [0];
    if call.name_offset > 0 {
        let address = table.names + u64::from(call.name_offset) - 1;
        if !table.name_range().contains(&address) {
            return Ok(false);
        }
        image.read(address, &mut before)?;
    }
    let name = table.name(image, call.name_offset)?;
    Ok(before == [0] && name.contains('.') && u64::from(call.parent_offset) < record.end - record.entry)
}
