//! Pointer words of a position-independent file.
//!
//! Go's own linker and GNU ld leave the link-time value of a relocated word in the file as well; lld may leave 0 there
//! and put the value into a RELATIVE entry of `.rela.dyn` only. Reading a zero word therefore looks there. Entries of
//! any other kind (symbols of other objects) have no value before load time and stay 0.

use std::ops::Range;

use super::{
    Architecture, BinaryError,
    bytes::{u32_at, u64_at},
    elf::Image,
};

const DT_NULL: u64 = 0;
const DT_RELA: u64 = 7;
const DT_RELASZ: u64 = 8;
const ENTRY_BYTES: usize = 24;
const MAX_DYNAMIC_BYTES: usize = 64 << 10;

/// The addresses of `.rela.dyn`, found as the loader finds it.
fn table(image: &Image) -> Result<Option<Range<u64>>, BinaryError> {
    let Some((address, bytes)) = image.dynamic else { return Ok(None) };
    let size = usize::try_from(bytes).unwrap_or(usize::MAX).min(MAX_DYNAMIC_BYTES);
    let raw = image.read_up_to(address, size)?;
    let (mut start, mut size) = (None, None);
    for entry in raw.as_chunks::<16>().0 {
        let value = u64_at(entry, 8);
        match u64_at(entry, 0) {
            None | Some(DT_NULL) => break,
            Some(DT_RELA) => start = value,
            Some(DT_RELASZ) => size = value,
            Some(_) => {}
        }
    }
    Ok(start.zip(size).map(|(start, size)| start..start.saturating_add(size)))
}

/// Hands every RELATIVE entry (the address it fills, the value it puts there) to `visit` until that is `Some`.
pub(crate) fn scan<T>(image: &Image, mut visit: impl FnMut(u64, u64) -> Option<T>) -> Result<Option<T>, BinaryError> {
    let relative = match image.architecture {
        Architecture::Amd64 => 8,
        Architecture::Arm64 => 1027,
    };
    let Some(range) = table(image)? else { return Ok(None) };
    // A piece is not a multiple of the entry size, so walk by windows of whole entries.
    let mut at = range.start;
    while at < range.end {
        let piece = at..range.end.min(at.saturating_add(ENTRY_BYTES as u64 * 4096));
        let found = image.scan(piece.clone(), 0, |_, bytes| {
            Ok(bytes.as_chunks::<ENTRY_BYTES>().0.iter().find_map(|entry| {
                if u32_at(entry, 8)? != relative {
                    return None;
                }
                visit(u64_at(entry, 0)?, u64_at(entry, 16)?)
            }))
        })?;
        if found.is_some() || image.backed(at) == 0 {
            return Ok(found);
        }
        at = piece.end;
    }
    Ok(None)
}

/// The word that the loader sets to `value`, as long as its place in the file is 0.
pub(crate) fn words_set_to(image: &Image, value: u64) -> Result<Vec<u64>, BinaryError> {
    const MAX_FOUND: usize = 16;
    let mut found = Vec::new();
    scan(image, |address, addend| {
        if addend == value {
            found.push(address);
        }
        (found.len() >= MAX_FOUND).then_some(())
    })?;
    Ok(found)
}

/// Fills `buf` with the image at `address` as it is after loading at bias 0: words that are 0 in the file and have a
/// RELATIVE entry get its value.
pub(crate) fn read_relocated(image: &Image, address: u64, buf: &mut [u8]) -> Result<(), BinaryError> {
    image.read(address, buf)?;
    let has_zero_word = buf.as_chunks::<8>().0.contains(&[0; 8]);
    if !image.position_independent || !has_zero_word {
        return Ok(());
    }
    scan(image, |target, value| {
        let at = usize::try_from(target.checked_sub(address)?).ok()?;
        let word = buf.get_mut(at..at.checked_add(8)?)?;
        if word.iter().all(|&byte| byte == 0) {
            word.copy_from_slice(&value.to_le_bytes());
        }
        None::<()>
    })?;
    Ok(())
}
