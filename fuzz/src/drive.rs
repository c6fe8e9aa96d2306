//! One parser at a time over one input. A driver returns whatever the parser says of the bytes; it panics where an answer
//! breaks what the parser promises.

use std::{sync::Arc, time::Duration};

use parkranger::{
    address::VirtAddr,
    binary::{Binary, DebugProof, Source},
    plan::Plan,
    runtime::{Layout, WaitReasons},
    symbols::{SymbolSource, Symbolizer},
};
use parkranger_common::record::{MAX_STACK, ProcessRecord, RecordError, StreamRecord, VERSION};

use crate::{
    image::{Debug, RECIPES},
    input::Input,
};

/// Functions of one file are asked about at no more addresses than this.
const MAX_PLACES: usize = 96;
/// No chain of inlined calls is longer (`symbols` refuses at 256).
const MAX_FRAMES: usize = 257;
/// Processor time for one input and one parser, with the checks of a debug build or the fuzzer's instrumentation.
pub const LONGEST: Duration = Duration::from_secs(10);

/// What is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parser {
    /// `Binary::parse` and every question to the result.
    Binary,
    /// `Layout::of`: the DWARF of `struct g`.
    Layout,
    /// `WaitReasons::of`: code, and the array it leads to.
    WaitReasons,
    /// `Symbolizer` on gopclntab.
    Gopclntab,
    /// `Symbolizer` on DWARF.
    Dwarf,
    /// `Binary::add_debug_file`, and the layout and the symbols that are in such a file.
    DebugFile,
    /// `Plan::of`: the prologues.
    Plan,
    /// `saved::read`: dumps and profiles of goroutines, and their comparison.
    Saved,
    /// `ProcessRecord::parse` and `StreamRecord::parse`: the ring buffers.
    Record,
}

impl Parser {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Binary,
        Self::Layout,
        Self::WaitReasons,
        Self::Gopclntab,
        Self::Dwarf,
        Self::DebugFile,
        Self::Plan,
        Self::Saved,
        Self::Record,
    ];

    /// Its name on the command line and in `corpus/`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Binary => "binary",
            Self::Layout => "layout",
            Self::WaitReasons => "wait-reasons",
            Self::Gopclntab => "gopclntab",
            Self::Dwarf => "dwarf",
            Self::DebugFile => "debug-file",
            Self::Plan => "plan",
            Self::Saved => "saved",
            Self::Record => "record",
        }
    }

    /// Runs it, and says how much time of a processor that took: a machine may be busy with other things.
    pub fn time(self, input: &[u8]) -> Duration {
        let now = || Duration::try_from(rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime));
        let start = now().unwrap_or_default();
        self.run(input);
        now().unwrap_or_default().saturating_sub(start)
    }

    /// Runs it. Says whether the input got as far as an answer.
    #[allow(clippy::must_use_candidate, reason = "a fuzz target has no use for the answer")]
    pub fn run(self, input: &[u8]) -> bool {
        if self == Self::Record {
            return record(input);
        }
        if self == Self::Saved {
            return saved(input);
        }
        let input = Input::new(input);
        if self == Self::DebugFile {
            return debug_file(input);
        }
        let places = input.places.clone();
        let Ok(binary) = Binary::parse(Arc::new(input)) else { return false };
        let binary = Arc::new(binary);
        match self {
            Self::Binary => questions(&binary, &places),
            Self::Layout => Layout::of(&binary).is_ok_and(|layout| layout.gopc < layout.size),
            Self::WaitReasons => WaitReasons::of(&binary).is_ok_and(|reasons| reasons.name(0) == Some("")),
            Self::Gopclntab => symbols(&binary, SymbolSource::Gopclntab, &places),
            Self::Dwarf => {
                symbols(&binary, SymbolSource::Dwarf, &places) | symbols(&binary, SymbolSource::Auto, &places)
            }
            Self::Plan => plan(&binary),
            Self::DebugFile | Self::Record | Self::Saved => false,
        }
    }
}

