//! What was there before the attach, and the proof that the ledger is right.
//!
//! A settled window says how many goroutines each site has at its end. The first one gives the baseline: what the births
//! and exits counted until then do not explain. Each further one is an audit: what it finds must be what the ledger says.
//! If it is not, the difference is shown as drift and the baseline corrected.

use std::collections::{BTreeMap, BTreeSet};

use super::{ProcessLedger, Site};

/// The baseline of one process and its audits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baseline {
    /// Goroutines per site that no counted birth explains.
    sites: BTreeMap<Site, i64>,
    /// What was found of windows so far.
    pub audits: Audits,
}

/// What windows found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audits {
    /// Windows that were settled. The first one made the baseline.
    pub settled: u64,
    /// Windows that said nothing and were repeated.
    pub repeated: u64,
    /// Goroutines that ledger and census did not agree on, all audits together. Must be 0.
    pub drift: u64,
}

impl Baseline {
    /// Whether there was a settled window.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.audits.settled > 0
    }

    /// The baseline of a site.
    #[must_use]
    pub fn of(&self, site: Site) -> i64 {
        self.sites.get(&site).copied().unwrap_or_default()
    }

    /// The sites that have one.
    pub fn sites(&self) -> impl Iterator<Item = (Site, i64)> {
        self.sites.iter().map(|(site, count)| (*site, *count))
    }

    /// Takes what a window found: the goroutines `alive` at its end, and what was `counted` until then. Tells the drift.
    pub fn settle(&mut self, alive: &BTreeMap<Site, u64>, counted: &ProcessLedger) -> u64 {
        let mut sites: BTreeSet<Site> = alive.keys().copied().collect();
        sites.extend(counted.sites.keys());
        sites.extend(self.sites.keys());
        let mut found = BTreeMap::new();
        let mut drift = 0;
        for site in sites {
            let there = alive.get(&site).copied().unwrap_or_default().cast_signed();
            let tally = counted.sites.get(&site);
            let net = tally.map_or(0, |tally| tally.births.cast_signed().wrapping_sub(tally.exits.cast_signed()));
            let baseline = there.wrapping_sub(net);
            // C threads that call Go come and go without birth and exit: only the census counts them.
            if self.is_known() && !site.is_c_thread() {
                drift += baseline.abs_diff(self.of(site));
            }
            if baseline != 0 {
                found.insert(site, baseline);
            }
        }
        self.sites = found;
        self.audits.settled += 1;
        self.audits.drift += drift;
        drift
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{address::RuntimeAddr, ledger::Tally};

    const A: Site = Site { gopc: RuntimeAddr(16), startpc: RuntimeAddr(32) };
    const B: Site = Site { gopc: RuntimeAddr(48), startpc: RuntimeAddr(64) };
    const C_THREAD: Site = Site { gopc: RuntimeAddr(0), startpc: RuntimeAddr(0) };

    fn counted(entries: &[(Site, u64, u64)]) -> ProcessLedger {
        let tally = |births, exits| Tally { births, exits, ..Tally::default() };
        let sites = entries.iter().map(|(site, births, exits)| (*site, tally(*births, *exits))).collect();
        ProcessLedger { sites, ..ProcessLedger::default() }
    }

    #[test]
    fn the_first_window_explains_what_was_there_before() {
        let mut baseline = Baseline::default();
        // Ten were there before; four more came, two of all went. At B all that came went, and one that was there.
        let drift = baseline.settle(&BTreeMap::from([(A, 12)]), &counted(&[(A, 4, 2), (B, 7, 8)]));
        assert_eq!((drift, baseline.of(A), baseline.of(B)), (0, 10, 1));
        assert!(baseline.is_known());
    }

    #[test]
    fn an_audit_finds_what_went_missing() {
        let mut baseline = Baseline::default();
        baseline.settle(&BTreeMap::from([(A, 10), (C_THREAD, 1)]), &counted(&[]));
        let drift = baseline.settle(&BTreeMap::from([(A, 15), (C_THREAD, 3)]), &counted(&[(A, 6, 1)]));
        assert_eq!(drift, 0, "C threads are not counted by events");
        assert_eq!(baseline.of(C_THREAD), 3);
        let drift = baseline.settle(&BTreeMap::from([(A, 14), (B, 2)]), &counted(&[(A, 6, 1)]));
        assert_eq!((drift, baseline.audits.drift), (3, 3));
        assert_eq!((baseline.of(A), baseline.of(B)), (9, 2), "corrected");
        let drift = baseline.settle(&BTreeMap::from([(A, 14), (B, 2)]), &counted(&[(A, 6, 1)]));
        assert_eq!((drift, baseline.audits), (0, Audits { settled: 4, repeated: 0, drift: 3 }));
    }
}
