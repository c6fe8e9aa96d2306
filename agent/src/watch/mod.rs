//! The watch: keeps the processes of the host, the kernel's probes and the ledger in step, and takes snapshots.
//!
//! - [`target`], [`rules`]: which processes are meant,
//! - `choosing`: what becomes of those that are not, and of the others when the choice changes,
//! - [`finding`]: who they are: those there are, and every program begun afterwards,
//! - `proof`: whether memory agrees with what is supposed of a runtime,
//! - [`runtimes`]: which file of a process holds its Go runtime,
//! - [`binaries`]: what is known of each binary, once, for all its processes,
//! - `same_file`: names of files that are one to the kernel,
//! - `code`: breakpoints in the code of processes,
//! - `probes`: what is attached to each binary,
//! - `governing`: which probes the budget allows, and windows in which events are sampled,
//! - [`story`]: waits and lifetimes, for as long as the user asks for them,
//! - `window`, `worker`: the baseline of each process, and its audits,
//! - `ending`: processes that ended: their last counts, kept for a while,
//! - [`snapshot`]: the ledger with names instead of addresses, for views and exports.
//!
//! A process of a watched binary that starts later is counted from its first goroutine on: the kernel side adopts it by
//! itself and tells. Of any other program that begins the kernel side tells too.

pub mod binaries;
mod choosing;
mod code;
mod ending;
pub mod finding;
mod governing;
mod probes;
mod proof;
pub mod rules;
pub mod runtimes;
mod same_file;
pub mod snapshot;
pub mod stacks;
pub mod story;
pub mod target;
mod window;
mod worker;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    panic::resume_unwind,
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use parkranger_common::{
    counts::ProcessId,
    record::{ProcessExec, ProcessRecord, ProgramBegun, SiteSeen},
};
use tracing::debug;

pub use binaries::{Binaries, Refusal, Watchable};
pub use finding::Refused;
pub use rules::{Pattern, Patterns, Rules, User};
pub use runtimes::Found;
pub use snapshot::{ProcessSnapshot, Snapshot};
pub use target::Target;

use crate::{
    address::{Bias, RuntimeAddr},
    governor::{Budget, Fidelity, Governor},
    host::{FileId, HostError, Identity, Proc, monotonic_ns},
    kernel::{Capability, Kernel, KernelError, Method, Records, Removal, Sizes},
    ledger::{Ledger, ProcessLedger},
    understood::Understanding,
};
use code::Code;
use finding::Finder;
use governing::Governing;
use probes::Probes;
use stacks::StackBytes;
pub use story::Pinned;
use story::{TimeBoxes, Told};
use window::Windows;

/// Why watching cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The kernel does not let us.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A process the user named cannot be looked at.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A process the user named cannot be watched.
    #[error("process {pid} ({exe}) cannot be watched: {why}")]
    Refused {
        /// The process.
        pid: u32,
        /// Its executable.
        exe: String,
        /// The reason, and where there is one the way out.
        why: Refusal,
    },
    /// The agent sees other pids than the kernel side does.
    #[error("parkranger runs in a pid namespace of its own: run it in the host's (in a container: hostPID)")]
    PidNamespace,
    /// No process of the host is meant by the target, or none of those that are can be watched.
    #[error("nothing to watch: {0}")]
    Nothing(String),
}

/// What to watch and how.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which processes.
    pub target: Target,
    /// What is known of binaries; others may ask there, too.
    pub understanding: Arc<Understanding>,
    /// Sizes of the kernel's maps.
    pub sizes: Sizes,
    /// Time between two audits of a process.
    pub audit_every: Duration,
    /// How probes are attached; `None` for the best way this kernel has.
    pub attach: Option<Method>,
    /// What watching may cost a process; `None` for whatever it does.
    pub budget: Option<Budget>,
    /// What is recorded at first, and for good where that is less than everything.
    pub fidelity: Fidelity,
    /// How long the last counts of a process that ended are kept.
    pub keep_ended: Duration,
    /// No process to watch is no error: there will be some.
    pub patient: bool,
}

