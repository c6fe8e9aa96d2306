//! Records of the two ring buffers.
//!
//! Every record is a [`Header`] and a body. The header's tag names the body's type and its version the layout of all
//! bodies, so a reader never tells records apart by their length, and refuses those of another build.
//!
//! | ring buffer | parsed as | written |
//! |---|---|---|
//! | [`crate::names::PROCESS_RECORDS`] | [`ProcessRecord`] | once per process and execve |
//! | [`crate::names::STREAM_RECORDS`] | [`StreamRecord`] | once per site, and once per birth and exit of an audited process |
//!
//! The streams have a ring buffer of their own: however many events there are, no process is missed for them.

use core::fmt;

use crate::counts::{ProcessId, SiteKey};

/// Version of all layouts in this module. To be changed with any of them.
pub const VERSION: u32 = 2;

/// Most return addresses kept of a creation stack.
pub const MAX_STACK: usize = 24;

macro_rules! tags {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// Names the body of a record. Numbers are unique over both ring buffers.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Tag { $($(#[$doc])* $name = $number,)* }

        impl Tag {
            /// All tags, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The tag with this number; `None` where no tag has it.
            #[must_use]
            pub const fn from_number(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }
        }
    };
}

tags! {
    /// Body [`ProcessSeen`], in the process ring.
    ProcessSeen = 1,
    /// Body [`ProcessExec`], in the process ring.
    ProcessExec = 2,
    /// Body [`ProgramBegun`], in the process ring.
    ProgramBegun = 3,
    /// Body [`SiteSeen`], in the stream ring.
    SiteSeen = 16,
    /// Body [`Birth`], in the stream ring: inside of the audit's window.
    Birth = 17,
    /// Body [`Birth`], in the stream ring: after the audit's window.
    BirthAfter = 18,
    /// Body [`Exit`], in the stream ring: inside of the audit's window.
    Exit = 19,
}

/// The first eight bytes of every record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    /// [`VERSION`].
    pub version: u32,
    /// Number of a [`Tag`].
    pub tag: u32,
}

impl Header {
    /// The header of a record with this tag.
    #[inline(always)]
    #[must_use]
    pub const fn new(tag: Tag) -> Self {
        Self { version: VERSION, tag: tag as u32 }
    }
}

/// A record as it stands in a ring buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Tagged<B> {
    /// Says which body follows.
    pub header: Header,
    /// One of this module's bodies: `#[repr(C)]`, of u64s alone.
    pub body: B,
}

/// The first event of a process of a watched binary that the agent had not listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ProcessSeen {
    /// The process, listed by the kernel side under this id.
    pub process: ProcessId,
    /// [`crate::probe::ProbeWord`] of the probe that was hit.
    pub word: u64,
    /// Address of the probed instruction, a runtime address.
    pub instruction: u64,
    /// Time of the event, CLOCK_MONOTONIC.
    pub time_ns: u64,
}

/// A listed process called execve: its id ends here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ProcessExec {
    /// The process, no longer listed.
    pub process: ProcessId,
}

/// A process that is not listed called execve: its new program may be one to watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ProgramBegun {
    /// The tgid in the initial pid namespace.
    pub tgid: u64,
}

/// A goroutine was born at a site whose creation stack the agent does not have yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct SiteSeen {
    /// The site.
    pub site: SiteKey,
    /// Entries of `stack` in use.
    pub depth: u64,
    /// Return addresses of the creator's frames, innermost first, runtime addresses. None where the creator has no
    /// stack of its own (g0, for `time.AfterFunc`).
    pub stack: [u64; MAX_STACK],
}

/// A goroutine of an audited process is being made.
///
/// It has no goid yet. It gets the next one that its processor (`p`) has in stock, or, where the stock is used up, the
/// first of the next sixteen, which the processor's next birth tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Birth {
    /// The site.
    pub site: SiteKey,
    /// Time of the event, CLOCK_MONOTONIC.
    pub time_ns: u64,
    /// Address of the `p`, a runtime address; 0 where it or its stock could not be read.
    pub p: u64,
    /// `p.goidcache`: the next goid.
    pub goidcache: u64,
    /// `p.goidcacheend`: the stock is used up where it equals `goidcache`.
    pub goidcacheend: u64,
}

/// A goroutine of an audited process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Exit {
    /// The site.
    pub site: SiteKey,
    /// Time of the event, CLOCK_MONOTONIC.
    pub time_ns: u64,
    /// `g.goid`; 0 where it could not be read (the runtime counts from 1).
    pub goid: u64,
}

/// A record of [`crate::names::PROCESS_RECORDS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessRecord {
    /// See [`ProcessSeen`].
    Seen(ProcessSeen),
    /// See [`ProcessExec`].
    Exec(ProcessExec),
    /// See [`ProgramBegun`].
    ProgramBegun(ProgramBegun),
}

/// A birth or exit of an audited process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// A birth in the audit's window.
    Birth(Birth),
    /// A birth after it: not of the window, but it tells the goid of the window's last birth on its processor.
    BirthAfter(Birth),
    /// An exit in the window.
    Exit(Exit),
}

