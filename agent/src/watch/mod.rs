//! The watch: keeps the processes of the host, the kernel's probes and the ledger in step, and takes snapshots.
//!
//! Each part owns what it changes, and is written against the traits of `shared` and of the kernel stage, so that it is
//! tested without root and without Go:
//!
//! | part | does |
//! |---|---|
//! | [`finding`] | looks at processes: who they are, and if they can be watched |
//! | `adoption` | takes them under watch: those there are, and every program begun afterwards |
//! | `choosing` | leaves out those that are not meant, also when the choice changes |
//! | `same_file` | finds the names of one binary that are one file to the kernel |
//! | `probes` | what is attached to one binary |
//! | `code` | checks that probes can fire in a process |
//! | `fidelity`, `sampling` | which probes the budget allows, and the slices of time in which events are sampled |
//! | `callers` | births and exits by who called the function with the `go` statement |
//! | [`stories`] | waits and lifetimes, for as long as the user asks for them |
//! | `audits`, `census_thread` | the baseline of each process, and later checks of it |
//! | `totals` | reads how many goroutines there are by the runtimes' own counts |
//! | `ending` | the last counts of processes that ended, kept for a while |
//! | `snapshot` | the ledger with names instead of addresses, for views and exports |
//!
//! A process of a watched binary that starts later is counted from its first goroutine on: the kernel side adopts it by
//! itself and tells. Of any other program that begins the kernel side tells too.

mod adoption;
mod audits;
mod callers;
mod census_thread;
mod choosing;
mod code;
mod ending;
mod fidelity;
pub mod finding;
mod probes;
mod same_file;
mod sampling;
mod shared;
mod snapshot;
pub mod stacks;
pub mod stories;
#[cfg(test)]
mod tests;
mod totals;
mod waiting;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    panic::resume_unwind,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use parkranger_common::{
    counts::ProcessId,
    record::{ProcessExec, ProcessRecord, ProgramBegun, SiteSeen},
};
use tracing::{debug, info, warn};

pub use finding::Refused;
pub use stories::Pinned;

use crate::{
    address::RuntimeAddr,
    go_binary::GoBinaries,
    governor::{Budget, Fidelity, Governor},
    host::{HostError, Identity, Proc, monotonic_ns},
    kernel::{
        Capability, Kernel, KernelError, Method, Records, Sizes,
        calibrate::{Calibration, OwnProbes},
    },
    printable,
    program::{Binaries, Found, ProbeSet, Refusal, Target, Watchable},
    snapshot::{ByBinary, ProcessSnapshot, Snapshot},
};
use audits::Auditor;
use callers::ByCaller;
use census_thread::CensusThread;
use choosing::Muted;
use fidelity::FidelityControl;
use finding::Finder;
use shared::{Host as _, Shared, Watched};
use snapshot::{Sources, has_lived_short};
use totals::{Request, Totals};

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

/// Configuration of the watch.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which processes.
    pub target: Target,
    /// Knowledge of binaries, shared with whoever else asks.
    pub go_binaries: Arc<GoBinaries>,
    /// Sizes of the kernel's maps.
    pub sizes: Sizes,
    /// Time between two audits of a process.
    pub audit_every: Duration,
    /// Way to attach probes; `None` for the best way this kernel has.
    pub attach: Option<Method>,
    /// Budget of each process; `None` for no limit.
    pub budget: Option<Budget>,
    /// Fidelity at first, and for good where that is less than everything.
    pub fidelity: Fidelity,
    /// Time that the last counts of a process that ended are kept.
    pub keep_ended: Duration,
    /// No process to watch is no error: there will be some.
    pub patient: bool,
}

/// Creation stacks of sites, kept until the process is dropped.
type CreationStacks = BTreeMap<(ProcessId, RuntimeAddr), Vec<RuntimeAddr>>;

/// The running watch.
pub struct Watch {
    config: Config,
    shared: Shared<Kernel, Finder>,
    muted: Muted,
    auditor: Auditor<CensusThread>,
    fidelity: FidelityControl,
    calibration: Option<Calibration>,
    creation_stacks: CreationStacks,
    /// Counts by caller, as of the last snapshot.
    by_caller: HashMap<ProcessId, ByCaller>,
    totals: Totals<Request>,
    /// Sums over all processes of each executable.
    sums: ByBinary,
}

