//! Finds Go processes of the target through /proc, and is the host that the parts of the watch see.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use parkranger_common::{counts::ProcessId, probe::ProbeWord, record::ProcessSeen, window::Window};
use tracing::{debug, info};

use super::{
    Binaries, Config, Found, ProbeSet, Refusal, Target, WatchError, Watchable,
    census_thread::CensusThread,
    code::probed,
    shared::{Host, Shared, Watched},
};
use crate::{
    address::{Bias, RuntimeAddr},
    host::{FileId, HostError, Identity, Proc, cpu_time_ns, monotonic_ns, process::ThreadTime, ticks_since_boot},
    kernel::{Attach, Count},
    ledger::Recording,
    printable,
    program::find::{self, Age},
    runtime::scheduler::GoidStock,
};

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
    /// Refused at the first look.
    pub(super) fn new(exe: PathBuf, why: Refusal) -> Self {
        Self { exe, why, wait: (0, 1) }
    }

    /// True where it is time to look again: what has no Go can come to have it, what is not proved can be proved later, and for what found
    /// no room there can be some.
    fn is_due(&mut self) -> bool {
        let (passed, wait) = &mut self.wait;
        *passed += 1;
        matches!(self.why, Refusal::NotGo | Refusal::Unproved(_) | Refusal::TooMany) && *passed > *wait
    }
}

/// Scans between two looks at a process without Go, at most: a library loaded late is found within two and a half minutes.
const LONGEST_WAIT: u32 = 16;
/// A page, at least: programs are moved by whole ones.
const PAGE: u64 = 4096;

/// Processes that can be watched, by their binary.
pub(super) type Fresh = BTreeMap<FileId, Vec<(Identity, Found)>>;

/// Finds Go processes of the target and understands their binaries. Needs nothing of the kernel side.
pub(super) struct Finder {
    pub(super) proc: Proc,
    pub(super) target: Target,
    pub(super) binaries: Binaries,
    /// Processes looked at and refused, so that a scan does not look again.
    pub(super) refused: BTreeMap<Identity, Refused>,
    /// Processes that could not be looked at, with the reason: of those that are there still.
    passed_over: BTreeMap<u32, String>,
}

impl Finder {
    pub(super) fn new(proc: Proc, config: &Config) -> Self {
        let binaries = Binaries::new(Arc::clone(&config.go_binaries));
        Self { proc, target: config.target.clone(), binaries, refused: BTreeMap::new(), passed_over: BTreeMap::new() }
    }

    /// Looks at every process of the target, except those in `known`; tells also who is there at all.
    ///
    /// # Errors
    ///
    /// An error only where /proc itself cannot be read. A single process that cannot be looked at is passed over.
    pub(super) fn look_around(
        &mut self,
        mut known: BTreeSet<Identity>,
    ) -> Result<(Fresh, BTreeSet<Identity>), HostError> {
        let pids = match &self.target {
            Target::Pids(pids) => pids.clone(),
            _ => self.proc.pids()?,
        };
        for (identity, refused) in &mut self.refused {
            if !refused.is_due() {
                known.insert(*identity);
            }
        }
        let mut fresh = Fresh::new();
        let mut present = BTreeSet::new();
        let mut passed_over = BTreeMap::new();
        for pid in pids {
            let identity = match self.proc.identity(pid) {
                Ok(identity) => identity,
                Err(error) => {
                    passed_over.extend(error.left_out().map(|why| (pid, why)));
                    continue;
                }
            };
            present.insert(identity);
            if known.contains(&identity) {
                continue;
            }
            match self.look_at(identity, Age::Old) {
                Ok(Some(found)) => fresh.entry(found.file).or_default().push((identity, found)),
                Ok(None) => {}
                Err(error) => {
                    debug!("process {pid} passed over: {error}");
                    passed_over.extend(error.left_out().map(|why| (pid, why)));
                }
            }
        }
        self.passed_over = passed_over;
        self.refused.retain(|identity, _| present.contains(identity));
        Ok((fresh, present))
    }

    /// Finds and understands a process's Go runtime. `None` where it is not of the target or cannot be watched.
    fn look_at(&mut self, identity: Identity, age: Age) -> Result<Option<Found>, HostError> {
        let exe = self.proc.executable_path(identity.pid)?;
        if !self.target.wants(&self.proc, identity.pid, &exe)? {
            return Ok(None);
        }
        match find::find(&self.proc, &mut self.binaries, identity.pid, exe.clone(), age)? {
            Ok(found) => {
                self.refused.remove(&identity);
                Ok(Some(found))
            }
            Err(why) => {
                if !matches!(why, Refusal::NotGo) {
                    info!("process {} ({}) cannot be watched: {why}", identity.pid, printable::path(&exe));
                }
                self.refuse(identity, exe, why);
                Ok(None)
            }
        }
    }

    /// Processes that could not be looked at in the last look around: by reason, how many.
    pub(super) fn not_looked_at(&self) -> BTreeMap<String, u64> {
        let mut reasons = BTreeMap::new();
        for why in self.passed_over.values() {
            *reasons.entry(why.clone()).or_default() += 1;
        }
        reasons
    }

    pub(super) fn nothing_found(&self) -> String {
        let go: Vec<&Refused> =
            self.refused.values().filter(|refused| !matches!(refused.why, Refusal::NotGo)).collect();
        match go.first() {
            Some(first) => format!(
                "{} Go process{} found, none of them can be watched; the first, {}: {}",
                go.len(),
                if go.len() == 1 { "" } else { "es" },
                printable::path(&first.exe),
                first.why
            ),
            None => format!("no Go process {} was found", self.target.describe()),
        }
    }
}