impl Life {
    /// The site of the goroutine.
    #[must_use]
    pub const fn site(&self) -> SiteKey {
        match self {
            Self::Birth(birth) | Self::BirthAfter(birth) => birth.site,
            Self::Exit(exit) => exit.site,
        }
    }
}

/// A record of [`crate::names::STREAM_RECORDS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamRecord {
    /// See [`SiteSeen`].
    SiteSeen(SiteSeen),
    /// See [`Life`].
    Life(Life),
}

/// The reason that bytes of a ring buffer are no record of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// Fewer bytes than a header has.
    NoHeader {
        /// Bytes there are.
        len: usize,
    },
    /// Written by eBPF programs of another build.
    Version(u32),
    /// A tag that does not exist, or that belongs to the other ring buffer.
    Tag(u32),
    /// The body is not as long as its tag says.
    Length {
        /// The tag.
        tag: Tag,
        /// Bytes of the body.
        len: usize,
    },
    /// More stack entries in use than there are.
    Depth(u64),
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHeader { len } => write!(f, "a record of {len} bytes has no header"),
            Self::Version(version) => write!(f, "a record has layout version {version} instead of {VERSION}"),
            Self::Tag(number) => write!(f, "a record has the tag {number}, which this ring buffer does not have"),
            Self::Length { tag, len } => write!(f, "the body of a {tag:?} record has {len} bytes"),
            Self::Depth(depth) => write!(f, "a record has {depth} of {MAX_STACK} stack entries in use"),
        }
    }
}

impl core::error::Error for RecordError {}

impl ProcessRecord {
    /// Reads a record out of the ring buffer's bytes.
    ///
    /// # Errors
    ///
    /// Every [`RecordError`] but [`RecordError::Depth`].
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let (tag, body) = split(bytes)?;
        match tag {
            Tag::ProcessSeen => {
                let [process, word, instruction, time_ns] = words(tag, body)?;
                Ok(Self::Seen(ProcessSeen { process: ProcessId(process), word, instruction, time_ns }))
            }
            Tag::ProcessExec => {
                let [process] = words(tag, body)?;
                Ok(Self::Exec(ProcessExec { process: ProcessId(process) }))
            }
            Tag::ProgramBegun => {
                let [tgid] = words(tag, body)?;
                Ok(Self::ProgramBegun(ProgramBegun { tgid }))
            }
            Tag::SiteSeen | Tag::Birth | Tag::BirthAfter | Tag::Exit => Err(RecordError::Tag(tag as u32)),
        }
    }
}

impl StreamRecord {
    /// Reads a record out of the ring buffer's bytes.
    ///
    /// # Errors
    ///
    /// Every [`RecordError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let (tag, body) = split(bytes)?;
        match tag {
            Tag::SiteSeen => {
                const WORDS: usize = 4 + MAX_STACK;
                let all: [u64; WORDS] = words(tag, body)?;
                let [process, gopc, startpc, depth] = [all[0], all[1], all[2], all[3]];
                if depth > MAX_STACK as u64 {
                    return Err(RecordError::Depth(depth));
                }
                let mut stack = [0; MAX_STACK];
                stack.copy_from_slice(&all[4..]);
                Ok(Self::SiteSeen(SiteSeen { site: site(process, gopc, startpc), depth, stack }))
            }
            Tag::Birth => Ok(Self::Life(Life::Birth(birth(words(tag, body)?)))),
            Tag::BirthAfter => Ok(Self::Life(Life::BirthAfter(birth(words(tag, body)?)))),
            Tag::Exit => {
                let [process, gopc, startpc, time_ns, goid] = words(tag, body)?;
                Ok(Self::Life(Life::Exit(Exit { site: site(process, gopc, startpc), time_ns, goid })))
            }
            Tag::ProcessSeen | Tag::ProcessExec | Tag::ProgramBegun => Err(RecordError::Tag(tag as u32)),
        }
    }
}

/// The tag and the body of a record of this version.
fn split(bytes: &[u8]) -> Result<(Tag, &[u8]), RecordError> {
    let (header, body) = bytes.split_first_chunk::<8>().ok_or(RecordError::NoHeader { len: bytes.len() })?;
    let [a, b, c, d, e, f, g, h] = *header;
    let (version, tag) = (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]));
    if version != VERSION {
        return Err(RecordError::Version(version));
    }
    Tag::from_number(tag).map(|tag| (tag, body)).ok_or(RecordError::Tag(tag))
}

/// A body of exactly `N` words.
fn words<const N: usize>(tag: Tag, body: &[u8]) -> Result<[u64; N], RecordError> {
    let (words, rest) = body.as_chunks::<8>();
    if words.len() != N || !rest.is_empty() {
        return Err(RecordError::Length { tag, len: body.len() });
    }
    let mut values = [0; N];
    for (value, word) in values.iter_mut().zip(words) {
        *value = u64::from_ne_bytes(*word);
    }
    Ok(values)
}

