//! Goroutines from before the attach, and the proof that the ledger is right.
//!
//! An audit says how many goroutines each site has at its end. The first one gives the baseline: what the births and
//! exits counted until then do not explain. Each further one is an audit: what it finds must be what the ledger says. If
//! it is not, the difference is shown as drift and the baseline corrected.
//!
//! A thread of the target can be held up by the kernel between an event and its effect in memory, for as long as the
//! machine is busy, and then an audit is wrong by that goroutine. So what an audit finds is believed only where it is
//! what is known already, where nothing happened meanwhile, or when the next audit finds the same.

use std::collections::{BTreeMap, BTreeSet};

use super::{ProcessLedger, Site};

/// The baseline of one process and its audits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baseline {
    /// Goroutines per site that no counted birth explains.
    sites: BTreeMap<Site, i64>,
    /// Result of a single audit; another one has to confirm it.
    candidate: Option<BTreeMap<Site, i64>>,
    /// True while `sites` are those of now.
    known: bool,
    /// Results of the audits so far.
    pub audits: Audits,
}

/// Outcome of an audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is believed; the ledger was wrong by so many goroutines.
    Settled {
        /// 0 in a healthy run.
        drift: u64,
    },
    /// Another audit must find the same.
    Unconfirmed,
}

/// Results of audits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audits {
    /// Audits that were settled. The first one made the baseline.
    pub settled: u64,
    /// Audits that said nothing, or what no other confirmed, and were repeated.
    pub repeated: u64,
    /// Goroutines that ledger and census did not agree on, all audits together. Must be 0.
    pub drift: u64,
}

impl Baseline {
    /// True where there was a settled audit, and everything was counted since.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.known
    }

    /// Something went uncounted: the next audits make a new baseline.
    pub fn forget(&mut self) {
        self.known = false;
        self.candidate = None;
    }

    /// True where there ever was a settled audit.
    #[must_use]
    pub fn was_known(&self) -> bool {
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

    /// Takes what an audit found: the goroutines `alive` at its end, and what was `counted` until then. `quiet`: nothing
    /// was born and nothing ended meanwhile.
    pub fn settle(&mut self, alive: &BTreeMap<Site, u64>, counted: &ProcessLedger, quiet: bool) -> Verdict {
        let found = unexplained(alive, counted);
        let drift = if self.is_known() { differences(&self.sites, &found) } else { 0 };
        let agrees = self.is_known() && drift == 0;
        let confirmed = self.candidate.as_ref().is_some_and(|candidate| differences(candidate, &found) == 0);
        if !(agrees || quiet || confirmed) {
            self.candidate = Some(found);
            self.audits.repeated += 1;
            return Verdict::Unconfirmed;
        }
        self.candidate = None;
        self.known = true;
        self.sites = found;
        self.audits.settled += 1;
        self.audits.drift += drift;
        Verdict::Settled { drift }
    }
}

/// The goroutines alive that were not `counted`, by site.
fn unexplained(alive: &BTreeMap<Site, u64>, counted: &ProcessLedger) -> BTreeMap<Site, i64> {
    let mut found: BTreeMap<Site, i64> = alive.iter().map(|(site, count)| (*site, count.cast_signed())).collect();
    for (site, tally) in &counted.sites {
        let net = tally.births.cast_signed().wrapping_sub(tally.exits.cast_signed());
        let count = found.entry(*site).or_default();
        *count = count.wrapping_sub(net);
    }
    found.retain(|_, count| *count != 0);
    found
}

/// By how many goroutines two baselines differ. C threads that call Go come and go without birth and exit: only the
/// census counts them.
fn differences(one: &BTreeMap<Site, i64>, other: &BTreeMap<Site, i64>) -> u64 {
    let sites: BTreeSet<&Site> = one.keys().chain(other.keys()).collect();
    let count = |of: &BTreeMap<Site, i64>, site| of.get(site).copied().unwrap_or_default();
    sites.into_iter().filter(|site| !site.is_c_thread()).map(|site| count(one, site).abs_diff(count(other, site))).sum()
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
    fn the_first_audit_explains_what_was_there_before() {
        let mut baseline = Baseline::default();
        // Ten were there before; four more came, two of all went. At B all that came went, and one that was there.
        let counted = counted(&[(A, 4, 2), (B, 7, 8)]);
        assert_eq!(baseline.settle(&BTreeMap::from([(A, 12)]), &counted, false), Verdict::Unconfirmed);
        assert!(!baseline.is_known());
        assert_eq!(baseline.settle(&BTreeMap::from([(A, 12)]), &counted, false), Verdict::Settled { drift: 0 });
        assert_eq!((baseline.of(A), baseline.of(B)), (10, 1));
        assert!(baseline.is_known());
    }

    #[test]
    fn an_audit_finds_what_went_missing() {
        let mut baseline = Baseline::default();
        let quiet = baseline.settle(&BTreeMap::from([(A, 10), (C_THREAD, 1)]), &counted(&[]), true);
        assert_eq!(quiet, Verdict::Settled { drift: 0 });
        let one = baseline.settle(&BTreeMap::from([(A, 15), (C_THREAD, 3)]), &counted(&[(A, 6, 1)]), false);
        assert_eq!(one, Verdict::Settled { drift: 0 }, "C threads are not counted by events");
        assert_eq!(baseline.of(C_THREAD), 3);
        let strange = BTreeMap::from([(A, 14), (B, 2)]);
        assert_eq!(baseline.settle(&strange, &counted(&[(A, 6, 1)]), false), Verdict::Unconfirmed);
        let again = baseline.settle(&strange, &counted(&[(A, 7, 2)]), false);
        assert_eq!(again, Verdict::Settled { drift: 3 });
        assert_eq!((baseline.of(A), baseline.of(B)), (9, 2), "corrected");
        assert_eq!(baseline.audits, Audits { settled: 3, repeated: 1, drift: 3 });
    }

    #[test]
    fn after_a_gap_the_next_audits_make_a_new_baseline() {
        let mut baseline = Baseline::default();
        baseline.settle(&BTreeMap::from([(A, 10)]), &counted(&[]), true);
        baseline.forget();
        assert!(!baseline.is_known());
        assert!(baseline.was_known());
        let now = counted(&[(A, 5, 0)]);
        assert_eq!(baseline.settle(&BTreeMap::from([(A, 6)]), &now, false), Verdict::Unconfirmed);
        assert_eq!(baseline.settle(&BTreeMap::from([(A, 6)]), &now, false), Verdict::Settled { drift: 0 });
        assert_eq!((baseline.of(A), baseline.audits.drift), (1, 0), "what went uncounted is no drift");
    }

    #[test]
    fn a_single_strange_audit_changes_nothing() {
        let mut baseline = Baseline::default();
        baseline.settle(&BTreeMap::from([(A, 10)]), &counted(&[]), true);
        assert_eq!(baseline.settle(&BTreeMap::from([(A, 9)]), &counted(&[]), false), Verdict::Unconfirmed);
        let usual = baseline.settle(&BTreeMap::from([(A, 10)]), &counted(&[]), false);
        assert_eq!((usual, baseline.of(A), baseline.audits.drift), (Verdict::Settled { drift: 0 }, 10, 0));
    }
}
