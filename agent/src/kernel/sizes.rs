//! Sizes of the kernel's maps. They are made at once and whole, with a value for each CPU that the machine can have:
//! what fits a laptop would be a gigabyte on a large server.

use aya::util::nr_cpus;
use parkranger_common::counts::{Process, ProcessId, SiteCounts, SiteKey, Unattributed, WaitKey};

/// Sites where the machine is not too large for them.
const SITES: u32 = 16384;
const LEAST_SITES: u32 = 2048;
/// Those of one process named by pid: more than the largest Go programs have `go` statements. To make the maps takes some
/// microseconds for each, which a first look at one process would spend most of its time on.
const SITES_OF_ONE: u32 = 4096;
/// Bytes that the maps of sites and waits may take together, unless a number of sites is asked for.
const BYTES: u64 = 64 << 20;
/// Bytes of the ring buffer of processes: 5,000 adoptions or calls of execve between two looks at it.
pub(super) const PROCESS_RING_BYTES: u32 = 256 << 10;
/// A CPU's share of the ring buffer of streams, and bounds of the whole.
const RING_BYTES_PER_CPU: u64 = 64 << 10;
const RING_BYTES: (u64, u64) = (1 << 20, 16 << 20);
/// A site waits for two kinds of things, on the average.
const WAITS_PER_SITE: u32 = 2;
/// The kernel's own part of an entry of a hash map (struct htab_elem), and of its bucket.
const ENTRY_BYTES: u64 = 48 + 16;

/// Goroutines of stories, and what the map takes for each.
const STORY_GOROUTINES: u32 = 1 << 17;
const GOROUTINE_BYTES: u64 = 120;
/// Goroutines whose callers are told apart, and what the map takes for each.
const CALLED_GOROUTINES: u32 = 1 << 18;
const CALLED_BYTES: u64 = 112;

/// Entries of each map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Sites (with start function) of all processes together.
    pub sites: u32,
    /// Processes of watched binaries.
    pub processes: u32,
    /// Bytes of the ring buffer of streams, a power of two.
    pub ring_bytes: u32,
    /// Goroutines of stories, all together; 0 where none will be told.
    pub goroutines: u32,
    /// Live goroutines whose callers are told apart, all together; 0 where no callers are.
    pub callers: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self::for_cpus(nr_cpus().map_or(1, |cpus| u64::from(cpus.get())))
    }
}

impl Sizes {
    fn for_cpus(cpus: u64) -> Self {
        let sites = BYTES / Self::site_bytes(cpus);
        let ring_bytes = (RING_BYTES_PER_CPU * cpus).next_power_of_two().clamp(RING_BYTES.0, RING_BYTES.1);
        let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let sites = narrow(sites).clamp(LEAST_SITES, SITES);
        Self { sites, processes: 8192, ring_bytes: narrow(ring_bytes), goroutines: 0, callers: 0 }
    }

    /// With room for stories.
    #[must_use]
    pub fn with_stories(self) -> Self {
        Self { goroutines: STORY_GOROUTINES, ..self }
    }

    /// With room to tell callers apart.
    #[must_use]
    pub fn with_callers(self) -> Self {
        Self { callers: CALLED_GOROUTINES, ..self }
    }

    /// For no more than so many processes.
    #[must_use]
    pub fn for_processes(self, number: usize) -> Self {
        let needed = SITES_OF_ONE.saturating_mul(u32::try_from(number).unwrap_or(u32::MAX));
        Self { sites: self.sites.min(needed), ..self }
    }

    /// Kinds of waits by site, of all sites together.
    #[must_use]
    pub fn waits(&self) -> u32 {
        self.sites.saturating_mul(WAITS_PER_SITE)
    }

    /// About what the maps take of the kernel's memory here.
    #[must_use]
    pub fn kernel_bytes(&self) -> u64 {
        let cpus = nr_cpus().map_or(1, |cpus| u64::from(cpus.get()));
        let process = size_of::<u32>() + size_of::<Process>() + size_of::<ProcessId>() + size_of::<Unattributed>();
        u64::from(self.sites) * Self::site_bytes(cpus)
            + u64::from(self.processes) * (process as u64 + 2 * ENTRY_BYTES)
            + u64::from(self.ring_bytes)
            + u64::from(PROCESS_RING_BYTES)
            + u64::from(self.goroutines) * GOROUTINE_BYTES
            + u64::from(self.callers) * CALLED_BYTES
    }

    /// Bytes that one site takes, with its waits.
    fn site_bytes(cpus: u64) -> u64 {
        let site = (size_of::<SiteKey>() as u64 + ENTRY_BYTES) + size_of::<SiteCounts>() as u64 * cpus;
        let wait = (size_of::<WaitKey>() as u64 + ENTRY_BYTES) + size_of::<u64>() as u64 * cpus;
        site + u64::from(WAITS_PER_SITE) * wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_machines_have_fewer_sites_and_a_larger_ring() {
        let sizes = |cpus| {
            let Sizes { sites, ring_bytes, .. } = Sizes::for_cpus(cpus);
            (sites, ring_bytes)
        };
        assert_eq!(sizes(2), (16384, 1 << 20));
        assert_eq!(sizes(64), (16384, 4 << 20));
        let (sites, ring_bytes) = sizes(256);
        assert!(LEAST_SITES < sites && sites < SITES && ring_bytes == 16 << 20, "{sites} {ring_bytes}");
        assert!(u64::from(sites) * Sizes::site_bytes(256) <= BYTES);
        assert_eq!(sizes(1 << 20), (LEAST_SITES, 16 << 20));
    }

    #[test]
    fn few_processes_have_fewer_sites() {
        let sites = |number| Sizes::for_cpus(2).for_processes(number).sites;
        assert_eq!([1, 3, 4, usize::MAX].map(sites), [SITES_OF_ONE, 3 * SITES_OF_ONE, SITES, SITES]);
        assert_eq!(Sizes::for_cpus(1 << 20).for_processes(1).sites, LEAST_SITES);
    }
}