const fn site(process: u64, gopc: u64, startpc: u64) -> SiteKey {
    SiteKey { process: ProcessId(process), gopc, startpc }
}

const fn birth(words: [u64; 7]) -> Birth {
    let [process, gopc, startpc, time_ns, p, goidcache, goidcacheend] = words;
    Birth { site: site(process, gopc, startpc), time_ns, p, goidcache, goidcacheend }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;

    /// A record as the kernel side writes it, with the numbers from 1 on in its body.
    fn written(tag: Tag, words: usize) -> Vec<u8> {
        let Header { version, tag } = Header::new(tag);
        let mut bytes: Vec<u8> = [version, tag].iter().flat_map(|part| part.to_ne_bytes()).collect();
        bytes.extend((1..=words as u64).flat_map(u64::to_ne_bytes));
        bytes
    }

    /// Words of the body of each tag, by the size of the type that the kernel side writes.
    fn words_of(tag: Tag) -> usize {
        let bytes = match tag {
            Tag::ProcessSeen => size_of::<ProcessSeen>(),
            Tag::ProcessExec => size_of::<ProcessExec>(),
            Tag::ProgramBegun => size_of::<ProgramBegun>(),
            Tag::SiteSeen => size_of::<SiteSeen>(),
            Tag::Birth | Tag::BirthAfter => size_of::<Birth>(),
            Tag::Exit => size_of::<Exit>(),
        };
        bytes / 8
    }

    #[test]
    fn fields_are_read_in_the_order_in_which_they_are_written() {
        let site = SiteKey { process: ProcessId(1), gopc: 2, startpc: 3 };
        let seen = ProcessSeen { process: ProcessId(1), word: 2, instruction: 3, time_ns: 4 };
        assert_eq!(ProcessRecord::parse(&written(Tag::ProcessSeen, 4)), Ok(ProcessRecord::Seen(seen)));
        let exec = ProcessRecord::Exec(ProcessExec { process: ProcessId(1) });
        assert_eq!(ProcessRecord::parse(&written(Tag::ProcessExec, 1)), Ok(exec));
        let begun = ProcessRecord::ProgramBegun(ProgramBegun { tgid: 1 });
        assert_eq!(ProcessRecord::parse(&written(Tag::ProgramBegun, 1)), Ok(begun));
        let birth = Birth { site, time_ns: 4, p: 5, goidcache: 6, goidcacheend: 7 };
        let parsed = StreamRecord::parse(&written(Tag::Birth, 7));
        assert_eq!(parsed, Ok(StreamRecord::Life(Life::Birth(birth))));
        let parsed = StreamRecord::parse(&written(Tag::BirthAfter, 7));
        assert_eq!(parsed, Ok(StreamRecord::Life(Life::BirthAfter(birth))));
        let exit = Exit { site, time_ns: 4, goid: 5 };
        assert_eq!(StreamRecord::parse(&written(Tag::Exit, 5)), Ok(StreamRecord::Life(Life::Exit(exit))));
        let stack = core::array::from_fn(|index| index as u64 + 5);
        let seen = SiteSeen { site, depth: 4, stack };
        assert_eq!(StreamRecord::parse(&written(Tag::SiteSeen, 4 + MAX_STACK)), Ok(StreamRecord::SiteSeen(seen)));
    }

    #[test]
    fn every_tag_belongs_to_one_ring_and_has_one_length() {
        for tag in Tag::ALL.iter().copied() {
            assert_eq!(Tag::from_number(tag as u32), Some(tag));
            for words in 0..40 {
                let record = written(tag, words);
                let parsed = [ProcessRecord::parse(&record).err(), StreamRecord::parse(&record).err()];
                let other_ring = Some(RecordError::Tag(tag as u32));
                assert!(parsed.contains(&other_ring), "{tag:?} is a record of both rings");
                let own = if parsed[0] == other_ring { parsed[1] } else { parsed[0] };
                let expected = (words != words_of(tag)).then_some(RecordError::Length { tag, len: words * 8 });
                assert_eq!(own, expected, "{tag:?} with {words} words");
            }
        }
    }

    #[test]
    fn records_of_other_builds_are_refused() {
        assert_eq!(ProcessRecord::parse(&[0; 7]), Err(RecordError::NoHeader { len: 7 }));
        let mut record = written(Tag::ProcessExec, 1);
        record[..4].copy_from_slice(&(VERSION - 1).to_ne_bytes());
        assert_eq!(ProcessRecord::parse(&record), Err(RecordError::Version(VERSION - 1)));
        record[..8].copy_from_slice(&[VERSION.to_ne_bytes(), 99u32.to_ne_bytes()].concat());
        assert_eq!(ProcessRecord::parse(&record), Err(RecordError::Tag(99)));
        let mut deep = written(Tag::SiteSeen, 4 + MAX_STACK);
        deep[8 + 24..8 + 32].copy_from_slice(&25u64.to_ne_bytes());
        assert_eq!(StreamRecord::parse(&deep), Err(RecordError::Depth(25)));
    }
}
