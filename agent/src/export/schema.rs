//! The parts that all JSON documents have in common.

use std::time::SystemTime;

/// The schema's version, in every object.
pub const SCHEMA: u32 = 1;

/// A time in UTC with milliseconds.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}
