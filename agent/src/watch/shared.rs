//! State shared by the parts of the watch: the two sides they stand between, the processes, the probes and the ledger.
//!
//! The parts are written against [`Host`] and the kernel's traits, so that they are tested without root and without Go.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, mpsc::TryRecvError},
    time::Instant,
};

use parkranger_common::{counts::ProcessId, window::Window};

use super::{
    Found, ProbeSet, ProcessSnapshot, Target,
    census_thread::{Findings, Stocks},
    code::Code,
    probes::Probes,
    stacks::StackBytes,
    stories::Told,
    waiting::States,
};
use crate::{
    address::{Bias, RuntimeAddr},
    census::CensusError,
    host::{FileId, HostError, Identity, process::ThreadTime},
    kernel::{Attach, Count},
    ledger::{Ledger, Recording},
};

/// The host as the parts of the watch see it: clocks, /proc, the files of processes, their memory.
pub(super) trait Host {
    /// A census of one process under way.
    type Census: CensusInProgress;

    /// The time.
    fn now(&self) -> Instant;
    /// CPU time of all threads of a process, in ns; `None` where there is no such process.
    fn cpu_time_ns(&self, pid: u32) -> Option<u64>;
    /// The process that has this pid now.
    fn identity(&self, pid: u32) -> Option<Identity>;
    /// Time that each thread of a process has run, in ns.
    fn thread_times(&self, pid: u32) -> Vec<(u32, u64)>;
    /// Time that one thread has run, and its state.
    fn thread_time(&self, pid: u32, tid: u32) -> Option<ThreadTime>;
    /// The probes of a binary that can be watched.
    fn probe_set(&self, file: FileId) -> Option<Arc<ProbeSet>>;
    /// A process that was found, ready to be watched: where its binary was loaded is asked of it.
    ///
    /// # Errors
    ///
    /// A [`HostError`] where it does not say.
    fn watched(&self, identity: Identity, found: &Found) -> Result<Watched, HostError>;
    /// Begins to read the goroutines of a process, and whether its code has the breakpoints of what is recorded. `None`
    /// where there can be no more threads.
    fn begin_census(&self, process: &Watched, recording: Recording) -> Option<Self::Census>;
    /// This binary has probes from now on: what else is needed of it may be worked out.
    fn probes_attached(&self, file: FileId);
    /// Memory has agreed with the layout of this binary.
    fn set_proved(&self, file: FileId);
    /// Tells if a target means a process; `None` where it has ended.
    fn is_wanted(&self, target: &Target, pid: u32, exe: &Path) -> Option<bool>;
}

/// The other end of the thread that reads a process's memory.
pub(super) trait CensusInProgress {
    /// The goroutines, once they are there.
    fn census(&self) -> Result<Result<Findings, CensusError>, TryRecvError>;
    /// Asks for the goid stocks of processors. `false` where nobody is left to ask.
    fn ask(&self, processors: Vec<RuntimeAddr>) -> bool;
    /// The stocks asked for, once they are there. What could not be read is missing.
    fn stocks(&self) -> Result<Stocks, TryRecvError>;
}

/// One process under watch.
pub(crate) struct Watched {
    pub(crate) identity: Identity,
    pub(crate) exe: PathBuf,
    /// The shared object with the runtime, if that is not the executable.
    pub(crate) library: Option<String>,
    pub(crate) file: FileId,
    pub(crate) bias: Bias,
    /// Offsets of its runtime's stock of goids, for audits. The ids in it are not set.
    pub(super) goids: Window,
    /// Time at which it was found to have ended, or to have become another program; its counts are final.
    pub(crate) ended: Option<Instant>,
    /// The last snapshot of a process that ended: its counts are neither in the kernel nor in the ledger any more.
    pub(super) last: Option<Arc<ProcessSnapshot>>,
    /// Memory of its goroutines' stacks at the last census.
    pub(super) stacks: Option<StackBytes>,
    /// State of its goroutines at the last census.
    pub(super) states: Option<States>,
    /// True where its memory cannot be read as it should: no baseline, no audits.
    pub(crate) no_census: bool,
    /// For how long its story was told; `None` where it never was.
    pub(super) story: Option<Told>,
    /// State of the breakpoints in its code.
    pub(super) code: Code,
    /// Probes that were found without a breakpoint in it.
    pub(super) breakpoints_missing: u64,
}

impl Watched {
    pub(super) fn new(identity: Identity, found: &Found, bias: Bias, goids: Window) -> Self {
        Self {
            identity,
            exe: found.exe.clone(),
            library: found.library_path().map(str::to_owned),
            file: found.file,
            bias,
            goids,
            ended: None,
            last: None,
            stacks: None,
            states: None,
            no_census: false,
            story: None,
            code: Code::default(),
            breakpoints_missing: 0,
        }
    }

    /// True where it has ended, or become another program.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// True where its events are not counted, for its code has no breakpoints.
    pub(crate) fn is_unprobed(&self) -> bool {
        self.code == Code::Unprobed
    }

    pub(super) fn end(&mut self, now: Instant) {
        let now = *self.ended.get_or_insert(now);
        self.stacks = None;
        self.states = None;
        if let Some(story) = &mut self.story {
            story.end(now);
        }
    }
}

/// The two sides, and what the watch knows of what is between them.
pub(super) struct Shared<K: Attach, H> {
    pub(super) kernel: K,
    pub(super) host: H,
    pub(super) processes: BTreeMap<ProcessId, Watched>,
    /// By the binary they are in.
    pub(super) probes: BTreeMap<FileId, Probes<K>>,
    pub(super) ledger: Ledger,
    /// Breakpoints on their way out that were put in to tell files apart.
    pub(super) marks: Vec<K::Removal>,
    /// Callers are told apart, where births and exits are all counted.
    pub(super) tells_callers: bool,
}

impl<K: Attach + Count, H: Host> Shared<K, H> {
    pub(super) fn new(kernel: K, host: H) -> Self {
        let (processes, probes, ledger) = (BTreeMap::new(), BTreeMap::new(), Ledger::default());
        Self { kernel, host, processes, probes, ledger, marks: Vec::new(), tells_callers: false }
    }

    /// The processes of a binary that have not ended, and whose events are counted where its probes are attached.
    pub(super) fn living(&self, binary: FileId) -> impl Iterator<Item = ProcessId> {
        let counts = |process: &Watched| !process.has_ended() && !process.is_unprobed();
        let of_binary = self.processes.iter().filter(move |(_, process)| process.file == binary && counts(process));
        of_binary.map(|(id, _)| *id)
    }

    /// True once every process that can have a baseline has one.
    pub(super) fn have_baselines(&self) -> bool {
        let has_one = |(id, process): (&ProcessId, &Watched)| {
            process.has_ended() || process.no_census || self.ledger.has_baseline(*id)
        };
        self.processes.iter().all(has_one)
    }

    /// CPU time of each of a binary's living processes, in ns.
    pub(super) fn used_by(&self, binary: FileId) -> Vec<(ProcessId, u64)> {
        self.cpu_times(self.living(binary))
    }

    /// CPU time of each of these processes, in ns.
    pub(super) fn cpu_times(&self, ids: impl Iterator<Item = ProcessId>) -> Vec<(ProcessId, u64)> {
        ids.filter_map(|id| Some((id, self.host.cpu_time_ns(id.tgid())?))).collect()
    }
}
