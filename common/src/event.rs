//! Records of the ring buffer: the story beside the counters.
//!
//! Every record is one [`Record`]. They are few (the first sight of a process or site, exec, exit), so one size serves
//! all kinds.

use crate::counts::{ProcessId, SiteKey};

/// Most return addresses kept of a creation stack.
pub const MAX_STACK: usize = 24;

/// What a record tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// A process of a watched binary was counted for the first time; `site` has the process, and for `gopc` the address of
    /// the probed instruction.
    ProcessSeen = 1,
    /// A watched process called execve: its id ends here.
    ProcessExec = 2,
    /// The first thread of a watched process exited.
    ProcessExit = 3,
    /// A goroutine was born at a site for the first time; `stack` is who called it.
    SiteSeen = 4,
    /// A process that is not watched called execve: its new program may be one to watch. `site` has only the process.
    ProgramBegun = 5,
}

/// One record.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Record {
    /// [`Kind`].
    pub kind: u32,
    /// Entries of `stack` in use.
    pub depth: u32,
    /// The process and, for a site, the rest of its key.
    pub site: SiteKey,
    /// CLOCK_MONOTONIC.
    pub time_ns: u64,
    /// For a process: the word of its binary.
    pub word: u64,
    /// Return addresses, innermost first, in the process's address space.
    pub stack: [u64; MAX_STACK],
}

impl Record {
    /// Reads a record out of the ring buffer's bytes. `None` where they are not one.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        const WORDS: usize = size_of::<Record>() / 8;
        if bytes.len() < size_of::<Self>() {
            return None;
        }
        let mut words = [0u64; WORDS];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_ne_bytes(chunk.try_into().ok()?);
        }
        let head = words[0].to_ne_bytes();
        let kind = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]);
        let depth = u32::from_ne_bytes([head[4], head[5], head[6], head[7]]);
        let mut stack = [0; MAX_STACK];
        stack.copy_from_slice(&words[6..6 + MAX_STACK]);
        Some(Self {
            kind,
            depth: depth.min(MAX_STACK as u32),
            site: SiteKey { process: ProcessId(words[1]), gopc: words[2], startpc: words[3] },
            time_ns: words[4],
            word: words[5],
            stack,
        })
    }
}
