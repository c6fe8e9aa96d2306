//! What the Go linker wrote about the build: Go version, module, settings.
//!
//! Source: `debug/buildinfo/buildinfo.go`. Refuses blobs of Go before 1.18 (pointers instead of inline strings) and
//! any string over its limit; a refused blob counts as none, since a binary works without it.

use super::{
    BinaryError,
    bytes::{u8_at, u64_at, varint},
    elf::Image,
};
use crate::printable;

const MAGIC: &[u8; 14] = b"\xff Go buildinf:";
const ALIGN: usize = 16;
const HEADER_BYTES: usize = 32;
const FLAG_INLINE_STRINGS: u8 = 2;
const MAX_VERSION_BYTES: u64 = 256;
const MAX_MODULE_INFO_BYTES: u64 = 1 << 20;
const MAX_SETTINGS: usize = 128;
const MAX_FIELD_BYTES: usize = 4096;
/// The module text stands between two markers of this size.
const SENTINEL_BYTES: usize = 16;

/// A Go version: `go1.27.3`, `go1.22.10 X:staticlockranking`, `go1.27.3-X:runtimesecret`, `devel go1.28-3f2a1b…`.
///
/// Ordered by major and minor only: what differs between runtimes differs there.
#[derive(Clone, Debug, Default)]
pub struct GoVersion {
    /// 1, so far.
    pub major: u32,
    /// 27 of `go1.27.3`.
    pub minor: u32,
    /// 3 of `go1.27.3`; `None` for `go1.20`, release candidates and development versions.
    pub patch: Option<u32>,
    /// The string as it stands in the binary.
    pub raw: String,
}

impl GoVersion {
    /// Finds `go<major>.<minor>[.<patch>]` in a version string. `None` where it is not there (`devel +3f2a1b`).
    #[must_use]
    pub fn parse(raw: &str) -> Option<Self> {
        let start = raw.split([' ', '-', '+']).find_map(|word| word.strip_prefix("go"))?;
        let mut numbers = start.split('.');
        // "27rc1" is 27.
        let number = |text: &str| {
            let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            text.get(..digits)?.parse::<u32>().ok().map(|number| (number, digits == text.len()))
        };
        let (major, whole_major) = number(numbers.next()?)?;
        let (minor, whole) = number(numbers.next()?)?;
        let patch = numbers.next().filter(|_| whole).and_then(number).map(|(patch, _)| patch);
        whole_major.then(|| Self { major, minor, patch, raw: raw.to_owned() })
    }
}

impl PartialEq for GoVersion {
    fn eq(&self, other: &Self) -> bool {
        (self.major, self.minor) == (other.major, other.minor)
    }
}

impl Eq for GoVersion {}

impl PartialOrd for GoVersion {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for GoVersion {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.major, self.minor).cmp(&(other.major, other.minor))
    }
}

impl std::fmt::Display for GoVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.raw)
    }
}

/// What is known about how a binary was built. Empty strings where the build said nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuildInfo {
    /// Go version string, as it stands there.
    pub go_version: String,
    /// Import path of the main package.
    pub path: String,
    /// Path of the main module.
    pub module: String,
    /// Version of the main module.
    pub version: String,
    /// Build settings in their order: `GOARCH`, `-ldflags`, `CGO_ENABLED`, `vcs.revision`, …
    pub settings: Vec<(String, String)>,
}

