//! Which processes are watched: those there are, each program begun afterwards, and those that the kernel side adopted
//! by itself. A slow scan heals what was missed: a record that was lost, a library that was loaded later.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use parkranger_common::{
    counts::{Process, ProcessId},
    probe::ProbeWord,
    record::ProcessSeen,
};
use tracing::{debug, info, warn};

use super::{
    Binaries, Config, Found, Refusal, Target, Watch, WatchError, Watchable, Watched,
    probes::{Probes, Sample},
    runtimes::{self, Age},
};
use crate::{
    address::{Bias, RuntimeAddr},
    governor::Fidelity,
    host::{FileId, HostError, Identity, Proc, monotonic_ns, ticks_since_boot},
    kernel::Counters,
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

    /// Whether to look again: what has no Go can come to have it, what is not proved can be proved later, and for what found
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
}

impl Finder {
    pub(super) fn new(proc: Proc, config: &Config) -> Self {
        let binaries = Binaries::new(Arc::clone(&config.understanding));
        Self { proc, target: config.target.clone(), binaries, refused: BTreeMap::new() }
    }

    /// Looks at every process of the target, except those in `known`; tells also who is there at all.
    ///
    /// # Errors
    ///
    /// Where /proc itself cannot be read. A single process that cannot be looked at is passed over.
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
        for pid in pids {
            let Ok(identity) = self.proc.identity(pid) else { continue };
            present.insert(identity);
            if known.contains(&identity) {
                continue;
            }
            match self.look_at(identity, Age::Old) {
                Ok(Some(found)) => fresh.entry(found.file).or_default().push((identity, found)),
                Ok(None) => {}
                Err(error) => debug!("process {pid} passed over: {error}"),
            }
        }
        self.refused.retain(|identity, _| present.contains(identity));
        Ok((fresh, present))
    }

    /// Finds and understands a process's Go runtime. `None` where it is not of the target or cannot be watched.
    fn look_at(&mut self, identity: Identity, age: Age) -> Result<Option<Found>, HostError> {
        let exe = self.proc.executable_path(identity.pid)?;
        if !self.target.wants(&self.proc, identity.pid, &exe)? {
            return Ok(None);
        }
        match runtimes::find(&self.proc, &mut self.binaries, identity.pid, exe.clone(), age)? {
            Ok(found) => {
                self.refused.remove(&identity);
                Ok(Some(found))
            }
            Err(why) => {
                if !matches!(why, Refusal::NotGo) {
                    info!("process {} ({}) cannot be watched: {why}", identity.pid, exe.display());
                }
                self.refuse(identity, exe, why);
                Ok(None)
            }
        }
    }

    /// The same of a process that has only just begun its program.
    fn look_at_new(&mut self, pid: u32) -> Result<(Identity, Option<Found>), HostError> {
        let identity = self.proc.identity(pid)?;
        Ok((identity, self.look_at(identity, Age::New)?))
    }

    fn refuse(&mut self, identity: Identity, exe: PathBuf, why: Refusal) {
        let waited = self.refused.get(&identity).map_or(0, |refused| refused.wait.1);
        let wait = (0, (waited * 2).clamp(1, LONGEST_WAIT));
        self.refused.insert(identity, Refused { exe, why, wait });
    }

    pub(super) fn nothing_found(&self) -> String {
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
            None => format!("no Go process {} was found", self.target.describe()),
        }
    }
}

impl Watch {
    /// A process named by pid is watched, or the watch fails with the reason.
    pub(super) fn require(&self, pid: u32) -> Result<(), WatchError> {
        if self.processes.values().any(|process| process.identity.pid == pid) {
            return Ok(());
        }
        let identity = self.finder.proc.identity(pid)?;
        match self.finder.refused.get(&identity) {
            Some(refused) => {
                Err(WatchError::Refused { pid, exe: refused.exe.display().to_string(), why: refused.why.clone() })
            }
            // It was there, and could not be looked at, and is there: a race with exec. Say what there is to say.
            None => Err(WatchError::Host(HostError::NoExecutable { pid })),
        }
    }

    /// Looks for processes of the target that are not watched yet, and attaches to their binaries.
    ///
    /// # Errors
    ///
    /// [`WatchError::Host`] where /proc itself cannot be read. A single process that cannot be looked at is passed over.
    pub fn scan(&mut self) -> Result<(), WatchError> {
        let watched = self.processes.values().filter(|process| !process.has_ended()).map(|process| process.identity);
        let (fresh, present) = self.finder.look_around(watched.collect())?;
        self.forget_muted(&present)?;
        self.begin_all(fresh)
    }

    /// Attaches to the binaries of processes that were found.
    pub(super) fn begin_all(&mut self, fresh: Fresh) -> Result<(), WatchError> {
        let settled = self.settle_files(fresh)?;
        settled.into_iter().try_for_each(|(file, processes)| self.begin(file, &processes))
    }

    /// A process began another program.
    pub(super) fn program_begun(&mut self, pid: u32) -> Result<(), WatchError> {
        // Who names a pid means the program that ran when it was named.
        if matches!(self.finder.target, Target::Pids(_)) {
            return Ok(());
        }
        match self.finder.look_at_new(pid) {
            Ok((identity, Some(found))) => self.begin_all(Fresh::from([(found.file, vec![(identity, found)])])),
            Ok((_, None)) => Ok(()),
            Err(error) => {
                debug!("process {pid} passed over: {error}");
                Ok(())
            }
        }
    }

