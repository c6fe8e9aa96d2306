//! What is known of each binary: worked out once, shared by all its processes.

use std::{
    collections::HashMap,
    fs::File,
    sync::{Arc, Mutex, PoisonError},
};

use parkranger_common::probe::{GOffsets, MAX_BINARIES, ProbeWord};

use crate::{
    address::VirtAddr,
    binary::{Architecture, Binary, BinaryError},
    host::{FileId, FileSource},
    kernel::attach::Probe,
    plan::{GoroutineSource, Plan},
    runtime::{Layout, WaitReasons},
    symbols::{Frame, SymbolSource, Symbolizer},
};

/// Why the processes of a binary are not watched.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    /// Most programs.
    #[error("it is not a Go program")]
    NotGo,
    /// The file cannot be read or is damaged.
    #[error("{0}")]
    Binary(String),
    /// Where the fields of `g` are is not known.
    #[error("{0}")]
    Layout(String),
    /// No exact set of probes exists.
    #[error("{0}")]
    Plan(String),
    /// The kernel did not take the probes.
    #[error("{0}")]
    Attach(String),
    /// Another architecture than the agent's, under emulation.
    #[error("it is built for another processor architecture than parkranger")]
    Architecture,
}

/// A binary that can be watched.
pub struct Watchable {
    /// The file that runs.
    pub file: Arc<File>,
    /// Its facts.
    pub binary: Arc<Binary>,
    /// Where the program headers are in the file's addresses: with what the process says, the bias.
    pub program_headers: VirtAddr,
    /// The layout of its runtime.
    pub layout: Layout,
    /// The instructions to probe.
    pub plan: Plan,
    /// The binary's part of every probe's word.
    pub word: ProbeWord,
    /// The plan as the kernel stage takes it.
    pub probes: Vec<Probe>,
    /// Names of wait reasons.
    pub wait_reasons: WaitReasons,
    symbolizer: Symbolizer,
    names: Mutex<HashMap<(VirtAddr, VirtAddr), SiteNames>>,
}

/// A site in words.
#[derive(Clone, Debug, Default)]
pub struct SiteNames {
    /// The function with the `go` statement, its file and line.
    pub created_by: Option<Frame>,
    /// The function the goroutine starts with, as the user wrote it.
    pub start: Option<Frame>,
}

impl Watchable {
    /// The names of a site, from the cache or worked out.
    pub fn site_names(&self, gopc: VirtAddr, startpc: VirtAddr) -> SiteNames {
        let key = (gopc, startpc);
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names
            .entry(key)
            .or_insert_with(|| SiteNames {
                created_by: self.frames(gopc).into_iter().next(),
                start: if startpc.0 == 0 { None } else { self.symbolizer.entry(startpc).ok().flatten() },
            })
            .clone()
    }

    /// The frames of a return address, innermost first. Empty where nothing is known of it.
    pub fn frames(&self, return_address: VirtAddr) -> Vec<Frame> {
        self.symbolizer.frames(return_address).unwrap_or_else(|error| {
            tracing::debug!("no names for {return_address}: {error}");
            Vec::new()
        })
    }
}

/// All binaries looked at so far, watchable or not.
pub struct Binaries {
    symbols: SymbolSource,
    known: HashMap<FileId, Result<Arc<Watchable>, Refusal>>,
    next: u32,
}

impl Binaries {
    /// None yet.
    #[must_use]
    pub fn new(symbols: SymbolSource) -> Self {
        Self { symbols, known: HashMap::new(), next: 1 }
    }

    /// Works out everything about a binary, or remembers it.
    ///
    /// # Errors
    ///
    /// The [`Refusal`].
    pub fn understand(&mut self, file: Arc<File>) -> Result<FileId, Refusal> {
        let (source, id) =
            FileSource::new(Arc::clone(&file)).map_err(|error| Refusal::Binary(format!("cannot read it: {error}")))?;
        let number = self.next;
        let known = self.known.entry(id).or_insert_with(|| {
            let watchable = understand(file, source, number, self.symbols);
            if watchable.is_ok() {
                self.next = (self.next + 1) % MAX_BINARIES;
            }
            watchable.map(Arc::new)
        });
        match known {
            Ok(_) => Ok(id),
            Err(why) => Err(why.clone()),
        }
    }

    /// A watchable binary.
    #[must_use]
    pub fn get(&self, id: FileId) -> Option<Arc<Watchable>> {
        self.known.get(&id)?.as_ref().ok().cloned()
    }
}

fn understand(file: Arc<File>, source: FileSource, number: u32, symbols: SymbolSource) -> Result<Watchable, Refusal> {
    let binary = Arc::new(Binary::parse(Arc::new(source)).map_err(|error| match error {
        BinaryError::NotElf | BinaryError::NotGo => Refusal::NotGo,
        other => Refusal::Binary(other.to_string()),
    })?);
    if Some(binary.architecture()) != Architecture::of_this_agent() {
        return Err(Refusal::Architecture);
    }
    let layout = Layout::of(&binary).map_err(|error| Refusal::Layout(error.to_string()))?;
    let plan = Plan::of(&*binary).map_err(|error| Refusal::Plan(error.to_string()))?;
    let wait_reasons = WaitReasons::of(&binary).map_err(|error| Refusal::Layout(error.to_string()))?;
    let offsets = GOffsets {
        gopc: layout.gopc,
        startpc: layout.startpc,
        waitreason: layout.waitreason,
        sched_bp: layout.sched_bp,
    };
    let word = ProbeWord::for_binary(number, offsets)
        .ok_or_else(|| Refusal::Layout(format!("its struct g is laid out like no known one: {offsets:?}")))?;
    let probes: Vec<Probe> = plan
        .points
        .iter()
        .map(|point| Probe {
            event: point.event,
            offset: point.offset,
            word: word
                .event(point.event)
                .skip_taken(point.skip_when_branch_taken)
                .park_in_registers(point.goroutine == GoroutineSource::CurrentG),
        })
        .collect();
    // Programs without a cookie go by the process's word alone, so what its probes share is in there too.
    let word = word
        .skip_taken(probes.iter().all(|probe| probe.word.skips_taken()))
        .park_in_registers(probes.iter().any(|probe| probe.word.is_park_in_registers()));
    let program_headers = binary
        .program_headers_address()
        .ok_or_else(|| Refusal::Binary("its program headers are not loaded with it".to_owned()))?;
    let symbolizer =
        Symbolizer::new(Arc::clone(&binary), symbols).map_err(|error| Refusal::Binary(error.to_string()))?;
    Ok(Watchable {
        file,
        binary,
        program_headers,
        layout,
        plan,
        word,
        probes,
        wait_reasons,
        symbolizer,
        names: Mutex::default(),
    })
}
