//! Little-endian words out of byte slices.
//!
//! Refuses nothing loudly: a word that is not wholly inside the slice is `None`, and the caller says which fact of
//! the binary is thereby malformed.

/// The bytes `at..at + N`.
fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

pub(crate) fn u8_at(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_le_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

pub(crate) fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    array(bytes, at).map(i32::from_le_bytes)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_le_bytes)
}

/// An unsigned LEB128 / Go varint at `*at`, moving `*at` behind it. `None` at the end of the slice or past 64 bits.
pub(crate) fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = u8_at(bytes, *at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Where `needle` first stands in `haystack`.
pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let (&first, _) = needle.split_first()?;
    let mut from = 0;
    loop {
        let rest = haystack.get(from..)?;
        let step = rest.iter().position(|&byte| byte == first)?;
        if rest.get(step..)?.starts_with(needle) {
            return Some(from + step);
        }
        from += step + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_end_with_the_slice() {
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(u64_at(&bytes, 0), Some(0x0807_0605_0403_0201));
        assert_eq!(u64_at(&bytes, 1), None);
        assert_eq!(u32_at(&bytes, 4), Some(0x0807_0605));
        assert_eq!(u16_at(&bytes, 7), None);
        assert_eq!(u8_at(&bytes, usize::MAX), None);
        assert_eq!(u32_at(&bytes, usize::MAX), None);
    }

    #[test]
    fn a_varint_without_end_is_refused() {
        assert_eq!(varint(&[0xac, 0x02], &mut 0), Some(300));
        assert_eq!(varint(&[0x80; 4], &mut 0), None);
        assert_eq!(varint(&[0xff; 32], &mut 0), None);
    }

    #[test]
    fn find_sees_overlapping_starts() {
        assert_eq!(find(b"aaab", b"aab"), Some(1));
        assert_eq!(find(b"aaa", b"ab"), None);
        assert_eq!(find(b"", b"a"), None);
    }
}