impl BuildInfo {
    /// The value of one build setting.
    #[must_use]
    pub fn setting(&self, key: &str) -> Option<&str> {
        self.settings.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// Reads the blob. `Ok(None)` where there is none that can be read.
    pub(crate) fn read(image: &Image) -> Result<Option<Self>, BinaryError> {
        let Some(address) = locate(image)? else { return Ok(None) };
        let header = image.read_up_to(address, HEADER_BYTES)?;
        if u8_at(&header, 15).is_none_or(|flags| flags & FLAG_INLINE_STRINGS == 0) {
            return Ok(None);
        }
        let strings = address + HEADER_BYTES as u64;
        let Some((version, next)) = string(image, strings, MAX_VERSION_BYTES)? else { return Ok(None) };
        let modules = string(image, next, MAX_MODULE_INFO_BYTES)?.map(|(modules, _)| modules).unwrap_or_default();
        let mut info = Self::parse(&modules);
        info.go_version = printable::name(&String::from_utf8_lossy(&version)).into_owned();
        Ok(Some(info))
    }

    /// Reads the module text: lines of tab-separated words. Dependencies are skipped.
    fn parse(modules: &[u8]) -> Self {
        let mut info = Self::default();
        let text = modules.get(SENTINEL_BYTES..modules.len().saturating_sub(SENTINEL_BYTES)).unwrap_or_default();
        let text = String::from_utf8_lossy(text);
        let field = |text: &str| printable::name(&text.chars().take(MAX_FIELD_BYTES).collect::<String>()).into_owned();
        for line in text.lines() {
            let mut words = line.split('\t');
            match (words.next(), words.next()) {
                (Some("path"), Some(path)) => info.path = field(path),
                (Some("mod"), Some(module)) => {
                    info.module = field(module);
                    info.version = field(words.next().unwrap_or_default());
                }
                (Some("build"), Some(setting)) if info.settings.len() < MAX_SETTINGS => {
                    let (key, value) = split_setting(setting);
                    info.settings.push((field(&key), field(&value)));
                }
                _ => {}
            }
        }
        info
    }
}

/// `key=value`, either of which may be a quoted Go string.
fn split_setting(setting: &str) -> (String, String) {
    let unquote = |text: &str| match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        Some(inner) => inner.replace("\\\"", "\"").replace("\\\\", "\\"),
        None => text.to_owned(),
    };
    let (key, value) = match setting.strip_prefix('"').and_then(|rest| rest.split_once("\"=")) {
        Some((key, value)) => (key, value),
        None => setting.split_once('=').unwrap_or((setting, "")),
    };
    (key.to_owned(), unquote(value))
}

/// The address of the blob: by section, else at the alignment the linker gives it in the data.
fn locate(image: &Image) -> Result<Option<u64>, BinaryError> {
    if let Some(section) = image.section(".go.buildinfo") {
        let start = image.read_up_to(section.address, MAGIC.len())?;
        return Ok((start == MAGIC).then_some(section.address));
    }
    let writable = image.segments.iter().filter(|segment| segment.writable);
    let rest = image.segments.iter().filter(|segment| !segment.writable && !segment.executable);
    for segment in writable.chain(rest) {
        // Segments start page-aligned up to the offset they share with the file.
        let Some(start) = segment.address.checked_next_multiple_of(ALIGN as u64) else { continue };
        let found = image.scan(start..segment.end(), 0, |address, bytes| {
            let at = bytes.chunks(ALIGN).position(|chunk| chunk.starts_with(MAGIC));
            Ok(at.map(|at| address + (at * ALIGN) as u64))
        })?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// A string behind its varint length, and the address behind it.
fn string(image: &Image, address: u64, limit: u64) -> Result<Option<(Vec<u8>, u64)>, BinaryError> {
    let raw = image.read_up_to(address, 10)?;
    let mut at = 0;
    let Some(length) = varint(&raw, &mut at).filter(|&length| length <= limit) else { return Ok(None) };
    let start = address + at as u64;
    let text = image.read_up_to(start, length as usize)?;
    Ok((text.len() as u64 == length).then(|| (text, start + length)))
}

/// One note of the file: the first with that owner and type, at most 4 KiB of it.
pub(crate) fn note(image: &Image, owner: &[u8], kind: u32) -> Option<Vec<u8>> {
    const MAX_NOTES_BYTES: u64 = 64 << 10;
    const MAX_NOTE_BYTES: usize = 4096;
    for (offset, bytes) in image.note_ranges() {
        let Ok(raw) = image.file(offset, bytes.min(MAX_NOTES_BYTES), "notes") else { continue };
        let mut at = 0usize;
        while let Some(sizes) = u64_at(&raw, at) {
            let (owner_bytes, value_bytes) = (sizes as u32 as usize, (sizes >> 32) as usize);
            let owner_at = at + 12;
            let value_at = owner_at.saturating_add(owner_bytes.next_multiple_of(4));
            let value_end = value_at.saturating_add(value_bytes);
            let same_kind = super::bytes::u32_at(&raw, at + 8) == Some(kind);
            let same_owner = raw.get(owner_at..owner_at.saturating_add(owner_bytes)) == Some(owner);
            if same_kind && same_owner && value_bytes <= MAX_NOTE_BYTES {
                return raw.get(value_at..value_end).map(<[u8]>::to_vec);
            }
            at = value_end.checked_next_multiple_of(4).unwrap_or(usize::MAX);
        }
    }
    None
}
