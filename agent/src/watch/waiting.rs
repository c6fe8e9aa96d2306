//! State of the goroutines of each site at the last census: what they wait for, and for how long.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use crate::{
    census::{Census, Status},
    ledger::Site,
};

/// State of a goroutine at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Doing {
    /// It waits, for the reason of this number.
    Waits(u8),
    /// It does something else.
    Other(Status),
}

/// The goroutines of one site at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SiteState {
    /// Goroutines by what they do.
    pub(super) doing: BTreeMap<Doing, u64>,
    /// Longest time that one of them has waited; `None` where the runtime tells of none. It notes the time at a collection:
    /// a wait is as old at least.
    pub(super) oldest: Option<Duration>,
    /// Time that half of those that wait have waited at least, where it is told of half of them.
    pub(super) median: Option<Duration>,
}

/// The goroutines of all sites at one moment.
#[derive(Clone, Debug)]
pub(super) struct States {
    pub(super) at: Instant,
    pub(super) sites: HashMap<Site, SiteState>,
}

impl States {
    /// Those of a census.
    pub(super) fn of(census: &Census, at: Instant) -> Self {
        let mut sites: HashMap<Site, SiteState> = HashMap::new();
        let mut waited: HashMap<Site, Vec<Option<Duration>>> = HashMap::new();
        for goroutine in &census.goroutines {
            let site = census.origin(goroutine).into();
            let doing = goroutine.wait_reason.map_or(Doing::Other(goroutine.status), Doing::Waits);
            *sites.entry(site).or_default().doing.entry(doing).or_default() += 1;
            if goroutine.wait_reason.is_some() {
                waited.entry(site).or_default().push(census.waited(goroutine));
            }
        }
        for (site, mut waited) in waited {
            if let Some(state) = sites.get_mut(&site) {
                waited.sort_unstable();
                state.oldest = waited.last().copied().flatten();
                state.median = waited.get(waited.len() / 2).copied().flatten();
            }
        }
        Self { at, sites }
    }
}
