//! Counters out of the maps.

use std::{os::fd::AsFd as _, time::Instant};

use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapError, PerCpuArray, PerCpuHashMap},
    util::nr_cpus,
};
use parkranger_common::{
    counts::{ProcessId, SiteCounts, SiteKey, Unattributed, WaitKey},
    loss::HostLoss,
    names,
    window::Window,
};
use tracing::debug;

use super::{Callers, Kernel, KernelError, Records, Stories, batch};

/// All counters at one moment, summed over CPUs. Totals since each process was listed: they only grow.
#[derive(Clone, Debug)]
pub struct Counters {
    /// When.
    pub at: Instant,
    /// Births and exits by site.
    pub sites: Vec<(SiteKey, SiteCounts)>,
    /// Parks by site and reason.
    pub waits: Vec<(WaitKey, u64)>,
    /// Events without a site, and losses, by process.
    pub unattributed: Vec<(ProcessId, Unattributed)>,
    /// Waits and lifetimes of stories.
    pub stories: Stories,
    /// Births and exits by caller, where they are told apart.
    pub callers: Callers,
    /// Losses that belong to no process, by [`HostLoss`].
    pub host_losses: [u64; HostLoss::COUNT],
}

impl Default for Counters {
    fn default() -> Self {
        let (sites, waits, unattributed) = (Vec::new(), Vec::new(), Vec::new());
        let (stories, callers, host_losses) = (Stories::default(), Callers::default(), [0; HostLoss::COUNT]);
        Self { at: Instant::now(), sites, waits, unattributed, stories, callers, host_losses }
    }
}

impl Kernel {
    /// Reads all counters. Processes go on meanwhile: an event that happens during the read may or may not be in it.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn counters(&self) -> Result<Counters, KernelError> {
        let (sites, waits, stories) = (self.sites()?, self.waits()?, self.told_stories()?);
        let mut counters = Counters { sites, waits, stories, callers: self.callers()?, ..Counters::default() };
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
        self.remove_stories(gone)?;
        self.end_callers(gone)
    }

    /// Empties the ring buffers.
    pub fn records(&mut self) -> Records {
        self.rings.take()
    }

    /// The counts of one process's sites alone.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn sites_of(&self, process: ProcessId) -> Result<Vec<(SiteKey, SiteCounts)>, KernelError> {
        self.entries_where(names::SITES, SiteCounts::plus, |key: &SiteKey| key.process == process)
    }

    /// All parks by site and reason: totals, as in [`Kernel::counters`].
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn waits(&self) -> Result<Vec<(WaitKey, u64)>, KernelError> {
        self.entries(names::WAITS, |sum: u64, part| sum + part)
    }

    fn sites(&self) -> Result<Vec<(SiteKey, SiteCounts)>, KernelError> {
        self.entries(names::SITES, SiteCounts::plus)
    }

    /// All entries of a per-CPU hash map, with the values of all CPUs added up by `plus`.
    fn entries<K: Pod, V: Pod + Default>(
        &self,
        name: &'static str,
        plus: fn(V, V) -> V,
    ) -> Result<Vec<(K, V)>, KernelError> {
        self.entries_where(name, plus, |_| true)
    }

    /// The same of those whose key is wanted: no others are added up or kept.
    fn entries_where<K: Pod, V: Pod + Default>(
        &self,
        name: &'static str,
        plus: fn(V, V) -> V,
        wanted: impl Fn(&K) -> bool,
    ) -> Result<Vec<(K, V)>, KernelError> {
        let Some(Map::PerCpuHashMap(data)) = self.ebpf.map(name) else { return Err(missing(name)) };
        let cpus = nr_cpus().map_or(1, |cpus| cpus.get() as usize);
        let part_bytes = size_of::<V>().next_multiple_of(8);
        let mut entries = Vec::new();
        let read = batch::for_each(data.fd().as_fd(), size_of::<K>(), part_bytes * cpus, |key, values| {
            let parts = values.chunks_exact(part_bytes).map(|part| of_bytes::<V>(part).unwrap_or_default());
            entries.extend(of_bytes(key).filter(&wanted).map(|key| (key, parts.fold(V::default(), plus))));
        });
        if let Err(error) = read {
            // A kernel without it, or with a map that has no room for a whole bucket: entry by entry.
            debug!("the map {name} is not read at once: {error}");
            entries.clear();
            let map: PerCpuHashMap<_, K, V> = self.map(name)?;
            for entry in &map {
                let (key, values) = entry.map_err(|error| read_error(name, &error))?;
                if wanted(&key) {
                    entries.push((key, values.iter().copied().fold(V::default(), plus)));
                }
            }
        }
        Ok(entries)
    }

    /// Has the births and exits of `window`'s process told one by one from now on.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn set_window(&mut self, window: Window) -> Result<(), KernelError> {
        self.rings.set_streaming(window.process != ProcessId(0) || window.tail != ProcessId(0));
        let mut map: Array<_, Window> = self.map_mut(names::WINDOW)?;
        map.set(0, &window, 0).map_err(|error| KernelError::Map {
            action: "write",
            map: names::WINDOW,
            why: super::load::with_sources(&error),
        })
    }

    pub(super) fn map<'a, T: TryFrom<&'a Map, Error = MapError>>(
        &'a self,
        name: &'static str,
    ) -> Result<T, KernelError> {
        let map = self.ebpf.map(name).ok_or_else(|| missing(name))?;
        T::try_from(map).map_err(|error| read_error(name, &error))
    }

    pub(super) fn map_mut<'a, T: TryFrom<&'a mut Map, Error = MapError>>(
        &'a mut self,
        name: &'static str,
    ) -> Result<T, KernelError> {
        let map = self.ebpf.map_mut(name).ok_or_else(|| missing(name))?;
        T::try_from(map).map_err(|error| read_error(name, &error))
    }
}

/// A plain value out of the kernel's bytes; they may stand anywhere. `None` where there are too few.
pub(super) fn of_bytes<T: Pod>(bytes: &[u8]) -> Option<T> {
    if bytes.len() < size_of::<T>() {
        return None;
    }
    #[allow(unsafe_code, reason = "the kernel hands out bytes")]
    // SAFETY: there are enough of them, and for a plain type every pattern is a value.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

pub(super) fn ignore_missing(result: Result<(), MapError>, map: &'static str) -> Result<(), KernelError> {
    match result {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(error) => Err(KernelError::Map { action: "write", map, why: super::load::with_sources(&error) }),
    }
}

pub(super) fn missing(map: &'static str) -> KernelError {
    KernelError::Map { action: "read", map, why: "the eBPF object has no such map".to_owned() }
}

pub(super) fn read_error(map: &'static str, error: &MapError) -> KernelError {
    KernelError::Map { action: "read", map, why: super::load::with_sources(error) }
}
