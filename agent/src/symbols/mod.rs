//! From a pc to the chain of frames a Go programmer reads: function, file, line, innermost inlined call first.
//!
//! | file | answers from |
//! |---|---|
//! | `gopclntab` | the runtime's own table: every Go binary, Go code only |
//! | `dwarf` | debug information, through gimli: also the C code of a cgo binary |
//!
//! Both give the same frames for Go code, and a test holds them to it. So [`SymbolSource::Auto`] asks gopclntab, which
//! costs nothing to open, and DWARF for what that does not know: inflating the debug information of a 65 MB program took
//! 110 ms and 37 MiB, for the same names. Names are the runtime's (`main.spawn[...]`, where DWARF spells the type
//! arguments out), files are as the compiler recorded them. Nothing is read before it is asked for, and what is kept is
//! bounded.

#![warn(clippy::indexing_slicing)]

mod cache;
mod dwarf;
mod gopclntab;
#[cfg(test)]
mod tests;

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use crate::{
    address::VirtAddr,
    binary::{Binary, BinaryError},
};
pub(crate) use cache::Cache;
use dwarf::Dwarf;

/// Upper bound of one generation of the answers kept, in bytes: some thousand pcs. A stack frame is asked for again
/// and again.
const CACHED_BYTES: usize = 1 << 20;
/// The names and files of one answer; real ones have some hundred bytes.
const MAX_TEXT_BYTES: usize = 64 << 10;
/// DWARF that inflates to more than this is not worth its memory unless asked for.
const AUTO_DWARF_BYTES: u64 = 32 << 20;
/// More than any real program's.
const MAX_DWARF_BYTES: u64 = 512 << 20;

/// One level of a call chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Frame {
    /// Function name as the runtime prints it.
    pub function: String,
    /// Its name in the symbol table where that is another: with type arguments, from Go 1.21 on. Profiles have it.
    pub symbol: Option<String>,
    /// File as the compiler recorded it; "?" where it did not.
    pub file: String,
    /// Line in that file, 0 where unknown.
    pub line: u32,
    /// True if this function was inlined into the next frame.
    pub inlined: bool,
}

impl Frame {
    /// A frame of a function by its name in the symbol table.
    fn of_symbol(symbol: String, file: String, line: u32, inlined: bool) -> Self {
        match gopclntab::printed(&symbol) {
            Some(function) if function != symbol => Self { function, symbol: Some(symbol), file, line, inlined },
            _ => Self::named(symbol, file, line, inlined),
        }
    }

    /// A frame of something that is called so everywhere.
    #[must_use]
    pub fn named(function: String, file: String, line: u32, inlined: bool) -> Self {
        Self { function, symbol: None, file, line, inlined }
    }

    /// Upper bound of the memory its names and its file take, in bytes.
    pub(crate) fn text_bytes(&self) -> usize {
        self.function.len() + self.symbol().len() + self.file.len()
    }

    /// The name in the symbol table.
    #[must_use]
    pub fn symbol(&self) -> &str {
        self.symbol.as_deref().unwrap_or(&self.function)
    }
}

/// The source of frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SymbolSource {
    /// gopclntab, and for what that does not know (C code) DWARF, where the binary has it and it is of reasonable size.
    #[default]
    Auto,
    /// DWARF only.
    Dwarf,
    /// gopclntab only.
    Gopclntab,
}

