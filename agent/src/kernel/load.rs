//! From the eBPF object to loaded programs: the best method this kernel has, maps sized, the tracepoint of execve attached.

use std::collections::BTreeSet;

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{HashMap, MapData, MapError, RingBuf},
    programs::{ProgramError, RawTracePoint, UProbe},
};
use parkranger_common::{
    counts::{Process, ProcessId},
    names,
};
use tracing::{debug, info};

use super::{Capability, KernelError, Method, Sizes, rings::Rings, sizes};

/// The eBPF programs, as `cargo xtask build` made them.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("PARKRANGER_EBPF_OBJECT"));

/// Waits by reason and lifetimes of all stories: some ten of each process.
const HISTOGRAMS: u32 = 2048;

/// Processors of all processes whose callers are told apart.
const PROCESSORS: u32 = 8192;

/// The loaded programs and their maps. Dropping it detaches everything.
pub struct Kernel {
    pub(super) ebpf: Ebpf,
    pub(super) method: Method,
    pub(super) rings: Rings,
    /// True where the maps have room for stories.
    pub(super) stories: bool,
    /// Processes that had a story told since they are watched.
    pub(super) told: BTreeSet<ProcessId>,
    /// Processes whose callers are told apart.
    pub(super) calling: BTreeSet<ProcessId>,
    logger: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
}

impl Kernel {
    /// Loads the programs with the best method that works here, or with `only` that one, and starts to hear of
    /// execve.
    ///
    /// # Errors
    ///
    /// [`KernelError::NotPermitted`], [`KernelError::Unsupported`], and [`KernelError::Load`] with the verifier's last
    /// words.
    pub fn load(capability: &Capability, sizes: Sizes, only: Option<Method>) -> Result<Self, KernelError> {
        capability.require()?;
        let raised = raise_memlock();
        Self::load_programs(capability, sizes, only).map_err(|error| match (error, raised) {
            (KernelError::Load(why), Err(limited)) => KernelError::Load(format!("{why}; {limited}")),
            (error, _) => error,
        })
    }

    fn load_programs(capability: &Capability, sizes: Sizes, only: Option<Method>) -> Result<Self, KernelError> {
        let stories = sizes.goroutines > 0;
        let for_stories = |entries: u32| if stories { entries } else { 1 };
        let for_callers = |entries: u32| if sizes.callers > 0 { entries } else { 1 };
        let mut ebpf = EbpfLoader::new()
            .map_max_entries(names::SITES, sizes.sites)
            .map_max_entries(names::WAITS, sizes.waits())
            .map_max_entries(names::PROCESSES, sizes.processes)
            .map_max_entries(names::UNATTRIBUTED, sizes.processes)
            .map_max_entries(names::PROCESS_RECORDS, sizes::PROCESS_RING_BYTES)
            .map_max_entries(names::STREAM_RECORDS, sizes.ring_bytes)
            .map_max_entries(names::STORIES, for_stories(sizes.processes))
            .map_max_entries(names::GOROUTINES, for_stories(sizes.goroutines))
            .map_max_entries(names::HISTOGRAMS, for_stories(HISTOGRAMS))
            .map_max_entries(names::SPENT, for_stories(sizes.sites))
            .map_max_entries(names::CALLING, for_callers(sizes.processes))
            .map_max_entries(names::CALLERS, for_callers(sizes.sites))
            .map_max_entries(names::BORN, for_callers(sizes.callers))
            .map_max_entries(names::UNNUMBERED, for_callers(PROCESSORS))
            .map_max_entries(names::EARLY_EXITS, for_callers(PROCESSORS))
            .load(OBJECT)
            .map_err(|error| load_error(&error))?;
        let logger =
            aya_log::EbpfLogger::init(&mut ebpf).map_err(|error| debug!("no log from the eBPF programs: {error}")).ok();
        let method = choose(&mut ebpf, capability, only)?;
        info!("probes attach through {}", method.name());
        let exec: &mut RawTracePoint = program(&mut ebpf, names::PROCESS_EXEC)?;
        exec.load().and_then(|()| exec.attach("sched_process_exec")).map_err(|error| program_error(&error))?;
        let mut ring = |name| {
            let map = ebpf.take_map(name).ok_or_else(|| missing(name))?;
            RingBuf::try_from(map).map_err(|error| KernelError::Load(with_sources(&error)))
        };
        let rings = Rings::new(ring(names::PROCESS_RECORDS)?, ring(names::STREAM_RECORDS)?)
            .map_err(|error| KernelError::Load(format!("no thread for the ring buffer: {error}")))?;
        Ok(Self { ebpf, method, rings, stories, told: BTreeSet::new(), calling: BTreeSet::new(), logger })
    }