/// Looking at processes, for adoption.
pub(super) trait Look {
    /// The processes that are meant.
    fn target(&self) -> &Target;
    /// Looks at a process that has only just begun its program. `None` where it is not of the target or cannot be watched.
    ///
    /// # Errors
    ///
    /// A [`HostError`] where it is gone.
    fn look_at_new(&mut self, pid: u32) -> Result<(Identity, Option<Found>), HostError>;
    /// A process that came and went before anyone could look: its binary is known from the word of the probe it hit, and
    /// where it was loaded from the address. `None` where that is not possible, or it is not of the target.
    /// `name` gives the path of a binary that has probes.
    fn ended_before_a_look(&self, seen: &ProcessSeen, name: &dyn Fn(FileId) -> Option<PathBuf>) -> Option<Watched>;
    /// Puts processes of a file that is another one by name only to those of the other.
    ///
    /// # Errors
    ///
    /// [`WatchError::Kernel`].
    fn settle_files<K: Attach + Count>(shared: &mut Shared<K, Self>, fresh: Fresh) -> Result<Fresh, WatchError>
    where
        Self: Host + Sized;
    /// Notes that a process cannot be watched.
    fn refuse(&mut self, identity: Identity, exe: PathBuf, why: Refusal);
}

impl Look for Finder {
    fn target(&self) -> &Target {
        &self.target
    }

    fn look_at_new(&mut self, pid: u32) -> Result<(Identity, Option<Found>), HostError> {
        let identity = self.proc.identity(pid)?;
        Ok((identity, self.look_at(identity, Age::New)?))
    }

    fn ended_before_a_look(&self, seen: &ProcessSeen, name: &dyn Fn(FileId) -> Option<PathBuf>) -> Option<Watched> {
        let (file, binary) = self.binaries.by_number(ProbeWord(seen.word).binary())?;
        let bias = bias_at(&binary, RuntimeAddr(seen.instruction))?;
        let exe = name(file)?;
        if !self.target.wants_by_name(&exe) {
            return None;
        }
        // The ticks since boot in which it was first seen: it lived less than a scan.
        let start_time = ticks_since_boot(monotonic_ns().saturating_sub(seen.time_ns));
        let identity = Identity { pid: seen.process.tgid(), start_time };
        let found = Found { file, exe, library: None };
        let mut process = Watched::new(identity, &found, bias, goids(&binary));
        process.end(self.now());
        Some(process)
    }

    fn settle_files<K: Attach + Count>(shared: &mut Shared<K, Self>, fresh: Fresh) -> Result<Fresh, WatchError> {
        shared.settle_files(fresh)
    }

    fn refuse(&mut self, identity: Identity, exe: PathBuf, why: Refusal) {
        let waited = self.refused.get(&identity).map_or(0, |refused| refused.wait.1);
        let wait = (0, (waited * 2).clamp(1, LONGEST_WAIT));
        self.refused.insert(identity, Refused { exe, why, wait });
    }
}

impl Host for Finder {
    type Census = CensusThread;

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn cpu_time_ns(&self, pid: u32) -> Option<u64> {
        cpu_time_ns(pid)
    }

    fn identity(&self, pid: u32) -> Option<Identity> {
        self.proc.identity(pid).ok()
    }

    fn thread_times(&self, pid: u32) -> Vec<(u32, u64)> {
        self.proc.thread_times(pid)
    }

    fn thread_time(&self, pid: u32, tid: u32) -> Option<ThreadTime> {
        self.proc.thread_time(pid, tid)
    }

    fn probe_set(&self, file: FileId) -> Option<Arc<ProbeSet>> {
        Some(Arc::clone(&self.binaries.get(file)?.set))
    }

    fn watched(&self, identity: Identity, found: &Found) -> Result<Watched, HostError> {
        let binary = self.binaries.get(found.file).ok_or(HostError::NoExecutable { pid: identity.pid })?;
        let bias = found.bias(&self.proc, identity.pid, &binary)?;
        Ok(Watched::new(identity, found, bias, goids(&binary)))
    }

    fn begin_census(&self, process: &Watched, recording: Recording) -> Option<CensusThread> {
        let binary = self.binaries.get(process.file)?;
        let probed = probed(process, &binary, recording);
        CensusThread::start(&self.proc, process, &binary, probed)
    }

    fn is_wanted(&self, target: &Target, pid: u32, exe: &Path) -> Option<bool> {
        target.wants(&self.proc, pid, exe).ok()
    }

    fn probes_attached(&self, file: FileId) {
        if let Some(binary) = self.binaries.get(file) {
            binary.find_number_places();
        }
    }

    fn set_proved(&self, file: FileId) {
        if let Some(binary) = self.binaries.get(file) {
            binary.set_proved();
        }
    }
}

/// Offsets of a binary's stock of goids.
pub(super) fn goids(binary: &Watchable) -> Window {
    let stock = GoidStock::of(binary.go.binary.go_version());
    Window {
        process: ProcessId(0),
        tail: ProcessId(0),
        goid: u64::from(binary.go.layout.goid),
        m: u64::from(binary.go.layout.m),
        p: u64::from(stock.m_p),
        goidcache: u64::from(stock.p_goidcache),
    }
}

/// Bias of a binary, from the address of one of its probed instructions.
fn bias_at(binary: &Watchable, instruction: RuntimeAddr) -> Option<Bias> {
    let biases = binary.plan.points.iter().map(|point| instruction.0.wrapping_sub(point.address.0));
    let mut whole = biases.filter(|bias| bias.is_multiple_of(PAGE));
    // Two probes at one place of their pages cannot be told apart.
    let bias = whole.next()?;
    whole.next().is_none().then_some(Bias(bias))
}