/// One process under watch.
pub(crate) struct Watched {
    pub(crate) identity: Identity,
    pub(crate) exe: PathBuf,
    /// The shared object with the runtime, if that is not the executable.
    pub(crate) library: Option<String>,
    pub(crate) file: FileId,
    pub(crate) bias: Bias,
    /// When it was found to have ended, or to have become another program; its counts are final.
    pub(crate) ended: Option<Instant>,
    /// What snapshots show of it once it has ended and its last counts are taken: those are neither in the kernel nor in the
    /// ledger any more.
    last: Option<Arc<ProcessSnapshot>>,
    /// Memory of its goroutines' stacks, as the last census of a window found it.
    stacks: Option<StackBytes>,
    /// Its memory cannot be read as it should: no baseline, no audits.
    pub(crate) no_census: bool,
    /// For how long its story was told; `None` where it never was.
    story: Option<Told>,
    /// Whether probes can fire in it.
    code: Code,
    /// Probes that were found without a breakpoint in it.
    breakpoints_missing: u64,
}

impl Watched {
    fn new(identity: Identity, found: &Found, bias: Bias) -> Self {
        let library = found.library_path().map(str::to_owned);
        let exe = found.exe.clone();
        Self {
            identity,
            exe,
            library,
            file: found.file,
            bias,
            ended: None,
            last: None,
            stacks: None,
            no_census: false,
            story: None,
            code: Code::default(),
            breakpoints_missing: 0,
        }
    }

    /// Whether it has ended, or become another program.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// True where its events are not counted, for its code has no breakpoints.
    pub(crate) fn is_unprobed(&self) -> bool {
        self.code == Code::Unprobed
    }

    fn end(&mut self) {
        let now = *self.ended.get_or_insert_with(Instant::now);
        self.stacks = None;
        if let Some(story) = &mut self.story {
            story.end(now);
        }
    }
}

/// The running watch.
pub struct Watch {
    config: Config,
    kernel: Kernel,
    finder: Finder,
    probes: BTreeMap<FileId, Probes>,
    processes: BTreeMap<ProcessId, Watched>,
    ledger: Ledger,
    /// First sights of sites, kept until the process is dropped.
    creation_stacks: BTreeMap<(ProcessId, RuntimeAddr), Vec<RuntimeAddr>>,
    /// Processes of watched binaries that are not meant: the kernel side passes over them.
    muted: BTreeMap<ProcessId, Identity>,
    windows: Windows,
    governing: Governing,
    time_boxes: TimeBoxes,
    /// Breakpoints on their way out that were put in to tell files apart.
    marks: Vec<Removal>,
}

/// How often to call [`Watch::scan`]. What begins meanwhile the kernel tells.
pub const SCAN_EVERY: Duration = Duration::from_secs(10);

/// The inode number of the initial pid namespace: PROC_PID_INIT_INO in the kernel's include/linux/proc_ns.h.
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

impl Watch {
    /// Loads the programs, finds the target's processes and attaches.
    ///
    /// # Errors
    ///
    /// Every [`WatchError`]. A process named by pid must be watchable; of others the watchable ones are taken.
    pub fn start(proc: Proc, config: Config) -> Result<Self, WatchError> {
        let capability = Capability::ask(proc.root());
        capability.require()?;
        let namespace = fs::read_link(proc.root().join("self/ns/pid"));
        if namespace.is_ok_and(|namespace| namespace.as_os_str() != INITIAL_PID_NAMESPACE) {
            return Err(WatchError::PidNamespace);
        }
        // Whoever is named must be there before anything is loaded.
        for pid in config.target.pids() {
            proc.identity(*pid)?;
        }
        let mut finder = Finder::new(proc, &config);
        // To understand a large binary takes as long as to load the programs, and the first probe of all as long again: a
        // machine without probes waits for a grace period of RCU then.
        let own_proc = finder.proc.clone();
        let load = || {
            let mut kernel = Kernel::load(&capability, config.sizes, config.attach)?;
            let own_probes = kernel.probe_itself(&own_proc, monotonic_ns());
            Ok::<_, KernelError>((kernel, own_probes))
        };
        let (loaded, found) = thread::scope(|scope| {
            let loaded = scope.spawn(load);
            let found = finder.look_around(BTreeSet::new());
            (loaded.join().unwrap_or_else(|panic| resume_unwind(panic)), found)
        });
        let ((kernel, own_probes), (found, _)) = (loaded?, found?);
        // Other probes than those of uprobe_multi come off slowly: not many times a minute.
        let may_sample = kernel.method() == Method::UprobeMulti;
        let governor = Governor::new(config.budget, config.fidelity, may_sample);
        let governing = Governing::new(governor);
        let mut watch = Self {
            config,
            kernel,
            finder,
            probes: BTreeMap::new(),
            processes: BTreeMap::new(),
            ledger: Ledger::default(),
            creation_stacks: BTreeMap::new(),
            muted: BTreeMap::new(),
            windows: Windows::default(),
            governing,
            time_boxes: TimeBoxes::new(),
            marks: Vec::new(),
        };
        watch.begin_all(found)?;
        if let Target::Pids(pids) = watch.finder.target.clone() {
            for pid in pids {
                watch.require(pid)?;
            }
            // Who names a process waits for it: its first line is to have all goroutines.
            watch.take_baselines(window::PATIENCE)?;
        } else {
            // Programs that began before the kernel side told of them.
            watch.scan()?;
            if watch.processes.is_empty() && !watch.config.patient {
                return Err(WatchError::Nothing(watch.finder.nothing_found()));
            }
        }
        watch.governing.calibrate(own_probes);
        Ok(watch)
    }