    /// The way that probes are attached here.
    #[must_use]
    pub fn method(&self) -> Method {
        self.method
    }

    /// Passes on what the eBPF programs logged.
    pub fn flush_log(&mut self) {
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
    }

    /// Lists a process, so that hits of its binary's probes are counted for it, and tells under which id: where the
    /// kernel side adopted it meanwhile, under that one. `None` where the map of processes is full.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn list(&mut self, process: Process) -> Result<Option<ProcessId>, KernelError> {
        const BPF_NOEXIST: u64 = 1;
        let tgid = process.id.tgid();
        let Err(error) = self.processes()?.insert(&tgid, &process, BPF_NOEXIST) else { return Ok(Some(process.id)) };
        match (self.watched(tgid)?, &error) {
            (Some(adopted), _) => Ok(Some(adopted.id)),
            (None, MapError::SyscallError(call)) if call.io_error.raw_os_error() == Some(libc::E2BIG) => Ok(None),
            (None, _) => Err(KernelError::Map { action: "write", map: names::PROCESSES, why: with_sources(&error) }),
        }
    }

    /// The entry of `tgid` in the list of processes.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn watched(&mut self, tgid: u32) -> Result<Option<Process>, KernelError> {
        Ok(self.processes()?.get(&tgid, 0).ok())
    }

    /// Takes a process off the list, if the entry is still its own.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn unwatch(&mut self, id: ProcessId) -> Result<(), KernelError> {
        if self.watched(id.tgid())?.is_some_and(|listed| listed.id == id) {
            // Gone already is as good.
            let _ = self.processes()?.remove(&id.tgid());
        }
        Ok(())
    }

    /// Has the kernel side pass over a process of a watched binary, if the entry is still its own: nothing of it is
    /// counted, and it is not adopted again.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn mute(&mut self, id: ProcessId) -> Result<(), KernelError> {
        const BPF_EXIST: u64 = 2;
        if self.watched(id.tgid())?.is_some_and(|listed| listed.id == id) {
            // The word of no binary: numbers are given from 1 on. If it is gone already, it is over.
            let _ = self.processes()?.insert(&id.tgid(), &Process { id, word: 0 }, BPF_EXIST);
        }
        Ok(())
    }

    fn processes(&mut self) -> Result<HashMap<&mut MapData, u32, Process>, KernelError> {
        self.ebpf
            .map_mut(names::PROCESSES)
            .ok_or_else(|| missing(names::PROCESSES))?
            .try_into()
            .map_err(|error: MapError| KernelError::Load(error.to_string()))
    }
}

fn missing(map: &str) -> KernelError {
    KernelError::Load(format!("the eBPF object has no map {map}"))
}

/// A program of the object by name and type.
pub(super) fn program<'a, T>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut T, KernelError>
where
    &'a mut T: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    ebpf.program_mut(name)
        .ok_or_else(|| KernelError::Load(format!("the eBPF object has no program {name}")))?
        .try_into()
        .map_err(|error: ProgramError| KernelError::Load(error.to_string()))
}

