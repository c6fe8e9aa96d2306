//! Saved dumps and profiles of goroutines, of ours or of Go's own, read back.
//!
//! | file | form |
//! |---|---|
//! | `traceback` | `debug=2`, SIGQUIT, `parkranger dump`: one goroutine after the other |
//! | `counted` | `debug=1`, `parkranger dump --format summary`: equal stacks counted |
//! | `proto` | `/debug/pprof/goroutine`, `parkranger dump --format pprof` |
//! | `json` | `parkranger dump --format json` |
//!
//! Hostile input: whatever a file says, reading it takes memory in proportion to its size, and no more than [`MAX_BYTES`].

#![warn(clippy::indexing_slicing)]

mod counted;
mod json;
pub(crate) mod profile;
mod proto;
mod traceback;

use std::io::Read as _;

use crate::{
    history::population::{Kinds, Population},
    symbols::Frame,
};

/// A file is no larger, nor what it inflates to.
pub const MAX_BYTES: u64 = 1 << 30;

/// Limit of the inflated size of a profile, in bytes.
const MAX_PROFILE_BYTES: usize = 64 << 20;
/// Limit of the memory of all different stacks.
const MAX_KINDS_BYTES: usize = 1 << 30;

/// Why a file is no dump.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SavedError {
    /// It begins like none of the known forms.
    #[error("neither a dump (debug=2), nor a goroutine profile (debug=1, proto), nor JSON of parkranger dump")]
    UnknownForm,
    /// It is one, and damaged.
    #[error("damaged {form}: {why}")]
    Damaged {
        /// The form it has.
        form: &'static str,
        /// The fault.
        why: String,
    },
    /// It is larger than [`MAX_BYTES`].
    #[error("larger than {} MiB", MAX_BYTES >> 20)]
    TooLarge,
}

/// The goroutines of a saved dump.
#[derive(Debug)]
pub struct Saved {
    /// The goroutines.
    pub population: Population,
    /// True where each has its number: then those of two dumps of one process can be told apart.
    pub numbered: bool,
    /// True where it says which `go` statement each comes from.
    pub has_creators: bool,
}

/// Reads a dump in any of the forms.
///
/// # Errors
///
/// [`SavedError`].
pub fn read(bytes: &[u8]) -> Result<Saved, SavedError> {
    const GZIP: &[u8] = &[0x1f, 0x8b];
    if bytes.starts_with(GZIP) {
        let mut inflated = Vec::new();
        let read = flate2::read::GzDecoder::new(bytes).take(MAX_BYTES + 1).read_to_end(&mut inflated);
        read.map_err(|error| SavedError::Damaged { form: "gzip", why: error.to_string() })?;
        if inflated.len() as u64 > MAX_BYTES {
            return Err(SavedError::TooLarge);
        }
        return if inflated.starts_with(GZIP) { Err(SavedError::UnknownForm) } else { read_plain(&inflated) };
    }
    read_plain(bytes)
}

fn read_plain(bytes: &[u8]) -> Result<Saved, SavedError> {
    if bytes.len() as u64 > MAX_BYTES {
        return Err(SavedError::TooLarge);
    }
    let begin = bytes.get(..bytes.len().min(4096)).unwrap_or_default();
    let begin = String::from_utf8_lossy(begin);
    let text = begin.trim_start();
    if text.starts_with("goroutine profile: total ") {
        return Ok(counted::read(&String::from_utf8_lossy(bytes)));
    }
    if text.starts_with('{') {
        return json::read(bytes);
    }
    if text.starts_with("goroutine ") || text.contains("\ngoroutine ") {
        return Ok(traceback::read(&String::from_utf8_lossy(bytes)));
    }
    if bytes.len() > MAX_PROFILE_BYTES {
        return Err(SavedError::UnknownForm);
    }
    proto::read(bytes)
}

/// Refuses a dump whose different stacks take more than there is room for: few bytes can name long stacks again and again.
fn has_room(kinds: &Kinds) -> Result<(), SavedError> {
    if kinds.bytes() > MAX_KINDS_BYTES { Err(SavedError::TooLarge) } else { Ok(()) }
}

/// `\t/src/file.go:12 +0x1d` ▶ file and line.
fn file_and_line(text: &str) -> (String, u32) {
    let text = text.trim();
    let text = text.rsplit_once(" +0x").map_or(text, |(text, _)| text);
    match text.rsplit_once(':') {
        Some((file, line)) => match line.parse() {
            Ok(line) => (file.to_owned(), line),
            Err(_) => (text.to_owned(), 0),
        },
        None => (text.to_owned(), 0),
    }
}

fn frame(function: &str, file: String, line: u32) -> Frame {
    Frame::named(function.to_owned(), file, line, false)
}

#[cfg(test)]
mod tests;
