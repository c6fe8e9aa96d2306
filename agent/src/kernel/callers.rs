//! Births and exits by caller: the programs that tell callers apart, of which processes, and what they counted.

use std::fs::File;

use aya::maps::HashMap;
use parkranger_common::{
    callers::{CallerCounts, CallerKey, Calling, GoidKey, ProcessorKey},
    counts::ProcessId,
    names,
    probe::Event,
};

use super::{Attachment, Kernel, KernelError, Method, attach::Probe, load::with_sources, read::ignore_missing};

/// Births and exits by caller, and the goroutines whose goid is not known yet.
#[derive(Clone, Debug, Default)]
pub struct Callers {
    /// Births and exits by site and caller.
    pub counts: Vec<(CallerKey, CallerCounts)>,
    /// The last birth of each processor, where it has no goid yet.
    pub unnumbered: Vec<(ProcessorKey, CallerKey)>,
    /// Exits that wait for such a goid.
    pub early_exits: Vec<GoidKey>,
}

impl Kernel {
    /// Attaches the programs that tell callers apart at those of `probes` that are births and exits, beside those that count.
    ///
    /// # Errors
    ///
    /// [`KernelError::Attach`], also where callers cannot be told apart here.
    pub fn attach_callers(&mut self, binary: &File, name: &str, probes: &[Probe]) -> Result<Attachment, KernelError> {
        let program = match self.method {
            Method::UprobeMulti => names::CALLERS_MULTI,
            Method::PerfCookie => names::CALLERS_SINGLE,
            Method::PerfPlain => {
                let why = "callers are told apart with attach cookies only (kernel 5.15)".to_owned();
                return Err(KernelError::Attach { path: name.to_owned(), why });
            }
        };
        let probes = probes.iter().copied().filter(|probe| matches!(probe.event, Event::Birth | Event::Exit));
        self.attach_at_first_use(program, binary, name, &probes.collect::<Vec<_>>())
    }

    /// The callers of a process are told apart from now on.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn begin_callers(&mut self, calling: Calling) -> Result<(), KernelError> {
        let mut map: HashMap<_, u32, Calling> = self.map_mut(names::CALLING)?;
        let written = map.insert(&calling.process.tgid(), &calling, 0);
        written.map_err(|error| KernelError::Map {
            action: "write",
            map: names::CALLING,
            why: with_sources(&error),
        })?;
        self.calling.insert(calling.process);
        Ok(())
    }

    /// Everything counted by caller so far, of all processes.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub(super) fn callers(&self) -> Result<Callers, KernelError> {
        if self.calling.is_empty() {
            return Ok(Callers::default());
        }
        let early: Vec<(GoidKey, u64)> = self.values(names::EARLY_EXITS)?;
        Ok(Callers {
            counts: self.values(names::CALLERS)?,
            unnumbered: self.values(names::UNNUMBERED)?,
            early_exits: early.into_iter().map(|(key, _)| key).collect(),
        })
    }

    /// Forgets everything by caller of these processes. To be called once their probes are gone, or they are.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn end_callers(&mut self, processes: &[ProcessId]) -> Result<(), KernelError> {
        let ended: Vec<ProcessId> = processes.iter().copied().filter(|process| self.calling.remove(process)).collect();
        if ended.is_empty() {
            return Ok(());
        }
        for process in &ended {
            let mut map: HashMap<_, u32, Calling> = self.map_mut(names::CALLING)?;
            let tgid = process.tgid();
            if map.get(&tgid, 0).is_ok_and(|calling| calling.process == *process) {
                ignore_missing(map.remove(&tgid), names::CALLING)?;
            }
        }
        let mut counts: Vec<(CallerKey, CallerCounts)> = self.values(names::CALLERS)?;
        counts.retain(|(key, _)| ended.contains(&key.site.process));
        self.remove_all(names::CALLERS, &counts)?;
        let mut unnumbered: Vec<(ProcessorKey, CallerKey)> = self.values(names::UNNUMBERED)?;
        unnumbered.retain(|(key, _)| ended.contains(&key.process));
        self.remove_all(names::UNNUMBERED, &unnumbered)?;
        let mut early: Vec<(GoidKey, u64)> = self.values(names::EARLY_EXITS)?;
        early.retain(|(key, _)| ended.contains(&key.process));
        self.remove_all(names::EARLY_EXITS, &early)?;
        let mut born: Vec<(GoidKey, CallerKey)> = self.values(names::BORN)?;
        born.retain(|(key, _)| ended.contains(&key.process));
        self.remove_all(names::BORN, &born)
    }
}