/// Loads the programs of the first method that the kernel takes.
fn choose(ebpf: &mut Ebpf, capability: &Capability, only: Option<Method>) -> Result<Method, KernelError> {
    let mut refused = Vec::new();
    for method in Method::ALL.into_iter().filter(|method| only.is_none_or(|only| only == *method)) {
        if method == Method::UprobeMulti && capability.uprobe_multi != Ok(true) {
            refused.push(format!("{}: this kernel has no uprobe_multi links", method.name()));
            continue;
        }
        let loaded = programs_of(method).iter().try_for_each(|name| {
            let program: &mut UProbe = program(ebpf, name)?;
            program.load().map_err(|error| program_error(&error))
        });
        match loaded {
            Ok(()) => return Ok(method),
            Err(error) => {
                debug!("{} cannot be used: {error}", method.name());
                refused.push(format!("{}: {error}", method.name()));
            }
        }
    }
    Err(KernelError::Load(refused.join("; ")))
}

/// The programs that a method needs.
pub(super) fn programs_of(method: Method) -> &'static [&'static str] {
    match method {
        Method::UprobeMulti => &[names::SCHEDULER_MULTI],
        Method::PerfCookie => &[names::SCHEDULER_SINGLE],
        Method::PerfPlain => &[names::BIRTH_PLAIN, names::PARK_PLAIN, names::EXIT_PLAIN],
    }
}

fn load_error(error: &EbpfError) -> KernelError {
    KernelError::Load(with_sources(error))
}

fn program_error(error: &ProgramError) -> KernelError {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let tail: Vec<&str> = log.lines().rev().filter(|line| !line.trim().is_empty()).take(4).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            KernelError::Load(format!("{io_error}; the verifier says: {}", tail.join(" / ")))
        }
        other => KernelError::Load(with_sources(other)),
    }
}

/// An error with the errors behind it, in one line.
pub(super) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}

/// Before kernel 5.11 maps count against RLIMIT_MEMLOCK, 64 KiB by default even for root; aya leaves it alone. What may be
/// wrong where it cannot be raised.
pub(super) fn raise_memlock() -> Result<(), String> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None }).or_else(|error| {
        let Some(bytes) = getrlimit(Resource::Memlock).current else { return Ok(()) };
        debug!("RLIMIT_MEMLOCK stays at {bytes} bytes: {error}");
        Err(format!(
            "before kernel 5.11 its memory counts as locked, and RLIMIT_MEMLOCK is {bytes} bytes and cannot be raised \
             without CAP_SYS_RESOURCE"
        ))
    })
}

#[cfg(test)]
mod tests {
    use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

    use super::*;

    /// From 64 bytes on, rounded up to 16, a program has a stack in memory of its own, which makes its reads dearer.
    const MOST_STACK: i32 = 48;

    /// The deepest byte of the stack that a function's own instructions name.
    fn stack_of(code: &[u8]) -> i32 {
        const FRAME: u8 = 10;
        const ADD_IMMEDIATE: u8 = 0x07;
        let deepest = code.as_chunks::<8>().0.iter().map(|instruction| {
            let [code, registers, low, high, a, b, c, d] = *instruction;
            let (offset, immediate) = (i16::from_le_bytes([low, high]), i32::from_le_bytes([a, b, c, d]));
            match code & 0b111 {
                // Loads from the frame, stores to it.
                1 if registers >> 4 == FRAME => i32::from(offset),
                2 | 3 if registers & 0xf == FRAME => i32::from(offset),
                // An address in it: nothing else has anything subtracted.
                _ if code == ADD_IMMEDIATE => immediate,
                _ => 0,
            }
        });
        -deepest.min().unwrap_or(0)
    }

    #[test]
    fn what_every_event_runs_through_needs_little_stack() {
        let object = object::File::parse(OBJECT).unwrap();
        for name in [names::SCHEDULER_MULTI, names::SCHEDULER_SINGLE] {
            let symbol = object.symbols().find(|symbol| symbol.name() == Ok(name)).unwrap();
            let section = object.section_by_index(symbol.section_index().unwrap()).unwrap();
            let start = symbol.address() as usize;
            let code = &section.data().unwrap()[start..start + symbol.size() as usize];
            let stack = stack_of(code);
            assert!((32..=MOST_STACK).contains(&stack), "{name} takes {stack} bytes of stack");
        }
    }
}
