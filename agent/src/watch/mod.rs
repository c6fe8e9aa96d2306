//! The watch: keeps the processes of the host, the kernel's probes and the ledger in step, and takes snapshots.
//!
//! - [`target`]: which processes are meant,
//! - `proof`: whether memory agrees with what is supposed of a runtime,
//! - [`runtimes`]: which file of a process holds its Go runtime,
//! - [`binaries`]: what is known of each binary, once, for all its processes,
//! - `window`, `worker`: the baseline of each process, and its audits,
//! - [`snapshot`]: the ledger with names instead of addresses, for views and exports.
//!
//! A process of a watched binary that starts later is counted from its first goroutine on: the kernel side adopts it by
//! itself and tells. A binary nobody has seen yet is found by the next scan.

pub mod binaries;
mod proof;
pub mod runtimes;
pub mod snapshot;
pub mod stacks;
pub mod target;
mod window;
mod worker;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use parkranger_common::{
    counts::{Process, ProcessId},
    event::{Kind, Record},
};
use tracing::{debug, info};

pub use binaries::{Binaries, Refusal, Watchable};
pub use runtimes::Found;
pub use snapshot::Snapshot;
pub use target::Target;

use crate::{
    address::{Bias, RuntimeAddr},
    host::{FileId, HostError, Identity, Proc},
    kernel::{Attachment, Capability, Kernel, KernelError, Method, Sizes, attach::Probe},
    ledger::{Ledger, ProcessLedger},
    symbols::SymbolSource,
};
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
    /// Where names come from.
    pub symbols: SymbolSource,
    /// Sizes of the kernel's maps.
    pub sizes: Sizes,
    /// Time between two audits of a process.
    pub audit_every: Duration,
    /// How probes are attached; `None` for the best way this kernel has.
    pub attach: Option<Method>,
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
    /// It has ended, or become another program; its counts are final.
    pub(crate) ended: bool,
    /// Its memory cannot be read as it should: no baseline, no audits.
    pub(crate) no_census: bool,
}

impl Watched {
    fn new(identity: Identity, found: &Found, bias: Bias) -> Self {
        let library = found.library_path().map(str::to_owned);
        Self { identity, exe: found.exe.clone(), library, file: found.file, bias, ended: false, no_census: false }
    }
}

/// The running watch.
pub struct Watch {
    proc: Proc,
    config: Config,
    kernel: Kernel,
    binaries: Binaries,
    attached: BTreeMap<FileId, Attachment>,
    processes: BTreeMap<ProcessId, Watched>,
    ledger: Ledger,
    /// First sights of sites, kept until the process is dropped.
    creation_stacks: BTreeMap<(ProcessId, RuntimeAddr), Vec<RuntimeAddr>>,
    /// Processes looked at and refused, so that a scan does not look again.
    refused: BTreeMap<Identity, Refused>,
    /// Ended processes that the last snapshot showed.
    shown_ended: HashSet<ProcessId>,
    windows: Windows,
}

/// A Go process that cannot be watched.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Its executable.
    pub exe: PathBuf,
    /// Why.
    pub why: Refusal,
    /// A program may load a Go runtime later: scans to let pass before the next look, and how many were let pass.
    wait: (u32, u32),
}

impl Refused {
    /// Whether to look again: what has no Go can come to have it, and what is not proved can be proved later.
    fn is_due(&mut self) -> bool {
        let (passed, wait) = &mut self.wait;
        *passed += 1;
        matches!(self.why, Refusal::NotGo | Refusal::Unproved(_)) && *passed > *wait
    }
}

/// How often to call [`Watch::scan`].
pub const SCAN_EVERY: Duration = Duration::from_secs(2);

