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
mod gopclntab;

use std::sync::{Arc, Mutex, PoisonError};

use crate::{
    address::VirtAddr,
    binary::{Binary, BinaryError},
};
use cache::Cache;

/// Answers kept per generation of the cache; a stack frame is asked for again and again.
const CACHED_PCS: usize = 4096;

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
    /// DWARF where the binary has it, gopclntab for what it does not answer.
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
    cache: Mutex<Cache<VirtAddr, Arc<[Frame]>>>,
}

impl Symbolizer {
    /// A symbolizer that reads nothing yet.
    ///
    /// # Errors
    ///
    /// [`SymbolError::NoDwarf`] if DWARF alone is asked for and the binary has none.
    pub fn new(binary: Arc<Binary>, source: SymbolSource) -> Result<Self, SymbolError> {
        if source == SymbolSource::Dwarf && !binary.has_dwarf() {
            return Err(SymbolError::NoDwarf);
        }
        Ok(Self { binary, cache: Mutex::new(Cache::new(CACHED_PCS)) })
    }

    /// The frames of a return address: of the call before it. Innermost inlined function first, the physical function
    /// last. Empty where nothing is known about the address.
    ///
    /// # Errors
    ///
    /// [`SymbolError::Binary`], [`SymbolError::Dwarf`].
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
    /// [`SymbolError::Binary`], [`SymbolError::Dwarf`].
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
        let frames: Arc<[Frame]> = gopclntab::frames_at(&self.binary, pc)?.into();
        lock().insert(pc, Arc::clone(&frames));
        Ok(frames)
    }
}
