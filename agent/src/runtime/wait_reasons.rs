//! Names of the numbers in `g.waitreason`, read out of the binary itself.
//!
//! The numbers were re-sorted in Go 1.26 and changed within 1.23, so no table of ours could be right. The array behind
//! `runtime.waitReason.String` is (`runtime/runtime2.go`): its address is an operand of that function, its length the
//! constant it compares with. Refuses an array whose first entry is not "" or that lacks "select" and "chan receive".

use crate::{
    address::VirtAddr,
    binary::{
        Binary, BinaryError,
        bytes::u64_at,
        code::{compared_constants, data_references},
    },
};

const FUNCTION: &str = "runtime.waitReason.String";
/// One Go string: pointer, length.
const HEADER_BYTES: usize = 16;
const MAX_NAME_BYTES: u64 = 64;
/// `waitReason` is a uint8.
const MAX_REASONS: u64 = 256;

/// The names of one binary's wait reasons, by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitReasons {
    names: Vec<String>,
}

/// Why the wait reasons could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WaitReasonError {
    /// `runtime.waitReason.String` is not in the function table (its names were hidden).
    #[error("no {FUNCTION} in the function table")]
    NoFunction,
    /// None of the addresses it uses leads to an array of wait reasons.
    #[error("no array of wait reasons behind {FUNCTION} at {at}")]
    NoArray {
        /// The function's entry.
        at: VirtAddr,
    },
    /// The binary could not be read.
    #[error(transparent)]
    Binary(#[from] BinaryError),
}

impl WaitReasons {
    /// Reads the names out of a binary.
    ///
    /// # Errors
    ///
    /// See [`WaitReasonError`].
    pub fn of(binary: &Binary) -> Result<Self, WaitReasonError> {
        let mut error = WaitReasonError::NoFunction;
        for function in binary.functions_named(FUNCTION)? {
            let mut lengths: Vec<u64> = compared_constants(binary, &function)?;
            // `cmp al, 46; ja` and `cmp al, 47; jae` both occur.
            lengths.retain(|&length| length > 1 && length < MAX_REASONS);
            let length = lengths.into_iter().max().map_or(MAX_REASONS, |length| length + 1);
            for array in data_references(binary, &function)? {
                if let Some(reasons) = Self::at(binary, array, length)? {
                    return Ok(reasons);
                }
            }
            error = WaitReasonError::NoArray { at: function.entry };
        }
        Err(error)
    }

    /// All names, by number; "" where a number means nothing.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// The name of a wait reason: "chan receive", "select", … "" for 0. `None` for a number the binary does not know.
    #[must_use]
    pub fn name(&self, reason: u8) -> Option<&str> {
        self.names.get(usize::from(reason)).map(String::as_str)
    }

    /// The number of wait reasons the binary knows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Never: an empty table is refused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The string headers from `address` on, while they are valid: the array ends there at the latest.
    fn at(binary: &Binary, address: VirtAddr, length: u64) -> Result<Option<Self>, BinaryError> {
        let room = binary.image().backed(address.0) / HEADER_BYTES as u64;
        let mut raw = vec![0; length.min(room) as usize * HEADER_BYTES];
        if raw.is_empty() || !address.0.is_multiple_of(8) {
            return Ok(None);
        }
        binary.read_relocated(address, &mut raw)?;
        let mut names = Vec::new();
        for header in raw.as_chunks::<HEADER_BYTES>().0 {
            let (text, bytes) = (u64_at(header, 0).unwrap_or_default(), u64_at(header, 8).unwrap_or_default());
            let valid = if names.is_empty() { bytes == 0 } else { bytes > 0 && bytes <= MAX_NAME_BYTES };
            if !valid || binary.image().backed(text) < bytes {
                break;
            }
            let text = binary.image().read_up_to(text, bytes as usize)?;
            match String::from_utf8(text) {
                Ok(text) if text.chars().all(|c| !c.is_control()) => names.push(text),
                _ => break,
            }
        }
        let complete = ["select", "chan receive"].iter().all(|&known| names.iter().any(|name| name == known));
        Ok(complete.then_some(Self { names }))
    }
}