    /// Takes in what the kernel side has to tell: new processes, execve, creation stacks. To be called often.
    ///
    /// # Errors
    ///
    /// [`WatchError::Kernel`].
    pub fn drain(&mut self) -> Result<(), WatchError> {
        let Records { processes, sites, lives } = self.kernel.records();
        for record in processes {
            self.take(record)?;
        }
        for site in sites {
            self.keep_stack(&site);
        }
        self.take_lives(lives);
        self.step_window()?;
        self.govern()?;
        self.kernel.flush_log();
        Ok(())
    }

    fn take(&mut self, record: ProcessRecord) -> Result<(), WatchError> {
        match record {
            ProcessRecord::Seen(seen) => self.adopted(&seen),
            ProcessRecord::Exec(ProcessExec { process: id }) => {
                debug!("process {} became another program", id.tgid());
                if let Some(process) = self.processes.get_mut(&id) {
                    process.end();
                }
                self.muted_became_another(id)?;
                self.program_begun(id.tgid())
            }
            // A pid that does not fit is no process.
            ProcessRecord::ProgramBegun(ProgramBegun { tgid }) => {
                u32::try_from(tgid).map_or(Ok(()), |pid| self.program_begun(pid))
            }
        }
    }

    /// Keeps the first creation stack of a site. Each CPU sends one.
    fn keep_stack(&mut self, seen: &SiteSeen) {
        let id = seen.site.process;
        if self.processes.contains_key(&id) {
            let depth = usize::try_from(seen.depth).unwrap_or(usize::MAX);
            let stack = seen.stack.iter().take(depth).map(|address| RuntimeAddr(*address)).collect();
            self.creation_stacks.entry((id, RuntimeAddr(seen.site.gopc))).or_insert(stack);
        }
    }

    /// Whether every process the user named has ended.
    #[must_use]
    pub fn all_ended(&self) -> bool {
        matches!(self.finder.target, Target::Pids(_)) && self.processes.values().all(Watched::has_ended)
    }

    /// The state of everything watched, now.
    ///
    /// # Errors
    ///
    /// [`WatchError::Kernel`].
    pub fn snapshot(&mut self) -> Result<Snapshot, WatchError> {
        self.drain()?;
        // Liveness before counters: a process found ended here has its last counts in them.
        self.check_on_processes()?;
        self.drain()?;
        let counters = self.kernel.counters()?;
        self.ledger.apply(&counters);
        let snapshot = self.take_snapshot(&counters.host_losses);
        self.close_ended()?;
        self.drop_old()?;
        Ok(snapshot)
    }

    /// The processes under watch.
    pub(crate) fn processes(&self) -> impl Iterator<Item = (ProcessId, &Watched, Arc<Watchable>)> {
        self.processes.iter().filter_map(|(id, process)| Some((*id, process, self.finder.binaries.get(process.file)?)))
    }

    pub(crate) fn ledger_of(&self, id: ProcessId) -> ProcessLedger {
        self.ledger.process(id)
    }

    pub(crate) fn creation_stack(&self, id: ProcessId, gopc: RuntimeAddr) -> &[RuntimeAddr] {
        self.creation_stacks.get(&(id, gopc)).map_or(&[], Vec::as_slice)
    }

    /// Go processes of the target that cannot be watched.
    pub fn refused(&self) -> impl Iterator<Item = (Identity, &Refused)> {
        self.finder
            .refused
            .iter()
            .filter(|(_, refused)| !matches!(refused.why, Refusal::NotGo))
            .map(|(identity, refused)| (*identity, refused))
    }
}

impl Drop for Watch {
    /// Takes all probes off before the programs go, so that no process is left with one.
    fn drop(&mut self) {
        for probes in self.probes.values_mut() {
            probes.take_off(&mut self.kernel);
        }
        // Dropping waits until they are gone.
        self.probes.clear();
    }
}
