//! From a pc to the chain of frames a Go programmer reads: function, file, line, innermost inlined call first.
//!
//! | file | answers from |
//! |---|---|
//! | `gopclntab` | the runtime's own table: every Go binary, Go code only |
//! | `dwarf` | debug information, through gimli: also the C code of a cgo binary |
//!
//! Both give the same frames for Go code, and a test holds them to it. Names are the runtime's
//! (`main.spawn[...]`, where DWARF spells the type arguments out), files are as the compiler recorded them. Nothing is
//! read before it is asked for, and what is kept is bounded.

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
use cache::Cache;
use dwarf::Dwarf;

/// Answers kept per generation of the cache; a stack frame is asked for again and again.
const CACHED_PCS: usize = 4096;
/// DWARF that inflates to more than this is not worth its memory unless asked for: gopclntab says the same of Go code.
const AUTO_DWARF_BYTES: u64 = 32 << 20;
/// More than any real program's.
const MAX_DWARF_BYTES: u64 = 512 << 20;

/// One level of a call chain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Frame {
    /// Function name as the runtime prints it.
    pub function: String,
    /// File as the compiler recorded it; "?" where it did not.
    pub file: String,
    /// Line in that file, 0 where unknown.
    pub line: u32,
    /// Whether this function was inlined into the next frame.
    pub inlined: bool,
}

/// Where frames are taken from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SymbolSource {
    /// DWARF where the binary has it and it is of reasonable size, gopclntab for what that does not answer.
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
    #[error("no DWARF in the binary")]
    NoDwarf,
    /// The DWARF contradicts itself.
    #[error("malformed DWARF: {0}")]
    Dwarf(#[from] gimli::Error),
    /// The binary is malformed or cannot be read.
    #[error(transparent)]
    Binary(#[from] BinaryError),
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
        let dwarf = match source {
            SymbolSource::Gopclntab => None,
            SymbolSource::Auto => binary.has_dwarf().then(|| Dwarf::new(Arc::clone(&binary), AUTO_DWARF_BYTES)),
            SymbolSource::Dwarf if !binary.has_dwarf() => return Err(SymbolError::NoDwarf),
            SymbolSource::Dwarf => Some(Dwarf::new(Arc::clone(&binary), MAX_DWARF_BYTES)),
        };
        let cache = Mutex::new(Cache::new(CACHED_PCS));
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
        let lock = || self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(frames) = lock().get(pc) {
            return Ok(frames);
        }
        let frames: Arc<[Frame]> = self.look_up(pc)?.into();
        lock().insert(pc, Arc::clone(&frames));
        Ok(frames)
    }

    fn look_up(&self, pc: VirtAddr) -> Result<Vec<Frame>, SymbolError> {
        let from_dwarf = match self.ask_dwarf(pc) {
            Err(_) if self.source == SymbolSource::Auto => {
                self.dwarf_failed.store(true, Ordering::Relaxed);
                None
            }
            answer => answer?,
        };
        match (from_dwarf, self.source) {
            (Some(frames), _) => Ok(frames),
            (None, SymbolSource::Dwarf) => Ok(Vec::new()),
            (None, _) => gopclntab::frames_at(&self.binary, pc),
        }
    }

    /// What DWARF says, with the physical function's name as the runtime has it. `None` where it says less than
    /// gopclntab: of wrappers made by the compiler it knows neither the inlined calls nor, often, the lines.
    fn ask_dwarf(&self, pc: VirtAddr) -> Result<Option<Vec<Frame>>, SymbolError> {
        let Some(dwarf) = self.dwarf.as_ref().filter(|_| !self.dwarf_failed.load(Ordering::Relaxed)) else {
            return Ok(None);
        };
        let function = self.binary.function_at(pc)?;
        if self.source == SymbolSource::Auto && function.as_ref().is_some_and(|function| function.wrapper) {
            return Ok(None);
        }
        let Some(mut frames) = dwarf.frames_at(pc)? else { return Ok(None) };
        // Functions the compiler generates (equality of types, promoted methods) have no line rows at their start.
        if self.source == SymbolSource::Auto && frames.iter().any(|frame| frame.line == 0) {
            return Ok(None);
        }
        if let Some((physical, function)) = frames.last_mut().zip(function) {
            physical.function = gopclntab::printed(function.name);
        }
        Ok(Some(frames))
    }
}

/// Lets go of the debug information that is kept inflated for the next question.
///
/// For an agent that has nothing to name for a while; the next question reads it again.
pub fn release() {
    dwarf::release();
}