/// Time between two calls of [`Watch::scan`]. What begins meanwhile the kernel tells.
pub const SCAN_EVERY: Duration = Duration::from_secs(10);
/// Time between two drains while an audit is open, and otherwise. The ring buffer is never waited on: waking the agent
/// would cost the target more than everything else together.
const STEP: Duration = Duration::from_millis(2);
const DRAIN: Duration = Duration::from_millis(40);
const SHORTEST_DRAIN: Duration = Duration::from_millis(1);
/// The first audits are waited for, with so much time between two steps, and no longer than that.
const STEP_OF_START: Duration = Duration::from_micros(500);
const PATIENCE: Duration = Duration::from_millis(1500);

impl Watch {
    /// Loads the programs, finds the target's processes and attaches.
    ///
    /// # Errors
    ///
    /// Every [`WatchError`]. A process named by pid must be watchable; of others the watchable ones are taken.
    pub fn start(proc: Proc, config: Config) -> Result<Self, WatchError> {
        let capability = Capability::ask(proc.root());
        capability.require()?;
        if !proc.is_initial_pid_namespace() {
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
        let mut watch = Self {
            shared: Shared::new(kernel, finder),
            muted: Muted::default(),
            auditor: Auditor::new(config.audit_every),
            fidelity: FidelityControl::new(governor, Instant::now()),
            calibration: None,
            creation_stacks: CreationStacks::new(),
            by_caller: HashMap::new(),
            totals: Totals::new(move || totals::from_memory(own_proc.clone())),
            sums: ByBinary::default(),
            config,
        };
        watch.shared.tells_callers = watch.config.sizes.callers > 0;
        watch.shared.begin_all(found, &mut watch.muted, &mut watch.fidelity)?;
        if let Target::Pids(pids) = watch.shared.host.target.clone() {
            for pid in pids {
                watch.require(pid)?;
            }
            // Who names a process waits for it: its first line is to have all goroutines.
            watch.take_baselines(PATIENCE)?;
        } else {
            // Programs that began before the kernel side told of them.
            watch.scan()?;
            if watch.shared.processes.is_empty() && !watch.config.patient {
                return Err(WatchError::Nothing(watch.shared.host.nothing_found()));
            }
        }
        watch.calibrate(own_probes);
        Ok(watch)
    }

    /// Begins to measure what a hit costs. Where that is not possible a usual cost is supposed.
    fn calibrate(&mut self, probes: Result<OwnProbes, KernelError>) {
        match probes.and_then(OwnProbes::measure) {
            Ok(calibration) => self.calibration = Some(calibration),
            Err(why) => warn!("what counting costs is not measured but supposed: {why}"),
        }
    }

    /// A process named by pid is watched, or the watch fails with the reason.
    fn require(&self, pid: u32) -> Result<(), WatchError> {
        if self.shared.processes.values().any(|process| process.identity.pid == pid) {
            return Ok(());
        }
        let identity = self.shared.host.proc.identity(pid)?;
        match self.shared.host.refused.get(&identity) {
            Some(refused) => {
                Err(WatchError::Refused { pid, exe: printable::path(&refused.exe), why: refused.why.clone() })
            }
            // It was there, and could not be looked at, and is there: a race with exec. Say what there is to say.
            None => Err(WatchError::Host(HostError::NoExecutable { pid })),
        }
    }

    /// Takes audits until every process has its baseline, but no longer than `limit`.
    fn take_baselines(&mut self, limit: Duration) -> Result<(), WatchError> {
        let begin = Instant::now();
        loop {
            self.drain()?;
            if self.shared.have_baselines() || begin.elapsed() >= limit {
                return Ok(());
            }
            thread::sleep(STEP_OF_START);
        }
    }

    /// Looks for processes of the target that are not watched yet, and attaches to their binaries.
    ///
    /// # Errors
    ///
    /// [`WatchError::Host`] where /proc itself cannot be read. A single process that cannot be looked at is passed over.
    pub fn scan(&mut self) -> Result<(), WatchError> {
        let watched = self.shared.processes.values().filter(|process| !process.has_ended());
        let watched = watched.map(|process| process.identity).collect();
        let (fresh, present) = self.shared.host.look_around(watched)?;
        self.muted.keep(&present, &mut self.shared.kernel)?;
        self.shared.begin_all(fresh, &mut self.muted, &mut self.fidelity)
    }

    /// Watches what another target means: who is left out by it is dropped with all counts, who is meant now is looked at.
    ///
    /// # Errors
    ///
    /// As [`Watch::scan`].
    pub fn set_target(&mut self, target: Target) -> Result<(), WatchError> {
        if target == self.shared.host.target {
            return Ok(());
        }
        info!("watching every Go process {}", target.describe());
        self.shared.host.refused.clear();
        // Whoever is still not meant is muted again at its next event.
        self.muted.clear(&mut self.shared.kernel)?;
        let left_out = self.shared.leave_out(&target, &mut self.muted)?;
        self.shared.host.target = target;
        self.creation_stacks.retain(|(id, _), _| !left_out.contains(id));
        for id in left_out {
            self.fidelity.governor.forget(id);
        }
        self.scan()
    }

    /// True once every process that can have a baseline has one.
    #[must_use]
    pub fn has_baselines(&self) -> bool {
        self.shared.have_baselines()
    }

    /// Time to the next call of [`Watch::drain`].
    #[must_use]
    pub fn drain_every(&self) -> Duration {
        let usual = if self.auditor.is_open() { STEP } else { DRAIN };
        self.fidelity.next(&self.shared).saturating_duration_since(Instant::now()).clamp(SHORTEST_DRAIN, usual)
    }

    /// Takes in what the kernel side has to tell: new processes, execve, creation stacks. To be called often.
    ///
    /// # Errors
    ///
    /// [`WatchError::Kernel`].
    pub fn drain(&mut self) -> Result<(), WatchError> {
        let Records { processes, sites, lives } = self.shared.kernel.records();
        for record in processes {
            self.take(record)?;
        }
        for site in sites {
            self.keep_stack(&site);
        }
        self.auditor.take_lives(lives);
        self.auditor.step(&mut self.shared)?;
        self.take_calibration();
        let forgotten = self.fidelity.govern(&mut self.shared)?;
        self.audit_again(forgotten);
        self.shared.kernel.flush_log();
        Ok(())
    }

    fn audit_again(&mut self, forgotten: Vec<ProcessId>) {
        let now = Instant::now();
        for id in forgotten {
            self.auditor.again(id, now);
        }
    }

    fn take_calibration(&mut self) {
        if let Some(calibration) = &self.calibration
            && let Some(costs) = self.shared.kernel.calibrated(calibration)
        {
            self.calibration = None;
            match costs {
                Ok(costs) if self.shared.tells_callers => self.fidelity.calibrated(costs.with_callers()),
                Ok(costs) => self.fidelity.calibrated(costs),
                Err(why) => warn!("what counting costs is not measured but supposed: {why}"),
            }
        }
    }

    fn take(&mut self, record: ProcessRecord) -> Result<(), WatchError> {
        let Self { shared, muted, fidelity, .. } = self;
        match record {
            ProcessRecord::Seen(seen) => shared.adopted(&seen, muted),
            ProcessRecord::Exec(ProcessExec { process: id }) => {
                debug!("process {} became another program", id.tgid());
                if let Some(process) = shared.processes.get_mut(&id) {
                    process.end(Instant::now());
                }
                muted.became_another(id, &mut shared.kernel)?;
                shared.program_begun(id.tgid(), muted, fidelity)
            }
            // A pid that does not fit is no process.
            ProcessRecord::ProgramBegun(ProgramBegun { tgid }) => {
                u32::try_from(tgid).map_or(Ok(()), |pid| shared.program_begun(pid, muted, fidelity))
            }
        }
    }

    /// Keeps the first creation stack of a site. Each CPU sends one.
    fn keep_stack(&mut self, seen: &SiteSeen) {
        let id = seen.site.process;
        if self.shared.processes.contains_key(&id) {
            let depth = usize::try_from(seen.depth).unwrap_or(usize::MAX);
            let stack = seen.stack.iter().take(depth).map(|address| RuntimeAddr(*address)).collect();
            self.creation_stacks.entry((id, RuntimeAddr(seen.site.gopc))).or_insert(stack);
        }
    }

    /// True once every process the user named has ended.
    #[must_use]
    pub fn all_ended(&self) -> bool {
        matches!(self.shared.host.target, Target::Pids(_)) && self.shared.processes.values().all(Watched::has_ended)
    }

    /// The state of everything watched, now.
    ///
    /// # Errors
    ///
    /// [`WatchError::Kernel`].
    pub fn snapshot(&mut self) -> Result<Snapshot, WatchError> {
        self.drain()?;
        // Liveness before counters: a process found ended here has its last counts in them.
        self.shared.check_on_processes()?;
        self.note_short_lives();
        self.drain()?;
        self.read_totals();
        let counters = self.shared.kernel.counters()?;
        self.shared.ledger.apply(&counters);
        self.by_caller = self.by_caller(&counters.callers);
        let snapshot = self.take_snapshot(&counters.host_losses);
        self.close_ended()?;
        Ok(snapshot)
    }

    /// Asks the runtimes for their own counts of goroutines.
    fn read_totals(&mut self) {
        let living = self.shared.processes.iter().filter(|(_, process)| !process.has_ended());
        let request = |(id, process): (&ProcessId, &Watched)| {
            Some(Request::of(*id, process, self.shared.host.binaries.get(process.file)?))
        };
        let requests = living.filter_map(request).collect();
        for (id, totals) in self.totals.read(requests) {
            self.shared.ledger.take_totals(id, totals);
        }
    }

    /// Those that ended and are shown as such in the snapshot that is being taken.
    fn note_short_lives(&mut self) {
        for process in self.shared.processes.values() {
            if process.has_ended() && process.last.is_none() && has_lived_short(process.identity) {
                self.sums.lived_short(&printable::path(&process.exe));
            }
        }
    }

    /// True where processes come and go that nobody named.
    fn may_be_brief(&self) -> bool {
        matches!(self.shared.host.target, Target::Host(_))
    }

    fn close_ended(&mut self) -> Result<(), WatchError> {
        let may_be_brief = self.may_be_brief();
        let Self { shared, fidelity, creation_stacks, by_caller, sums, .. } = self;
        let ended = shared.close_ended(|shared, id, process| {
            let binary = shared.host.binaries.get(process.file)?;
            let sources = Sources {
                ledger: &shared.ledger,
                fidelity,
                creation_stacks,
                by_caller,
                now: shared.host.now(),
                proc: &shared.host.proc,
                sums: may_be_brief.then_some(&*sums),
            };
            Some(Arc::new(sources.process(id, process, &binary)))
        })?;
        for id in ended {
            fidelity.governor.forget(id);
            if let Some(last) = shared.processes.get(&id).and_then(|process| process.last.as_ref()) {
                sums.close(last);
            }
        }
        // Processes that the user named are kept for good.
        if matches!(shared.host.target, Target::Pids(_)) {
            return Ok(());
        }
        let gone = shared.drop_ended(self.config.keep_ended);
        creation_stacks.retain(|(id, _), _| !gone.contains(id));
        for file in shared.drop_unused() {
            fidelity.governor.forget_binary(file);
            fidelity.time_boxes.remove(file);
            shared.host.binaries.forget(file);
        }
        Ok(())
    }

    /// Budget of each process; `None` for no limit.
    #[must_use]
    pub fn budget(&self) -> Option<Budget> {
        self.fidelity.governor.budget()
    }

    /// Changes what may be spent on each process.
    pub fn set_budget(&mut self, budget: Option<Budget>) {
        self.fidelity.set_budget(budget, Instant::now());
    }

    /// Has the processes of `pid`'s binary recorded as the user says, or (`None`) as the budget allows. A story ends after
    /// `time`, and is followed by what was before.
    ///
    /// # Errors
    ///
    /// [`WatchError::Kernel`].
    pub fn pin(&mut self, pid: u32, fidelity: Option<Fidelity>, time: Duration) -> Result<Pinned, WatchError> {
        let (pinned, forgotten) = self.fidelity.pin(&mut self.shared, pid, fidelity, time)?;
        self.audit_again(forgotten);
        Ok(pinned)
    }

    /// Go processes of the target that cannot be watched.
    pub fn refused(&self) -> impl Iterator<Item = (Identity, &Refused)> {
        let refused = self.shared.host.refused.iter();
        refused
            .filter(|(_, refused)| !matches!(refused.why, Refusal::NotGo))
            .map(|(identity, refused)| (*identity, refused))
    }
}

impl Drop for Watch {
    /// Takes all probes off before the programs go, so that no process is left with one.
    fn drop(&mut self) {
        for probes in self.shared.probes.values_mut() {
            probes.take_off(&mut self.shared.kernel);
        }
        // Dropping waits until they are gone.
        self.shared.probes.clear();
    }
}
