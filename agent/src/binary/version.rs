//! The Go version of a binary without build info.
//!
//! `runtime.schedinit` sets `runtime.buildVersion` to "unknown" where it is empty, so the address of that string
//! header is among the addresses its code uses. Refuses a binary where no such word leads to a version string.

use super::{Binary, BinaryError, GoVersion, bytes::u64_at, code::data_references};
use crate::address::VirtAddr;

const MAX_VERSION_BYTES: u64 = 128;

pub(crate) fn of(binary: &Binary) -> Result<GoVersion, BinaryError> {
    for function in binary.functions_named("runtime.schedinit")? {
        for reference in data_references(binary, &function)? {
            if let Some(version) = version_at(binary, reference)? {
                return Ok(version);
            }
        }
    }
    Err(BinaryError::Unsupported { what: "no build info and no Go version" })
}

/// The version in the string whose header is at `address`, if there is one.
fn version_at(binary: &Binary, address: VirtAddr) -> Result<Option<GoVersion>, BinaryError> {
    let mut header = [0; 16];
    if binary.image().backed(address.0) < 16 {
        return Ok(None);
    }
    binary.read_relocated(address, &mut header)?;
    let Some((text, length)) = u64_at(&header, 0).zip(u64_at(&header, 8)) else { return Ok(None) };
    if length > MAX_VERSION_BYTES || binary.image().backed(text) < length {
        return Ok(None);
    }
    let text = binary.image().read_up_to(text, length as usize)?;
    let starts_right = text.starts_with(b"go1.") || text.starts_with(b"devel ");
    Ok(std::str::from_utf8(&text).ok().filter(|_| starts_right).and_then(GoVersion::parse))
}
