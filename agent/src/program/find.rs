//! Finds the Go runtime of a process: in its executable, or in a shared object it has loaded (`-buildmode=c-shared`
//! in Python, a plugin of a C server).
//!
//! Only processes whose executable is no Go program have their other files looked at, each file once per host. Of two
//! runtimes in one process the executable's, else the one at the lowest address, is watched.

use std::path::PathBuf;

use super::{
    binaries::{Binaries, Refusal, Watchable},
    proof::{self, Proof},
};
use crate::{
    address::Bias,
    host::{FileId, HostError, Mapping, Proc},
};

/// The age of a process, for whether it has had time to set up its runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// It was found running.
    Old,
    /// Its program has only just begun: there is nothing in its memory yet.
    New,
}

/// A runtime that can be watched.
#[derive(Clone, Debug)]
pub struct Found {
    /// The binary it is in.
    pub file: FileId,
    /// The process's executable, as the process sees it.
    pub exe: PathBuf,
    /// The mapping of the binary's code in the process, if the binary is not the executable.
    pub library: Option<Mapping>,
}

impl Found {
    /// The load bias of the binary in process `pid`: runtime address minus address in the file.
    ///
    /// # Errors
    ///
    /// [`HostError::NoSuchProcess`], [`HostError::NotPermitted`], [`HostError::Unreadable`].
    pub fn bias(&self, proc: &Proc, pid: u32, binary: &Watchable) -> Result<Bias, HostError> {
        let Some(library) = &self.library else { return proc.bias(pid, binary.program_headers) };
        let bias = binary.go.binary.bias_of_mapping(library.start, library.end, library.offset);
        bias.ok_or_else(|| HostError::Unreadable {
            path: proc.root().join(format!("{pid}/maps")),
            why: format!("{} is not mapped the way its program headers say", library.path),
        })
    }

    /// The path of the shared object the runtime is in; `None` for the executable.
    #[must_use]
    pub fn library_path(&self) -> Option<&str> {
        self.library.as_ref().map(|library| library.path.as_str())
    }
}

/// Finds the Go runtime of process `pid`, whose executable is `exe`. The inner error says why it cannot be watched.
///
/// # Errors
///
/// The error of looking at the process; then nothing is known about it.
pub fn find(
    proc: &Proc,
    binaries: &mut Binaries,
    pid: u32,
    exe: PathBuf,
    age: Age,
) -> Result<Result<Found, Refusal>, HostError> {
    let why = match binaries.understand(proc.open_executable(pid)?) {
        Ok(file) => return proved(proc, binaries, pid, Found { file, exe, library: None }, age),
        Err(why) => why,
    };
    if !matches!(why, Refusal::NotGo) {
        return Ok(Err(why));
    }
    let mut refusal = why;
    for mapping in proc.code_mappings(pid)? {
        match binaries.library(&mapping, || proc.open_mapping(pid, &mapping)) {
            Ok(file) => return proved(proc, binaries, pid, Found { file, exe, library: Some(mapping) }, age),
            Err(Refusal::NotGo) => {}
            Err(why) => refusal = Refusal::Library { path: mapping.path, why: Box::new(why) },
        }
    }
    Ok(Err(refusal))
}

/// The runtime found, if memory agrees with its layout. A layout for this very version, or the binary's own, is believed
/// until memory contradicts it; one of an older version only once memory has proved it.
fn proved(
    proc: &Proc,
    binaries: &Binaries,
    pid: u32,
    found: Found,
    age: Age,
) -> Result<Result<Found, Refusal>, HostError> {
    let Some(watchable) = binaries.get(found.file) else { return Ok(Err(Refusal::NotGo)) };
    if watchable.is_proved() {
        return Ok(Ok(found));
    }
    let guessed = watchable.go.layout.source.is_guess();
    if age == Age::New && !guessed {
        return Ok(Ok(found));
    }
    let bias = found.bias(proc, pid, &watchable)?;
    Ok(match proof::prove(proc, proc.identity(pid)?, bias, &watchable) {
        Proof::Proved => {
            watchable.set_proved();
            Ok(found)
        }
        Proof::Open(why) if guessed => {
            Err(Refusal::Unproved(format!("layout from {}: {why}", watchable.go.layout.source)))
        }
        Proof::Open(why) => {
            tracing::debug!("process {pid}: its layout is not proved: {why}");
            Ok(found)
        }
        Proof::Contradicted(why) => Err(Refusal::Unproved(format!(
            "its memory contradicts the layout from {}: {why}",
            watchable.go.layout.source
        ))),
    })
}