/// Why a pc has no frames although it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SymbolError {
    /// DWARF was asked for and there is none.
    #[error("no DWARF in the binary, and no debug file for it in /usr/lib/debug")]
    NoDwarf,
    /// The DWARF contradicts itself.
    #[error("malformed DWARF: {0}")]
    Dwarf(#[from] gimli::Error),
    /// The binary is malformed or cannot be read.
    #[error(transparent)]
    Binary(#[from] BinaryError),
    /// It was asked before, with that outcome: what takes long to refuse is refused once.
    #[error("{0}")]
    Refused(Arc<str>),
}

/// Names the pcs of one binary. Shared by all its processes and by all threads.
pub struct Symbolizer {
    binary: Arc<Binary>,
    source: SymbolSource,
    dwarf: Option<Dwarf>,
    /// Set once the DWARF proved unreadable: [`SymbolSource::Auto`] does not try again.
    dwarf_failed: AtomicBool,
    cache: Mutex<Cache<VirtAddr, Arc<[Frame]>>>,
}

impl Symbolizer {
    /// A symbolizer that reads nothing yet.
    ///
    /// # Errors
    ///
    /// [`SymbolError::NoDwarf`] if DWARF alone is asked for and the binary has none.
    pub fn new(binary: Arc<Binary>, source: SymbolSource) -> Result<Self, SymbolError> {
        let has_dwarf = binary.image_with(".debug_info").is_some();
        let dwarf = match source {
            SymbolSource::Gopclntab => None,
            SymbolSource::Auto => has_dwarf.then(|| Dwarf::new(Arc::clone(&binary), AUTO_DWARF_BYTES)),
            SymbolSource::Dwarf if !has_dwarf => return Err(SymbolError::NoDwarf),
            SymbolSource::Dwarf => Some(Dwarf::new(Arc::clone(&binary), MAX_DWARF_BYTES)),
        };
        let cache = Mutex::new(Cache::new(CACHED_BYTES));
        Ok(Self { binary, source, dwarf, dwarf_failed: AtomicBool::new(false), cache })
    }

    /// The frames of a return address: of the call before it. Innermost inlined function first, the physical function
    /// last. Empty where nothing is known about the address.
    ///
    /// # Errors
    ///
    /// [`SymbolError::Binary`]; [`SymbolError::Dwarf`] where DWARF alone was asked for.
    pub fn frames(&self, return_address: VirtAddr) -> Result<Vec<Frame>, SymbolError> {
        match return_address.0.checked_sub(1) {
            Some(pc) => Ok(self.frames_at(VirtAddr(pc))?.to_vec()),
            None => Ok(Vec::new()),
        }
    }

    /// The function a goroutine was started with: file and line of its start. The wrapper the compiler makes for
    /// `go f(x)` is looked through to `f`. `None` where no function is at that address.
    ///
    /// # Errors
    ///
    /// As [`Symbolizer::frames`].
    pub fn entry(&self, start_pc: VirtAddr) -> Result<Option<Frame>, SymbolError> {
        match gopclntab::unwrapped(&self.binary, start_pc)? {
            Some(pc) => Ok(self.frames_at(pc)?.last().cloned()),
            None => Ok(None),
        }
    }

    fn frames_at(&self, pc: VirtAddr) -> Result<Arc<[Frame]>, SymbolError> {
        /// Weight of an answer beside its frames, in bytes.
        const ENTRY_BYTES: usize = 64;
        let lock = || self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(frames) = lock().get(pc) {
            return Ok(frames);
        }
        let frames: Arc<[Frame]> = self.look_up(pc)?.into();
        let text: usize = frames.iter().map(Frame::text_bytes).sum();
        if text > MAX_TEXT_BYTES {
            return Err(BinaryError::malformed("names of functions", pc.0).into());
        }
        lock().insert(pc, Arc::clone(&frames), size_of_val(&*frames) + text + ENTRY_BYTES);
        Ok(frames)
    }

    fn look_up(&self, pc: VirtAddr) -> Result<Vec<Frame>, SymbolError> {
        match self.source {
            SymbolSource::Gopclntab => gopclntab::frames_at(&self.binary, pc),
            SymbolSource::Dwarf => self.ask_dwarf(pc),
            SymbolSource::Auto => {
                let frames = gopclntab::frames_at(&self.binary, pc)?;
                if !frames.is_empty() || self.dwarf_failed.load(Ordering::Relaxed) {
                    return Ok(frames);
                }
                Ok(self.ask_dwarf(pc).unwrap_or_else(|error| {
                    tracing::debug!("the debug information is not asked again: {error}");
                    self.dwarf_failed.store(true, Ordering::Relaxed);
                    frames
                }))
            }
        }
    }

    /// The frames by DWARF, with the physical function's name as the runtime has it. Empty where it knows no function.
    fn ask_dwarf(&self, pc: VirtAddr) -> Result<Vec<Frame>, SymbolError> {
        let Some(dwarf) = &self.dwarf else { return Ok(Vec::new()) };
        let Some(mut frames) = dwarf.frames_at(pc)? else { return Ok(Vec::new()) };
        if let Some((physical, function)) = frames.last_mut().zip(self.binary.function_at(pc)?) {
            let Frame { file, line, inlined, .. } = std::mem::take(physical);
            *physical = Frame::of_symbol(function.name, file, line, inlined);
        }
        Ok(frames)
    }
}

/// Lets go of the debug information that is kept inflated for the next question.
///
/// For an agent that has nothing to name for a while; the next question reads it again.
pub fn release() {
    dwarf::release();
}
