//! A binary with a Go runtime, understood once for all its processes and whoever asks.
//!
//! The watch holds what it has probes in; requests ask for any. Both ask here, so that no binary is read twice. Refuses what
//! its parts refuse, with [`GoBinaryError`].

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
};

use crate::{
    binary::{Binary, BinaryError},
    host::{DebugFolder, FileId, FileSource, FileVersion},
    runtime::{Layout, LayoutError, NumberPlaces, WaitReasonError, WaitReasons},
    symbols::{SymbolError, SymbolSource, Symbolizer},
};

/// Files remembered, those without Go among them: a process has dozens of libraries.
const MAX_KNOWN: usize = 1024;
/// Binaries that stay although nobody holds them: each has its tables and names.
const MAX_RECENT: usize = 16;

/// A binary with a Go runtime.
pub struct GoBinary {
    /// Its facts.
    pub binary: Arc<Binary>,
    /// The layout of its runtime.
    pub layout: Layout,
    /// Names of wait reasons.
    pub wait_reasons: WaitReasons,
    /// Names of its addresses.
    pub symbolizer: Symbolizer,
    number_places: OnceLock<NumberPlaces>,
}

impl GoBinary {
    /// Addresses of the numbers that its runtime keeps, worked out at the first call: a large symbol table, or the code of
    /// functions, is gone through for it. Nothing is in them where they cannot be known.
    pub fn number_places(&self) -> &NumberPlaces {
        self.number_places.get_or_init(|| {
            NumberPlaces::of(&self.binary).unwrap_or_else(|error| {
                tracing::debug!("the places of a runtime's numbers are not known: {error}");
                NumberPlaces::default()
            })
        })
    }

    /// The same where they are worked out already.
    #[must_use]
    pub fn known_number_places(&self) -> Option<&NumberPlaces> {
        self.number_places.get()
    }
}

/// Why a binary is not understood.
#[derive(Debug, thiserror::Error)]
pub enum GoBinaryError {
    /// It cannot be read, is damaged, or is none of Go.
    #[error(transparent)]
    Binary(#[from] BinaryError),
    /// The layout of goroutine structs is not known.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The names of wait reasons are not known.
    #[error(transparent)]
    WaitReasons(#[from] WaitReasonError),
    /// No names for addresses.
    #[error(transparent)]
    Symbols(#[from] SymbolError),
}

impl GoBinaryError {
    /// True where there is no Go in the file: most programs.
    #[must_use]
    pub fn is_not_go(&self) -> bool {
        matches!(self, Self::Binary(BinaryError::NotElf | BinaryError::NotGo))
    }
}

/// Binaries understood so far. Shared by all threads.
pub struct GoBinaries {
    symbols: SymbolSource,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// The latest used first.
    files: VecDeque<File>,
    /// The latest used first.
    recent: VecDeque<Arc<GoBinary>>,
}

struct File {
    id: FileId,
    version: FileVersion,
    /// `None` where there is no Go in it.
    found: Option<Weak<GoBinary>>,
}

impl GoBinaries {
    /// Nothing is understood yet. Names will be taken from `symbols`.
    #[must_use]
    pub fn new(symbols: SymbolSource) -> Self {
        Self { symbols, known: Mutex::default() }
    }

    /// Understands the file of this id, or remembers it.
    ///
    /// # Errors
    ///
    /// [`GoBinaryError`].
    pub fn of(&self, source: FileSource, id: FileId) -> Result<Arc<GoBinary>, GoBinaryError> {
        let version = source.version();
        if let Some(remembered) = self.remembered(id, version) {
            return remembered.ok_or(GoBinaryError::Binary(BinaryError::NotGo));
        }
        // Not under the lock: large binaries take a while. Two that ask at once may both do it.
        match understand(source, self.symbols).map(Arc::new) {
            Ok(understood) => {
                self.remember(id, version, Some(&understood));
                Ok(understood)
            }
            Err(why) => {
                if why.is_not_go() {
                    self.remember(id, version, None);
                }
                Err(why)
            }
        }
    }

    fn remembered(&self, id: FileId, version: FileVersion) -> Option<Option<Arc<GoBinary>>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let at = known.files.iter().position(|file| (file.id, file.version) == (id, version))?;
        let file = known.files.remove(at)?;
        let answer = match &file.found {
            // Nobody holds it any more: it is to be understood again.
            Some(understood) => Some(understood.upgrade()?),
            None => None,
        };
        known.files.push_front(file);
        if let Some(understood) = &answer {
            known.use_now(understood);
        }
        Some(answer)
    }

    fn remember(&self, id: FileId, version: FileVersion, found: Option<&Arc<GoBinary>>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.files.retain(|file| file.id != id);
        known.files.push_front(File { id, version, found: found.map(Arc::downgrade) });
        known.files.truncate(MAX_KNOWN);
        if let Some(understood) = found {
            known.use_now(understood);
        }
    }
}

impl Known {
    fn use_now(&mut self, understood: &Arc<GoBinary>) {
        self.recent.retain(|recent| !Arc::ptr_eq(recent, understood));
        self.recent.push_front(Arc::clone(understood));
        self.recent.truncate(MAX_RECENT);
    }
}

impl fmt::Debug for GoBinaries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GoBinaries").field("symbols", &self.symbols).finish_non_exhaustive()
    }
}

fn understand(source: FileSource, symbols: SymbolSource) -> Result<GoBinary, GoBinaryError> {
    let binary = Arc::new(DebugFolder::default().read_binary(source)?);
    let layout = Layout::of(&binary)?;
    let wait_reasons = WaitReasons::of(&binary)?;
    let symbolizer = Symbolizer::new(Arc::clone(&binary), symbols)?;
    Ok(GoBinary { binary, layout, wait_reasons, symbolizer, number_places: OnceLock::new() })
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::binary::testing::{Variant, toolchains};

    fn ask(go_binaries: &GoBinaries, path: &Path) -> Result<Arc<GoBinary>, GoBinaryError> {
        let (source, id) = FileSource::new(Arc::new(fs::File::open(path).unwrap())).unwrap();
        go_binaries.of(source, id)
    }

    #[test]
    #[ignore = "reads real Go programs: `cargo xtask test` builds them"]
    fn whoever_asks_gets_the_same() {
        let (folder, toolchain) = (tempfile::tempdir().unwrap(), toolchains().pop().unwrap());
        let path = folder.path().join("program");
        fs::copy(&toolchain.program(Variant::Stripped).path, &path).unwrap();
        let go_binaries = GoBinaries::new(SymbolSource::Auto);
        let first = ask(&go_binaries, &path).unwrap();
        assert!(Arc::ptr_eq(&first, &ask(&go_binaries, &path).unwrap()));

        // Held by somebody, it is remembered, however many came after it; then it is not.
        go_binaries.known.lock().unwrap().recent.clear();
        assert!(Arc::ptr_eq(&first, &ask(&go_binaries, &path).unwrap()));
        go_binaries.known.lock().unwrap().recent.clear();
        let gone = Arc::downgrade(&first);
        drop(first);
        assert!(gone.upgrade().is_none() && ask(&go_binaries, &path).is_ok());

        // Another version of the file is another binary.
        fs::write(&path, "#!/bin/sh\n").unwrap();
        assert!(ask(&go_binaries, &path).is_err_and(|why| why.is_not_go()));
        assert!(ask(&go_binaries, &path).is_err_and(|why| why.is_not_go()), "and remembered as such");
        assert_eq!(go_binaries.known.lock().unwrap().files.len(), 1);
    }
}
