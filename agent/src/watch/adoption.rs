//! Takes processes under watch: those that were found, each program begun afterwards, and those that the kernel side adopted
//! by itself. A slow scan heals what was missed: a record that was lost, a library that was loaded later.

use std::path::PathBuf;

use parkranger_common::{
    counts::{Process, ProcessId},
    record::ProcessSeen,
};
use tracing::{debug, info, warn};

use super::{
    Found, Refusal, Target, WatchError,
    choosing::Muted,
    fidelity::FidelityControl,
    finding::{Fresh, Look},
    probes::{Probes, Slices},
    shared::{Host, Shared, Watched},
};
use crate::{
    governor::Fidelity,
    host::{FileId, Identity, monotonic_ns},
    kernel::{Attach, Count, Counters},
    printable,
};

impl<K: Attach + Count, H: Host + Look> Shared<K, H> {
    /// Attaches to the binaries of processes that were found.
    pub(super) fn begin_all(
        &mut self,
        fresh: Fresh,
        muted: &mut Muted,
        fidelity: &mut FidelityControl,
    ) -> Result<(), WatchError> {
        let settled = H::settle_files(self, fresh)?;
        settled.into_iter().try_for_each(|(file, processes)| self.begin(file, &processes, muted, fidelity))
    }

    /// A process began another program.
    pub(super) fn program_begun(
        &mut self,
        pid: u32,
        muted: &mut Muted,
        fidelity: &mut FidelityControl,
    ) -> Result<(), WatchError> {
        // Who names a pid means the program that ran when it was named.
        if matches!(self.host.target(), Target::Pids(_)) {
            return Ok(());
        }
        match self.host.look_at_new(pid) {
            Ok((identity, Some(found))) => {
                self.begin_all(Fresh::from([(found.file, vec![(identity, found)])]), muted, fidelity)
            }
            Ok((_, None)) => Ok(()),
            Err(error) => {
                debug!("process {pid} passed over: {error}");
                Ok(())
            }
        }
    }

    /// Lists processes of one binary and then, for the first of them, attaches its probes: in this order nothing of a
    /// listed process is missed, and the kernel adopts whoever comes later.
    fn begin(
        &mut self,
        file: FileId,
        processes: &[(Identity, Found)],
        muted: &mut Muted,
        fidelity_control: &mut FidelityControl,
    ) -> Result<(), WatchError> {
        let Some(set) = self.host.probe_set(file) else { return Ok(()) };
        for (identity, found) in processes {
            if self.processes.values().any(|process| process.identity == *identity && !process.has_ended()) {
                continue;
            }
            let watched = match self.host.watched(*identity, found) {
                Ok(watched) => watched,
                Err(error) => {
                    debug!("process {} passed over: {error}", identity.pid);
                    continue;
                }
            };
            muted.remove_pid(identity.pid, &mut self.kernel)?;
            let process = Process { id: ProcessId::new(identity.pid, monotonic_ns()), word: set.word.0 };
            match self.kernel.list(process)? {
                Some(id) => self.enter(id, watched)?,
                None => {
                    warn!(
                        "process {} ({}) is not watched: {}",
                        identity.pid,
                        printable::path(&found.exe),
                        Refusal::TooMany
                    );
                    self.host.refuse(*identity, found.exe.clone(), Refusal::TooMany);
                }
            }
        }
        if self.probes.contains_key(&file) {
            return Ok(());
        }
        let adopt = !matches!(self.host.target(), Target::Pids(_));
        let name = processes.first().map_or_else(String::new, |(_, found)| match found.library_path() {
            Some(library) => library.to_owned(),
            None => printable::path(&found.exe),
        });
        let mut probes = Probes::new(set, name, adopt);
        let fidelity = fidelity_control.governor.fidelity(file);
        if fidelity.is_sampled() {
            probes.slices = Slices::NextAt(self.host.now());
        }
        if let Err(error) = probes.place(fidelity, &mut self.kernel) {
            probes.take_off(&mut self.kernel);
            return self.refuse_all(file, &Refusal::Attach(error.to_string()));
        }
        info!("probes attached to {}, for {fidelity}", probes.name);
        let recording = probes.recording();
        self.probes.insert(file, probes);
        self.host.probes_attached(file);
        let ids: Vec<ProcessId> = self.living(file).collect();
        self.ledger.record(&ids, recording, &Counters::default(), self.host.now());
        self.begin_callers(file)?;
        if fidelity == Fidelity::Story { fidelity_control.begin_stories(self, file) } else { Ok(()) }
    }

    /// Takes a process under watch. What is recorded of its binary is recorded of it.
    fn enter(&mut self, id: ProcessId, process: Watched) -> Result<(), WatchError> {
        if let Some(probes) = self.probes.get_mut(&process.file) {
            probes.unused_since = None;
            self.ledger.record(&[id], probes.recording(), &Counters::default(), self.host.now());
        }
        self.processes.insert(id, process);
        self.join_callers(id)?;
        self.join_story(id)
    }

    fn refuse_all(&mut self, file: FileId, why: &Refusal) -> Result<(), WatchError> {
        let all: Vec<ProcessId> =
            self.processes.iter().filter(|(_, process)| process.file == file).map(|(id, _)| *id).collect();
        for id in all {
            self.kernel.unwatch(id)?;
            if let Some(process) = self.processes.remove(&id) {
                self.host.refuse(process.identity, process.exe, why.clone());
            }
        }
        Ok(())
    }

    /// The kernel side counts a process that is new to us.
    pub(super) fn adopted(&mut self, seen: &ProcessSeen, muted: &mut Muted) -> Result<(), WatchError> {
        let id = seen.process;
        if self.processes.contains_key(&id) {
            return Ok(());
        }
        match self.host.look_at_new(id.tgid()) {
            Ok((identity, Some(found))) => {
                let settled = H::settle_files(self, Fresh::from([(found.file, vec![(identity, found)])]))?;
                for (identity, found) in settled.into_values().flatten() {
                    if let Ok(watched) = self.host.watched(identity, &found) {
                        self.enter(id, watched)?;
                    }
                }
                Ok(())
            }
            Ok((identity, None)) => muted.insert(id, identity, &mut self.kernel),
            Err(error) => {
                debug!("process {} is gone already: {error}", id.tgid());
                self.kernel.unwatch(id)?;
                let name = |file: FileId| Some(PathBuf::from(&self.probes.get(&file)?.name));
                match self.host.ended_before_a_look(seen, &name) {
                    Some(process) => self.enter(id, process),
                    None => Ok(self.kernel.remove_counters(&[id])?),
                }
            }
        }
    }
}
