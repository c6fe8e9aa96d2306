//! Binaries understood so far, the latest used first.

use std::{
    fs::File,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use super::Understood;
use crate::{
    binary::BinaryError,
    census::CensusError,
    host::{DebugFolder, FileId, FileSource, FileVersion, HostError},
    runtime::{Layout, WaitReasons},
    symbols::{SymbolSource, Symbolizer},
};

/// Files remembered, those without Go among them: a process has dozens of libraries.
const MAX_KNOWN: usize = 256;
/// Go binaries among them: each holds its tables and names.
const MAX_UNDERSTOOD: usize = 16;

/// What a file turned out to be; `None` where there is no Go in it.
type Entry = (FileId, FileVersion, Option<Arc<Understood>>);

#[derive(Default)]
pub(super) struct Cache {
    entries: Mutex<Vec<Entry>>,
}

impl Cache {
    /// Understands a file, or remembers it. `name` is for errors.
    pub(super) fn understand(
        &self,
        file: Arc<File>,
        name: &str,
        symbols: SymbolSource,
    ) -> Result<Arc<Understood>, CensusError> {
        let (source, id) = FileSource::new(file)
            .map_err(|error| HostError::Unreadable { path: PathBuf::from(name), why: error.to_string() })?;
        let version = source.version();
        if let Some(known) = self.remembered(id, version) {
            return known.ok_or(CensusError::Binary(BinaryError::NotGo));
        }
        // Not under the lock: large binaries take a while. Two requests at once may both do it.
        match understand(source, symbols).map(Arc::new) {
            Ok(understood) => {
                self.remember((id, version, Some(Arc::clone(&understood))));
                Ok(understood)
            }
            Err(why) => {
                if matches!(why, CensusError::Binary(BinaryError::NotElf | BinaryError::NotGo)) {
                    self.remember((id, version, None));
                }
                Err(why)
            }
        }
    }

    fn remembered(&self, id: FileId, version: FileVersion) -> Option<Option<Arc<Understood>>> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let at = entries.iter().position(|entry| (entry.0, entry.1) == (id, version))?;
        let entry = entries.remove(at);
        let answer = entry.2.clone();
        entries.insert(0, entry);
        Some(answer)
    }

    fn remember(&self, entry: Entry) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|known| known.0 != entry.0);
        entries.insert(0, entry);
        let mut understood = 0;
        entries.retain(|known| {
            understood += usize::from(known.2.is_some());
            known.2.is_none() || understood <= MAX_UNDERSTOOD
        });
        entries.truncate(MAX_KNOWN);
    }
}

fn understand(source: FileSource, symbols: SymbolSource) -> Result<Understood, CensusError> {
    let binary = Arc::new(DebugFolder::default().read_binary(source)?);
    let layout = Layout::of(&binary)?;
    let wait_reasons = WaitReasons::of(&binary)?;
    let symbolizer = Symbolizer::new(Arc::clone(&binary), symbols)?;
    Ok(Understood { binary, layout, wait_reasons, symbolizer })
}
