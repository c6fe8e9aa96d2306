//! Facts about each binary, and its probes: worked out once, shared by all its processes.

use std::{
    collections::HashMap,
    fs::File,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use parkranger_common::probe::{Event, GOffsets, NO_BINARY, ProbeWord};

use crate::{
    address::VirtAddr,
    binary::{Architecture, may_hold_go},
    go_binary::{GoBinaries, GoBinary, GoBinaryError},
    host::{FileId, FileSource, FileVersion, HostError, MappedFile, Mapping},
    kernel::attach::Probe,
    plan::{GoroutineSource, Plan, ProbePoint},
    runtime::NumberPlaces,
    symbols::{Cache, Frame},
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
    /// The offsets of the fields of `g` are not known.
    #[error("{0}")]
    Layout(String),
    /// No exact set of probes exists.
    #[error("{0}")]
    Plan(String),
    /// There is no room for another process.
    #[error("more processes are watched than there is room for (--max-processes)")]
    TooMany,
    /// The kernel did not take the probes.
    #[error("{0}")]
    Attach(String),
    /// Another architecture than the agent's, under emulation.
    #[error("it is built for another processor architecture than parkranger")]
    Architecture,
    /// The offsets of the fields of `g` are only supposed, and the process's memory does not prove it.
    #[error("{0}")]
    Unproved(String),
    /// The runtime is in a shared object that cannot be watched.
    #[error("the Go runtime in {path}: {why}")]
    Library {
        /// The shared object, as the process sees it.
        path: String,
        /// Why not.
        why: Box<Refusal>,
    },
}

/// The probes of one binary as the kernel takes them.
pub struct ProbeSet {
    /// The file they go into.
    pub file: Arc<File>,
    /// The binary's part of every probe's word.
    pub word: ProbeWord,
    /// Births, parks, exits.
    pub probes: Vec<Probe>,
    /// Those of a story, beside them; or why none can be told.
    pub story: Result<Vec<Probe>, String>,
}

/// A binary that can be watched.
pub struct Watchable {
    /// All that is known of it apart from its probes.
    pub go: Arc<GoBinary>,
    /// Address of the program headers as the file has it: with what the process says, the bias.
    pub program_headers: VirtAddr,
    /// The instructions to probe.
    pub plan: Plan,
    /// The plan as the kernel stage takes it, and the file that runs.
    pub set: Arc<ProbeSet>,
    /// Set once some process's memory agreed with the layout.
    proved: AtomicBool,
    names: Mutex<Cache<(VirtAddr, VirtAddr), SiteNames>>,
}

/// A site in words.
#[derive(Clone, Debug, Default)]
pub struct SiteNames {
    /// The function with the `go` statement, its file and line.
    pub created_by: Option<Frame>,
    /// The function the goroutine starts with, as the user wrote it.
    pub start: Option<Frame>,
}

impl SiteNames {
    /// About what it takes of memory, in bytes.
    fn weight(&self) -> usize {
        let text = |frame: &Option<Frame>| frame.as_ref().map_or(0, Frame::text_bytes);
        size_of::<Self>() + text(&self.created_by) + text(&self.start)
    }
}

/// Upper bound of one generation of the names of a binary's sites, in bytes: some thousand sites. Those that
/// are shown are asked for with every snapshot.
const NAMES_BYTES: usize = 1 << 20;

impl Watchable {
    /// True once the memory of a process has agreed with the layout.
    pub(crate) fn is_proved(&self) -> bool {
        self.proved.load(Ordering::Relaxed)
    }

    pub(crate) fn set_proved(&self) {
        self.proved.store(true, Ordering::Relaxed);
    }

    /// Addresses by which its runtime counts goroutines; `None` where it does not, or they are not worked out yet.
    pub(crate) fn number_places(&self) -> Option<&NumberPlaces> {
        self.go.known_number_places().filter(|places| places.has_goroutine_totals())
    }

    /// Begins to work out where its runtime keeps its numbers, in a thread of its own.
    pub(crate) fn find_number_places(&self) {
        let go = Arc::clone(&self.go);
        let find = move || {
            go.number_places();
        };
        // Not joined, by intent: it ends by itself. Without a thread there are no totals.
        let _ = thread::Builder::new().name("numbers".to_owned()).spawn(find);
    }

    /// The names of a site, from the cache or worked out.
    pub fn site_names(&self, gopc: VirtAddr, startpc: VirtAddr) -> SiteNames {
        let key = (gopc, startpc);
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(key).unwrap_or_else(|| {
            let made = SiteNames {
                created_by: self.frames(gopc).into_iter().next(),
                start: if startpc.0 == 0 { None } else { self.go.symbolizer.entry(startpc).ok().flatten() },
            };
            names.insert(key, made.clone(), made.weight());
            made
        })
    }

    /// The frames of a return address, innermost first. Empty where nothing is known of it.
    pub fn frames(&self, return_address: VirtAddr) -> Vec<Frame> {
        self.go.symbolizer.frames(return_address).unwrap_or_else(|error| {
            tracing::debug!("no names for {return_address}: {error}");
            Vec::new()
        })
    }
}

/// All binaries looked at so far, watchable or not.
pub struct Binaries {
    go_binaries: Arc<GoBinaries>,
    known: HashMap<FileId, Known>,
    /// Other names of known files: one to the kernel, and proved to be.
    aliases: HashMap<FileId, (FileVersion, FileId)>,
    /// Shared objects by what /proc/PID/maps says of them, so that libc is opened once.
    libraries: HashMap<(MappedFile, String), Result<FileId, Refusal>>,
    next: u32,
}

/// The outcome for a file, and the version of the file it was found in: an inode is used again for another file.
struct Known {
    version: FileVersion,
    outcome: Result<Arc<Watchable>, Refusal>,
    /// Files that this one may be to the kernel, best first: until that is settled, what is known of it is what is known
    /// of the first.
    supposed: Vec<FileId>,
}

/// Paths of shared objects are up to the processes; beyond this many all are looked at anew.
const MAX_LIBRARIES: usize = 1 << 16;
/// A container that is gone leaves its name of a file; beyond this many all are proved anew.
const MAX_ALIASES: usize = 1 << 12;

impl Binaries {
    /// None yet.
    #[must_use]
    pub fn new(go_binaries: Arc<GoBinaries>) -> Self {
        Self { go_binaries, known: HashMap::new(), aliases: HashMap::new(), libraries: HashMap::new(), next: 0 }
    }

    /// Works out everything about a binary, or remembers it.
    ///
    /// # Errors
    ///
    /// The [`Refusal`].
    pub fn understand(&mut self, file: Arc<File>) -> Result<FileId, Refusal> {
        let (source, id) =
            FileSource::new(Arc::clone(&file)).map_err(|error| Refusal::Binary(format!("cannot read it: {error}")))?;
        let version = source.version();
        if let Some((of, file)) = self.aliases.get(&id)
            && *of == version
        {
            return Ok(*file);
        }
        // A watchable binary is held open, so its inode is not used again; it may be written to or have its mode
        // changed, and stays what the kernel's probes are in.
        if let Some(known) = self.known.get(&id).filter(|known| known.outcome.is_ok() || known.version == version) {
            return known.outcome.as_ref().map(|_| id).map_err(Refusal::clone);
        }
        let supposed = self.with_version(id, version);
        let go = match supposed.first().and_then(|like| self.get(*like)) {
            Some(like) => Ok(Arc::clone(&like.go)),
            None => self.go_binaries.of(source, id).map_err(Refusal::from),
        };
        self.know(id, file, version, go, supposed)
    }

    fn know(
        &mut self,
        id: FileId,
        file: Arc<File>,
        version: FileVersion,
        go: Result<Arc<GoBinary>, Refusal>,
        supposed: Vec<FileId>,
    ) -> Result<FileId, Refusal> {
        let number = self.number();
        let outcome = go.and_then(|go| watchable(file, go, number)).map(Arc::new);
        let answer = outcome.as_ref().map(|_| id).map_err(Refusal::clone);
        self.known.insert(id, Known { version, outcome, supposed });
        answer
    }

    /// A number that no binary has.
    fn number(&mut self) -> u32 {
        loop {
            self.next = if self.next + 1 < NO_BINARY { self.next + 1 } else { 1 };
            if self.by_number(self.next).is_none() {
                return self.next;
            }
        }
    }

    /// Other files that have this version now, and so may be this one by another name.
    fn with_version(&self, id: FileId, version: FileVersion) -> Vec<FileId> {
        let is_like = |known: &Known| {
            let watchable = known.outcome.as_ref().ok().filter(|_| known.supposed.is_empty());
            watchable.is_some_and(|watchable| FileVersion::now(&watchable.set.file).ok() == Some(version))
        };
        let mut like: Vec<FileId> = self
            .known
            .iter()
            .filter(|(other, known)| **other != id && is_like(known))
            .map(|(other, _)| *other)
            .collect();
        like.sort_unstable();
        like
    }

    /// The file that this one may be by another name: to be settled before anything is attached.
    pub(crate) fn supposed_to_be(&self, id: FileId) -> Option<FileId> {
        self.known.get(&id)?.supposed.first().copied()
    }

    /// `id` is another name of `file`.
    pub(crate) fn merge(&mut self, id: FileId, file: FileId) {
        let Some(known) = self.known.remove(&id) else { return };
        if self.aliases.len() >= MAX_ALIASES {
            self.aliases.clear();
        }
        self.aliases.insert(id, (known.version, file));
        for library in self.libraries.values_mut().filter(|library| library.as_ref().ok() == Some(&id)) {
            *library = Ok(file);
        }
    }

    /// `id` is not the file that it was supposed to be first. Gives the next one; without any, the file is understood by
    /// itself.
    ///
    /// # Errors
    ///
    /// The [`Refusal`].
    pub(crate) fn set_apart(&mut self, id: FileId) -> Result<Option<FileId>, Refusal> {
        let Some(known) = self.known.get_mut(&id) else { return Ok(None) };
        if !known.supposed.is_empty() {
            known.supposed.remove(0);
        }
        if let Some(next) = known.supposed.first() {
            return Ok(Some(*next));
        }
        let file = Arc::clone(&known.outcome.as_ref().map_err(Refusal::clone)?.set.file);
        self.known.remove(&id);
        let (source, _) =
            FileSource::new(Arc::clone(&file)).map_err(|error| Refusal::Binary(format!("cannot read it: {error}")))?;
        let version = source.version();
        let go = self.go_binaries.of(source, id).map_err(Refusal::from);
        self.know(id, file, version, go, Vec::new()).map(|_| None)
    }

    /// The same for a shared object that some process has mapped; `open` is called for one not seen before.
    ///
    /// # Errors
    ///
    /// The [`Refusal`]; [`Refusal::NotGo`] also where it cannot be opened, which the next look may change.
    pub fn library(
        &mut self,
        mapping: &Mapping,
        open: impl FnOnce() -> Result<Arc<File>, HostError>,
    ) -> Result<FileId, Refusal> {
        let key = (mapping.file.clone(), mapping.path.clone());
        if let Some(known) = self.libraries.get(&key) {
            return known.clone();
        }
        let file = open().map_err(|error| {
            tracing::debug!("{} passed over: {error}", mapping.path);
            Refusal::NotGo
        })?;
        let may_be_go = FileSource::new(Arc::clone(&file)).is_ok_and(|(source, _)| may_hold_go(Arc::new(source)));
        let outcome = if may_be_go { self.understand(file) } else { Err(Refusal::NotGo) };
        if self.libraries.len() >= MAX_LIBRARIES {
            self.libraries.clear();
        }
        self.libraries.insert(key, outcome.clone());
        outcome
    }

    /// The binary with this number in its probes' words.
    pub(crate) fn by_number(&self, number: u32) -> Option<(FileId, Arc<Watchable>)> {
        self.known.iter().find_map(|(id, known)| {
            let watchable = known.outcome.as_ref().ok()?;
            (watchable.set.word.binary() == number).then(|| (*id, Arc::clone(watchable)))
        })
    }

    /// Forgets a binary that nobody runs.
    pub(crate) fn forget(&mut self, id: FileId) {
        self.known.remove(&id);
        self.aliases.retain(|_, (_, file)| *file != id);
        self.libraries.retain(|_, library| library.as_ref().ok() != Some(&id));
    }

    /// A watchable binary.
    #[must_use]
    pub fn get(&self, id: FileId) -> Option<Arc<Watchable>> {
        self.known.get(&id)?.outcome.as_ref().ok().cloned()
    }
}

impl From<GoBinaryError> for Refusal {
    fn from(error: GoBinaryError) -> Self {
        match error {
            error if error.is_not_go() => Self::NotGo,
            GoBinaryError::Layout(_) | GoBinaryError::WaitReasons(_) => Self::Layout(error.to_string()),
            GoBinaryError::Binary(_) | GoBinaryError::Symbols(_) => Self::Binary(error.to_string()),
        }
    }
}

/// Plans the probes of a binary that is understood.
fn watchable(file: Arc<File>, go: Arc<GoBinary>, number: u32) -> Result<Watchable, Refusal> {
    let (binary, layout) = (&go.binary, &go.layout);
    if Some(binary.architecture()) != Architecture::of_this_agent() {
        return Err(Refusal::Architecture);
    }
    let plan = Plan::of(&**binary).map_err(|error| Refusal::Plan(error.to_string()))?;
    let offsets = GOffsets {
        gopc: layout.gopc,
        startpc: layout.startpc,
        waitreason: layout.waitreason,
        sched_bp: layout.sched_bp,
        sched_pc: layout.sched_pc,
    };
    let word = ProbeWord::for_binary(number, offsets)
        .ok_or_else(|| Refusal::Layout(format!("its struct g is laid out like no known one: {offsets:?}")))?;
    let probe = |point: &ProbePoint| Probe {
        event: point.event,
        offset: point.offset,
        word: word
            .event(point.event)
            .skip_taken(point.skip_when_branch_taken)
            .park_in_registers(point.goroutine == GoroutineSource::CurrentG),
    };
    let probes: Vec<Probe> = plan.points.iter().map(probe).collect();
    let story = plan.run.as_ref().map_err(ToString::to_string).map(|run| {
        let timed = probes.iter().copied().filter(|probe| probe.event != Event::Birth);
        timed.chain([probe(run)]).collect()
    });
    // Programs without a cookie go by the process's word alone, so what its probes share is in there too.
    let word = word
        .skip_taken(probes.iter().all(|probe| probe.word.skips_taken()))
        .park_in_registers(probes.iter().any(|probe| probe.word.is_park_in_registers()));
    let program_headers = binary
        .program_headers_address()
        .ok_or_else(|| Refusal::Binary("its program headers are not loaded with it".to_owned()))?;
    Ok(Watchable {
        go,
        program_headers,
        plan,
        set: Arc::new(ProbeSet { file, word, probes, story }),
        proved: AtomicBool::new(false),
        names: Mutex::new(Cache::new(NAMES_BYTES)),
    })
}
