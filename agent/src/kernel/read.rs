//! Counters and records out of the maps.

use aya::maps::{Array, HashMap, Map, MapError, PerCpuArray, PerCpuHashMap, RingBuf};
use parkranger_common::{
    counts::{ProcessId, SiteCounts, SiteKey, Unattributed, WaitKey},
    event::Record,
    loss::HostLoss,
    names,
    window::{Life, Window},
};

use super::{Kernel, KernelError};

/// All counters at one moment, summed over CPUs. Totals since each process was listed: they only grow.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Births and exits by site.
    pub sites: Vec<(SiteKey, SiteCounts)>,
    /// Parks by site and reason.
    pub waits: Vec<(WaitKey, u64)>,
    /// Events without a site, and losses, by process.
    pub unattributed: Vec<(ProcessId, Unattributed)>,
    /// What was lost without a process.
    pub host_losses: [u64; HostLoss::COUNT],
}

impl Kernel {
    /// Reads all counters. Processes go on meanwhile: an event that happens during the read may or may not be in it.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn counters(&self) -> Result<Counters, KernelError> {
        let mut counters = Counters::default();
        let sites: PerCpuHashMap<_, SiteKey, SiteCounts> = self.map(names::SITES)?;
        for entry in &sites {
            let (key, values) = entry.map_err(|error| read_error(names::SITES, &error))?;
            let sum = values.iter().fold(SiteCounts::default(), |sum, value| sum.plus(*value));
            counters.sites.push((key, sum));
        }
        let waits: PerCpuHashMap<_, WaitKey, u64> = self.map(names::WAITS)?;
        for entry in &waits {
            let (key, values) = entry.map_err(|error| read_error(names::WAITS, &error))?;
            counters.waits.push((key, values.iter().sum()));
        }
        let unattributed: HashMap<_, ProcessId, Unattributed> = self.map(names::UNATTRIBUTED)?;
        for entry in &unattributed {
            counters.unattributed.push(entry.map_err(|error| read_error(names::UNATTRIBUTED, &error))?);
        }
        let losses: PerCpuArray<_, u64> = self.map(names::HOST_LOSSES)?;
        for loss in HostLoss::ALL {
            let values = losses.get(&(*loss as u32), 0).map_err(|error| read_error(names::HOST_LOSSES, &error))?;
            counters.host_losses[*loss as usize] = values.iter().sum();
        }
        Ok(counters)
    }

    /// Removes the counters of a process that is gone for good and will hit no probe again.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn remove_counters(&mut self, gone: &[ProcessId]) -> Result<(), KernelError> {
        if gone.is_empty() {
            return Ok(());
        }
        let counters = self.counters()?;
        let mut sites: PerCpuHashMap<_, SiteKey, SiteCounts> = self.map_mut(names::SITES)?;
        for (key, _) in counters.sites.iter().filter(|(key, _)| gone.contains(&key.process)) {
            ignore_missing(sites.remove(key), names::SITES)?;
        }
        let mut waits: PerCpuHashMap<_, WaitKey, u64> = self.map_mut(names::WAITS)?;
        for (key, _) in counters.waits.iter().filter(|(key, _)| gone.contains(&key.site.process)) {
            ignore_missing(waits.remove(key), names::WAITS)?;
        }
        let mut unattributed: HashMap<_, ProcessId, Unattributed> = self.map_mut(names::UNATTRIBUTED)?;
        for id in gone {
            ignore_missing(unattributed.remove(id), names::UNATTRIBUTED)?;
        }
        Ok(())
    }

    /// Empties the ring buffer: what is told of processes and sites, and births and exits of the open window.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn records(&mut self) -> Result<(Vec<Record>, Vec<Life>), KernelError> {
        let mut ring: RingBuf<_> = self.map_mut(names::EVENTS)?;
        let (mut records, mut lives) = (Vec::new(), Vec::new());
        while let Some(item) = ring.next() {
            match Life::parse(&item) {
                Some(life) => lives.push(life),
                None => records.extend(Record::parse(&item)),
            }
        }
        Ok((records, lives))
    }

    /// The counts of one process's sites alone.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn sites_of(&self, process: ProcessId) -> Result<Vec<(SiteKey, SiteCounts)>, KernelError> {
        let sites: PerCpuHashMap<_, SiteKey, SiteCounts> = self.map(names::SITES)?;
        let mut found = Vec::new();
        for entry in &sites {
            let (key, values) = entry.map_err(|error| read_error(names::SITES, &error))?;
            if key.process == process {
                found.push((key, values.iter().fold(SiteCounts::default(), |sum, value| sum.plus(*value))));
            }
        }
        Ok(found)
    }

    /// Says whose births and exits are told one by one from now on.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn set_window(&mut self, window: Window) -> Result<(), KernelError> {
        let mut map: Array<_, Window> = self.map_mut(names::WINDOW)?;
        map.set(0, &window, 0).map_err(|error| KernelError::Map {
            action: "write",
            map: names::WINDOW,
            why: super::load::with_sources(&error),
        })
    }

    fn map<'a, T: TryFrom<&'a Map, Error = MapError>>(&'a self, name: &'static str) -> Result<T, KernelError> {
        let map = self.ebpf.map(name).ok_or_else(|| missing(name))?;
        T::try_from(map).map_err(|error| read_error(name, &error))
    }

    fn map_mut<'a, T: TryFrom<&'a mut Map, Error = MapError>>(
        &'a mut self,
        name: &'static str,
    ) -> Result<T, KernelError> {
        let map = self.ebpf.map_mut(name).ok_or_else(|| missing(name))?;
        T::try_from(map).map_err(|error| read_error(name, &error))
    }
}

fn ignore_missing(result: Result<(), MapError>, map: &'static str) -> Result<(), KernelError> {
    match result {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(error) => Err(KernelError::Map { action: "write", map, why: super::load::with_sources(&error) }),
    }
}

fn missing(map: &'static str) -> KernelError {
    KernelError::Map { action: "read", map, why: "the eBPF object has no such map".to_owned() }
}

fn read_error(map: &'static str, error: &MapError) -> KernelError {
    KernelError::Map { action: "read", map, why: super::load::with_sources(error) }
}