fn questions(binary: &Binary, places: &[u64]) -> bool {
    for name in ["runtime.newproc", "runtime.gopark", "main.main.gowrap1", "internal/abi.NoEscape", ""] {
        if let Ok(functions) = binary.functions_named(name) {
            assert!(functions.iter().all(|function| function.name == name), "another name than asked for");
        }
    }
    let _ = binary.debug_link();
    let _ = binary.inlined_into("runtime.gopark");
    let _ = binary.inlined_into("main.inlinedOuter[...]");
    for &place in places.iter().take(MAX_PLACES) {
        if let Ok(Some(function)) = binary.function_at(VirtAddr(place)) {
            assert!((function.entry.0..function.end.0).contains(&place), "a function that does not hold the pc");
        }
        if let Some(offset) = binary.file_offset(VirtAddr(place)) {
            let mut byte = [0];
            assert!(binary.read(VirtAddr(place), &mut byte).is_ok(), "{offset} is in the file and cannot be read");
        }
    }
    !binary.go_version().raw.is_empty()
}

fn symbols(binary: &Arc<Binary>, source: SymbolSource, places: &[u64]) -> bool {
    let Ok(symbolizer) = Symbolizer::new(Arc::clone(binary), source) else { return false };
    let mut named = false;
    for &place in places.iter().take(MAX_PLACES) {
        if let Ok(frames) = symbolizer.frames(VirtAddr(place)) {
            assert!(frames.len() <= MAX_FRAMES, "{} frames at one pc", frames.len());
            assert!(frames.last().is_none_or(|last| !last.inlined), "the physical function is inlined");
            named |= !frames.is_empty();
        }
        let _ = symbolizer.entry(VirtAddr(place));
    }
    named
}

/// The input as the debug file of binaries that have no debug information.
fn debug_file(input: Input) -> bool {
    let places = input.places.clone();
    let input: Arc<dyn Source> = Arc::new(input);
    let without = (0u8..).zip(RECIPES).filter(|(_, recipe)| recipe.debug == Debug::None && recipe.build_info);
    let mut answered = false;
    for (index, _) in without {
        let Ok(mut binary) = Binary::parse(Arc::new(Input::new(&[index]))) else { return false };
        if binary.add_debug_file(&input, DebugProof::BuildId).is_err() {
            continue;
        }
        let binary = Arc::new(binary);
        let _ = Layout::of(&binary);
        answered |= symbols(&binary, SymbolSource::Dwarf, &places);
    }
    answered
}

fn plan(binary: &Binary) -> bool {
    let Ok(plan) = Plan::of(binary) else { return false };
    for point in &plan.points {
        assert_eq!(binary.file_offset(point.address), Some(point.offset), "{point:?}");
    }
    plan.points.len() >= 3
}

/// A dump compared with itself has what it has, and nothing moved.
fn saved(input: &[u8]) -> bool {
    let Ok(saved) = parkranger::saved::read(input) else { return false };
    let difference = parkranger::diff::compare(Some(&saved), &saved);
    let after: u64 = difference.rows.iter().map(|row| row.after).fold(0, u64::saturating_add);
    assert_eq!(after, saved.population.len(), "goroutines got lost");
    assert!(difference.rows.iter().all(|row| row.before == row.after), "a dump differs from itself");
    !saved.population.is_empty()
}

/// The bytes as they are, and as the body of a record of this build: the first byte is its tag then.
fn record(input: &[u8]) -> bool {
    let as_it_is = one_record(input);
    let Some((tag, body)) = input.split_first() else { return as_it_is };
    let header = [VERSION, u32::from(*tag)].map(u32::to_ne_bytes).concat();
    one_record(&[&header, body].concat()) || as_it_is
}

/// A record belongs to one ring buffer at most, and what is refused is refused for a reason that is true.
fn one_record(input: &[u8]) -> bool {
    let (process, stream) = (ProcessRecord::parse(input), StreamRecord::parse(input));
    if let Ok(StreamRecord::SiteSeen(seen)) = stream {
        assert!(seen.depth as usize <= MAX_STACK, "a depth outside the stack");
    }
    for error in [process.err(), stream.err()].into_iter().flatten() {
        match error {
            RecordError::NoHeader { len } => assert!(len == input.len() && len < 8, "{error:?}"),
            RecordError::Version(version) => assert_ne!(version, VERSION),
            RecordError::Tag(_) => {}
            RecordError::Length { len, .. } => assert_eq!(len + 8, input.len()),
            RecordError::Depth(depth) => assert!(depth > MAX_STACK as u64),
        }
    }
    assert!(process.is_err() || stream.is_err(), "a record of both ring buffers");
    process.is_ok() || stream.is_ok()
}