    /// Lists processes of one binary and then, for the first of them, attaches its probes: in this order nothing of a
    /// listed process is missed, and the kernel adopts whoever comes later.
    fn begin(&mut self, file: FileId, processes: &[(Identity, Found)]) -> Result<(), WatchError> {
        let Some(binary) = self.finder.binaries.get(file) else { return Ok(()) };
        for (identity, found) in processes {
            if self.processes.values().any(|process| process.identity == *identity && !process.has_ended()) {
                continue;
            }
            let bias = match found.bias(&self.finder.proc, identity.pid, &binary) {
                Ok(bias) => bias,
                Err(error) => {
                    debug!("process {} passed over: {error}", identity.pid);
                    continue;
                }
            };
            self.unmute(identity.pid)?;
            let process = Process { id: ProcessId::new(identity.pid, monotonic_ns()), word: binary.word.0 };
            match self.kernel.list(process)? {
                Some(id) => self.enter(id, Watched::new(*identity, found, bias))?,
                None => {
                    warn!("process {} ({}) is not watched: {}", identity.pid, found.exe.display(), Refusal::TooMany);
                    self.finder.refuse(*identity, found.exe.clone(), Refusal::TooMany);
                }
            }
        }
        if self.probes.contains_key(&file) {
            return Ok(());
        }
        let adopt = !matches!(self.finder.target, Target::Pids(_));
        let name = processes.first().map_or_else(String::new, |(_, found)| match found.library_path() {
            Some(library) => library.to_owned(),
            None => found.exe.display().to_string(),
        });
        let mut probes = Probes::new(binary, name, adopt);
        let fidelity = self.governing.governor.fidelity(file);
        if fidelity.has_windows() {
            probes.sample = Sample::At(Instant::now());
        }
        if let Err(error) = probes.place(fidelity, &mut self.kernel) {
            probes.take_off(&mut self.kernel);
            return self.refuse_all(file, &Refusal::Attach(error.to_string()));
        }
        info!("probes attached to {}, for {fidelity}", probes.name);
        let recording = probes.recording();
        self.probes.insert(file, probes);
        let ids: Vec<ProcessId> = self.living(file).collect();
        self.ledger.record(&ids, recording, &Counters::default(), Instant::now());
        if fidelity == Fidelity::Story { self.begin_stories(file) } else { Ok(()) }
    }

    /// Takes a process under watch. What is recorded of its binary is recorded of it.
    fn enter(&mut self, id: ProcessId, process: Watched) -> Result<(), WatchError> {
        if let Some(probes) = self.probes.get_mut(&process.file) {
            probes.unused_since = None;
            self.ledger.record(&[id], probes.recording(), &Counters::default(), Instant::now());
        }
        self.processes.insert(id, process);
        self.join_story(id)
    }

    fn refuse_all(&mut self, file: FileId, why: &Refusal) -> Result<(), WatchError> {
        let all: Vec<ProcessId> =
            self.processes.iter().filter(|(_, process)| process.file == file).map(|(id, _)| *id).collect();
        for id in all {
            self.kernel.unwatch(id)?;
            if let Some(process) = self.processes.remove(&id) {
                let refused = Refused::new(process.exe, why.clone());
                self.finder.refused.insert(process.identity, refused);
            }
        }
        Ok(())
    }

    /// The kernel side counts a process that is new to us.
    pub(super) fn adopted(&mut self, seen: &ProcessSeen) -> Result<(), WatchError> {
        let id = seen.process;
        if self.processes.contains_key(&id) {
            return Ok(());
        }
        match self.finder.look_at_new(id.tgid()) {
            Ok((identity, Some(found))) => {
                let settled = self.settle_files(Fresh::from([(found.file, vec![(identity, found)])]))?;
                for (identity, found) in settled.into_values().flatten() {
                    let Some(binary) = self.finder.binaries.get(found.file) else { continue };
                    if let Ok(bias) = found.bias(&self.finder.proc, id.tgid(), &binary) {
                        self.enter(id, Watched::new(identity, &found, bias))?;
                    }
                }
            }
            Ok((identity, None)) => self.mute(id, identity)?,
            Err(error) => {
                debug!("process {} is gone already: {error}", id.tgid());
                self.kernel.unwatch(id)?;
                if !self.enter_late(seen)? {
                    self.kernel.remove_counters(&[id])?;
                }
            }
        }
        Ok(())
    }

    /// Takes up a process that came and went before anyone could look: its binary is known from the word of the probe it
    /// hit, and where it was loaded from the address. Whether that was possible.
    fn enter_late(&mut self, seen: &ProcessSeen) -> Result<bool, WatchError> {
        let Some((file, binary)) = self.finder.binaries.by_number(ProbeWord(seen.word).binary()) else {
            return Ok(false);
        };
        let Some(bias) = bias_at(&binary, RuntimeAddr(seen.instruction)) else { return Ok(false) };
        let Some(name) = self.probes.get(&file).map(|probes| probes.name.clone()) else { return Ok(false) };
        if !self.finder.target.wants_by_name(Path::new(&name)) {
            return Ok(false);
        }
        let pid = seen.process.tgid();
        // The ticks since boot in which it was first seen: it lived less than a scan.
        let start_time = ticks_since_boot(monotonic_ns().saturating_sub(seen.time_ns));
        let found = Found { file, exe: PathBuf::from(name), library: None };
        let mut process = Watched::new(Identity { pid, start_time }, &found, bias);
        process.end();
        self.enter(seen.process, process)?;
        Ok(true)
    }
}

/// How far a binary was moved, from where one of its probed instructions was.
fn bias_at(binary: &Watchable, instruction: RuntimeAddr) -> Option<Bias> {
    let biases = binary.plan.points.iter().map(|point| instruction.0.wrapping_sub(point.address.0));
    let mut whole = biases.filter(|bias| bias.is_multiple_of(PAGE));
    // Two probes at one place of their pages cannot be told apart.
    let bias = whole.next()?;
    whole.next().is_none().then_some(Bias(bias))
}