/// Scans between two looks at a process without Go, at most: a library loaded late is found within two minutes.
const LONGEST_WAIT: u32 = 64;

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
        let kernel = Kernel::load(&capability, config.sizes, config.attach)?;
        let binaries = Binaries::new(config.symbols);
        let mut watch = Self {
            proc,
            config,
            kernel,
            binaries,
            attached: BTreeMap::new(),
            processes: BTreeMap::new(),
            ledger: Ledger::default(),
            creation_stacks: BTreeMap::new(),
            refused: BTreeMap::new(),
            shown_ended: HashSet::new(),
            windows: Windows::default(),
        };
        watch.scan()?;
        if let Target::Pids(pids) = watch.config.target.clone() {
            for pid in pids {
                watch.require(pid)?;
            }
            // Who names a process waits for it: its first line is to have all goroutines.
            watch.take_baselines(window::PATIENCE)?;
        } else if watch.processes.is_empty() && !watch.config.patient {
            return Err(WatchError::Nothing(watch.nothing_found()));
        }
        Ok(watch)
    }

    /// A process named by pid is watched, or the watch fails with the reason.
    fn require(&self, pid: u32) -> Result<(), WatchError> {
        if self.processes.values().any(|process| process.identity.pid == pid) {
            return Ok(());
        }
        let identity = self.proc.identity(pid)?;
        match self.refused.get(&identity) {
            Some(refused) => {
                Err(WatchError::Refused { pid, exe: refused.exe.display().to_string(), why: refused.why.clone() })
            }
            // It was there, and could not be looked at, and is there: a race with exec. Say what there is to say.
            None => Err(WatchError::Host(HostError::NoExecutable { pid })),
        }
    }

    fn nothing_found(&self) -> String {
        let go: Vec<&Refused> =
            self.refused.values().filter(|refused| !matches!(refused.why, Refusal::NotGo)).collect();
        match go.first() {
            Some(first) => format!(
                "{} Go process{} found, none of them can be watched; the first, {}: {}",
                go.len(),
                if go.len() == 1 { "" } else { "es" },
                first.exe.display(),
                first.why
            ),
            None => format!("no Go process {} was found", self.config.target.describe()),
        }
    }

    /// Looks for processes of the target that are not watched yet, and attaches to their binaries.
    ///
    /// # Errors
    ///
    /// [`WatchError::Host`] where /proc itself cannot be read. A single process that cannot be looked at is passed over.
    pub fn scan(&mut self) -> Result<(), WatchError> {
        let pids = match &self.config.target {
            Target::Pids(pids) => pids.clone(),
            _ => self.proc.pids()?,
        };
        let mut known: BTreeSet<Identity> =
            self.processes.values().filter(|process| !process.ended).map(|process| process.identity).collect();
        for (identity, refused) in &mut self.refused {
            if !refused.is_due() {
                known.insert(*identity);
            }
        }
        let mut fresh: BTreeMap<FileId, Vec<(Identity, Found)>> = BTreeMap::new();
        let mut present = BTreeSet::new();
        for pid in pids {
            let Ok(identity) = self.proc.identity(pid) else { continue };
            present.insert(identity);
            if known.contains(&identity) {
                continue;
            }
            match self.look_at(identity) {
                Ok(Some(found)) => fresh.entry(found.file).or_default().push((identity, found)),
                Ok(None) => {}
                Err(error) => debug!("process {pid} passed over: {error}"),
            }
        }
        self.refused.retain(|identity, _| present.contains(identity));
        for (file, processes) in fresh {
            self.begin(file, &processes)?;
        }
        Ok(())
    }

    /// Finds and understands a process's Go runtime. `None` where it is not of the target or cannot be watched.
    fn look_at(&mut self, identity: Identity) -> Result<Option<Found>, HostError> {
        let exe = self.proc.executable_path(identity.pid)?;
        if !self.config.target.wants(identity.pid, &exe) {
            return Ok(None);
        }
        match runtimes::find(&self.proc, &mut self.binaries, identity.pid, exe.clone())? {
            Ok(found) => {
                self.refused.remove(&identity);
                Ok(Some(found))
            }
            Err(why) => {
                if !matches!(why, Refusal::NotGo) {
                    info!("process {} ({}) cannot be watched: {why}", identity.pid, exe.display());
                }
                let waited = self.refused.get(&identity).map_or(0, |refused| refused.wait.1);
                let wait = (0, (waited * 2).clamp(1, LONGEST_WAIT));
                self.refused.insert(identity, Refused { exe, why, wait });
                Ok(None)
            }
        }
    }

    /// Lists processes of one binary and then, for the first of them, attaches its probes: in this order nothing of a
    /// listed process is missed, and the kernel adopts whoever comes later.
    fn begin(&mut self, file: FileId, processes: &[(Identity, Found)]) -> Result<(), WatchError> {
        let Some(binary) = self.binaries.get(file) else { return Ok(()) };
        for (identity, found) in processes {
            let bias = match found.bias(&self.proc, identity.pid, &binary) {
                Ok(bias) => bias,
                Err(error) => {
                    debug!("process {} passed over: {error}", identity.pid);
                    continue;
                }
            };
            let id =
                self.kernel.list(Process { id: ProcessId::new(identity.pid, monotonic_ns()), word: binary.word.0 })?;
            self.processes.insert(id, Watched::new(*identity, found, bias));
        }
        if self.attached.contains_key(&file) {
            return Ok(());
        }
        let adopt = !matches!(self.config.target, Target::Pids(_));
        let probes: Vec<Probe> =
            binary.probes.iter().map(|probe| Probe { word: probe.word.adopt(adopt), ..*probe }).collect();
        let name = processes.first().map_or_else(String::new, |(_, found)| match found.library_path() {
            Some(library) => library.to_owned(),
            None => found.exe.display().to_string(),
        });
        match self.kernel.attach(&binary.file, &name, &probes) {
            Ok(attachment) => {
                info!("{} probes attached to {name}", probes.len());
                self.attached.insert(file, attachment);
                Ok(())
            }
            Err(error) => {
                let all: Vec<ProcessId> =
                    self.processes.iter().filter(|(_, process)| process.file == file).map(|(id, _)| *id).collect();
                for id in all {
                    self.kernel.unwatch(id)?;
                    if let Some(process) = self.processes.remove(&id) {
                        let why = Refusal::Attach(error.to_string());
                        self.refused.insert(process.identity, Refused { exe: process.exe, why, wait: (0, 1) });
                    }
                }
                Ok(())
            }
        }
    }

    /// Takes in what the kernel side has to tell: new processes, exec, exit, first sights. To be called often.
    ///
    /// # Errors
    ///
    /// [`WatchError::Kernel`].
    pub fn drain(&mut self) -> Result<(), WatchError> {
        let (records, lives) = self.kernel.records()?;
        for record in records {
            self.take(&record)?;
        }
        self.take_lives(lives);
        self.step_window()?;
        self.kernel.flush_log();
        Ok(())
    }

    fn take(&mut self, record: &Record) -> Result<(), WatchError> {
        let id = record.site.process;
        if record.kind == Kind::ProcessSeen as u32 {
            self.adopted(id)?;
        } else if record.kind == Kind::ProcessExec as u32 {
            debug!("process {} became another program", id.tgid());
            if let Some(process) = self.processes.get_mut(&id) {
                process.ended = true;
            }
        } else if record.kind == Kind::SiteSeen as u32 {
            let stack = record.stack.iter().take(record.depth as usize).map(|address| RuntimeAddr(*address)).collect();
            self.creation_stacks.entry((id, RuntimeAddr(record.site.gopc))).or_insert(stack);
        }
        // An exit is looked up in /proc with all others, by `check_on_processes`: threads may outlive the first one.
        Ok(())
    }

    /// The kernel side counts a process that is new to us.
    fn adopted(&mut self, id: ProcessId) -> Result<(), WatchError> {
        if self.processes.contains_key(&id) {
            return Ok(());
        }
        let looked = self.proc.identity(id.tgid()).and_then(|identity| Ok((identity, self.look_at(identity)?)));
        match looked {
            Ok((identity, Some(found))) => {
                let Some(binary) = self.binaries.get(found.file) else { return Ok(()) };
                if let Ok(bias) = found.bias(&self.proc, id.tgid(), &binary) {
                    self.processes.insert(id, Watched::new(identity, &found, bias));
                }
            }
            Ok((_, None)) => self.kernel.unwatch(id)?,
            // It came and went before anyone could look.
            Err(error) => {
                debug!("process {} is gone already: {error}", id.tgid());
                self.kernel.unwatch(id)?;
                self.kernel.remove_counters(&[id])?;
            }
        }
        Ok(())
    }

    /// Marks processes that ended. Their counters stay until they were shown.
    fn check_on_processes(&mut self) -> Result<(), WatchError> {
        let mut ended = Vec::new();
        for (id, process) in &mut self.processes {
            if !process.ended && self.proc.identity(process.identity.pid).ok() != Some(process.identity) {
                process.ended = true;
                ended.push(*id);
            }
        }
        for id in ended {
            self.kernel.unwatch(id)?;
        }
        Ok(())
    }

    /// Whether every process the user named has ended.
    #[must_use]
    pub fn all_ended(&self) -> bool {
        matches!(self.config.target, Target::Pids(_)) && self.processes.values().all(|process| process.ended)
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
        self.drop_shown()?;
        Ok(snapshot)
    }

    /// Processes that ended are shown once more with their final counts, those the user named for good.
    fn drop_shown(&mut self) -> Result<(), WatchError> {
        if matches!(self.config.target, Target::Pids(_)) {
            return Ok(());
        }
        let gone: Vec<ProcessId> = self.shown_ended.drain().collect();
        self.kernel.remove_counters(&gone)?;
        for id in &gone {
            self.processes.remove(id);
            self.ledger.forget(*id);
        }
        self.creation_stacks.retain(|(id, _), _| !gone.contains(id));
        self.shown_ended = self.processes.iter().filter(|(_, process)| process.ended).map(|(id, _)| *id).collect();
        Ok(())
    }

    /// The processes under watch.
    pub(crate) fn processes(&self) -> impl Iterator<Item = (ProcessId, &Watched, Arc<Watchable>)> {
        self.processes.iter().filter_map(|(id, process)| Some((*id, process, self.binaries.get(process.file)?)))
    }

    pub(crate) fn ledger_of(&self, id: ProcessId) -> ProcessLedger {
        self.ledger.process(id)
    }

    pub(crate) fn creation_stack(&self, id: ProcessId, gopc: RuntimeAddr) -> &[RuntimeAddr] {
        self.creation_stacks.get(&(id, gopc)).map_or(&[], Vec::as_slice)
    }

    /// Go processes of the target that cannot be watched.
    pub fn refused(&self) -> impl Iterator<Item = (Identity, &Refused)> {
        self.refused
            .iter()
            .filter(|(_, refused)| !matches!(refused.why, Refusal::NotGo))
            .map(|(identity, refused)| (*identity, refused))
    }
}

impl Drop for Watch {
    /// Takes all probes off before the programs go, so that no process is left with one.
    fn drop(&mut self) {
        for (_, attachment) in std::mem::take(&mut self.attached) {
            self.kernel.detach(attachment);
        }
    }
}

fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
