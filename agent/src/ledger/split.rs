//! Shown counts of a process while not all of its births and exits are counted.
//!
//! Three things are known of it then, and each is used for what it is good for:
//!
//! | source | gives |
//! |---|---|
//! | the runtime's own counts, at any time | how many goroutines were made and there are: totals, exact |
//! | the last census | how those there are split up by site, at that moment |
//! | slices of sampling, or what was counted before | how births split up by site |
//!
//! Of the totals nothing is guessed; the split is scaled to them. For every site and for all of them, births − exits =
//! live − baseline, live is never negative, and births and exits only grow. Where a census finds goroutines at another site
//! than was thought, the one site gets births and the other exits that never were; the totals are without them. The raw counters of slices say nothing of who is
//! there: they see a part of what happens.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use super::{ProcessLedger, Site, apportion::apportion};
use crate::program::GoroutineTotals;

/// Goroutines by site at one moment.
#[derive(Clone, Debug)]
pub(super) struct Census {
    pub(super) at: Instant,
    pub(super) alive: BTreeMap<Site, u64>,
}

/// Births and exits that were shown of a site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) births: u64,
    pub(super) exits: u64,
}

/// State of a process that is split, and of what is carried on afterwards.
#[derive(Clone, Debug, Default)]
pub(super) struct Split {
    /// Goroutines by site; `None` before anything is known of them.
    pub(super) census: Option<Census>,
    /// Sites whose goroutines are the runtime's own, as every census says.
    pub(super) system: BTreeSet<Site>,
    /// The runtime's own counts, as read last.
    totals: Option<GoroutineTotals>,
    /// Times that what is shown was made since that reading; 0 for one of now.
    made_since: u32,
    /// Goroutines that the runtime had made when births were counted from: `made` less all births.
    pub(super) made_before: Option<u64>,
    /// The same at the first reading.
    pub(super) first_made_before: Option<u64>,
    /// Added to the counts since, after times in which not everything was counted.
    pub(super) carried: BTreeMap<Site, Shown>,
    /// Counts shown last, while it is split.
    shown: BTreeMap<Site, Shown>,
    /// Births at all sites that were shown of the process, while it is split.
    births_shown: u64,
    /// Births, and as many exits, that the sites have more than the process: a census that found goroutines at another site
    /// than was thought made them there.
    pub(super) moved: u64,
    /// Goroutines that were there before, while it is split.
    baseline: Option<BTreeMap<Site, i64>>,
}

/// Counts and estimates of one site.
struct Entry {
    site: Site,
    counted: Shown,
    estimated_births: f64,
    live: u64,
}

impl Entry {
    /// Goroutines that were there before, if what was counted is all that happened.
    fn before(&self) -> (Site, i64) {
        let net = self.counted.births.cast_signed().wrapping_sub(self.counted.exits.cast_signed());
        (self.site, self.live.cast_signed().wrapping_sub(net))
    }
}

/// Readings of the runtime's own counts may fail so many times before the last one says nothing any more.
const MOST_FAILED: u32 = 3;

impl Split {
    /// Takes a reading of the runtime's own counts.
    pub(super) fn take_totals(&mut self, totals: GoroutineTotals) {
        self.totals = Some(totals);
        self.made_since = 0;
    }

    /// The shown counts were made: the last reading is older by one.
    pub(super) fn age(&mut self) {
        self.made_since += 1;
        if self.made_since > MOST_FAILED {
            self.totals = None;
        }
    }

    /// The runtime's own counts, as read last.
    pub(super) fn totals(&self) -> Option<GoroutineTotals> {
        self.totals
    }

    /// The same if they are of now.
    pub(super) fn totals_of_now(&self) -> Option<GoroutineTotals> {
        self.totals.filter(|_| self.made_since == 0)
    }

    /// All births since the attach, where the runtime's own counts tell.
    pub(super) fn births(&self) -> Option<u64> {
        self.totals?.made.checked_sub(self.made_before?)
    }

    /// Puts estimates that keep to the totals in place of what was counted. `process` has counts with those carried, and
    /// `estimated` gives the births of a site; `known` is the baseline that was known before, if one was.
    pub(super) fn show(
        &mut self,
        process: &mut ProcessLedger,
        estimated: impl Fn(Site) -> f64,
        known: Option<&BTreeMap<Site, i64>>,
    ) {
        let Some(census) = &self.census else { return };
        let mut entries = self.entries(process, estimated, |site| census.alive.get(&site).copied().unwrap_or_default());
        self.scale_live(&mut entries);
        let first = || known.cloned().unwrap_or_else(|| entries.iter().map(Entry::before).collect());
        let baseline = self.baseline.take().unwrap_or_else(first);
        self.put(process, &entries, &baseline);
        self.baseline = Some(baseline);
    }

    /// Everything is counted again, from a baseline that is known: `process` has counts with those carried, and its live
    /// goroutines. What was shown so far is carried on.
    pub(super) fn merge(&mut self, process: &mut ProcessLedger, estimated: impl Fn(Site) -> f64) {
        let Some(baseline) = self.baseline.take() else { return };
        let live = |site| process.sites.get(&site).map_or(0, |tally| u64::try_from(tally.live()).unwrap_or(0));
        let entries = self.entries(process, estimated, live);
        let counted: BTreeMap<Site, Shown> = entries.iter().map(|entry| (entry.site, entry.counted)).collect();
        self.put(process, &entries, &baseline);
        for (site, shown) in std::mem::take(&mut self.shown) {
            let counted = counted.get(&site).copied().unwrap_or_default();
            let carried = self.carried.entry(site).or_default();
            carried.births += shown.births.saturating_sub(counted.births);
            carried.exits += shown.exits.saturating_sub(counted.exits);
        }
        self.census = None;
        self.births_shown = 0;
    }

    fn entries(
        &self,
        process: &ProcessLedger,
        estimated: impl Fn(Site) -> f64,
        live: impl Fn(Site) -> u64,
    ) -> Vec<Entry> {
        let alive = self.census.iter().flat_map(|census| census.alive.keys());
        let sites: BTreeSet<Site> = process.sites.keys().chain(alive).chain(self.shown.keys()).copied().collect();
        let entry = |site| {
            let tally = process.sites.get(&site);
            let counted = tally.map_or_else(Shown::default, |tally| Shown { births: tally.births, exits: tally.exits });
            Entry { site, counted, estimated_births: estimated(site), live: live(site) }
        };
        sites.into_iter().map(entry).collect()
    }

    fn put(&mut self, process: &mut ProcessLedger, entries: &[Entry], baseline: &BTreeMap<Site, i64>) {
        // C threads come and go without birth and exit.
        let before = |entry: &Entry| match entry.site {
            site if site.is_c_thread() => entry.live.cast_signed(),
            site => baseline.get(&site).copied().unwrap_or_default(),
        };
        let before: Vec<i64> = entries.iter().map(before).collect();
        let total = self.births().map(|births| births.saturating_sub(process.unattributed.births));
        let births = self.split_births(entries, &before, total);
        if let Some(total) = total {
            // What was shown does not fall, be it that fewer births were under way when it was read.
            self.births_shown = self.births_shown.max(total);
            self.moved = births.iter().sum::<u64>().saturating_sub(self.births_shown);
        }
        for ((entry, baseline), births) in entries.iter().zip(before).zip(births) {
            let tally = process.sites.entry(entry.site).or_default();
            // Not negative: births are at least live less baseline.
            let exits = births.cast_signed().wrapping_add(baseline).wrapping_sub(entry.live.cast_signed());
            (tally.births, tally.exits, tally.baseline) = (births, u64::try_from(exits).unwrap_or(0), baseline);
            self.shown.insert(entry.site, Shown { births, exits: tally.exits });
        }
    }

    /// Moves what a census found to what the runtime says is there now: by what is born where, else by what is there.
    fn scale_live(&self, entries: &mut [Entry]) {
        let Some(totals) = self.totals else { return };
        let is_user = |entry: &Entry| !self.system.contains(&entry.site);
        let found: u64 = entries.iter().filter(|entry| is_user(entry)).map(|entry| entry.live).sum();
        let amount = totals.users.abs_diff(found);
        let grows = totals.users > found;
        let weight = |of: fn(&Entry) -> f64, entries: &[Entry]| -> Vec<f64> {
            entries.iter().map(|entry| if is_user(entry) { of(entry) } else { 0.0 }).collect()
        };
        let mut left = amount;
        for of in [|entry: &Entry| entry.estimated_births, |entry: &Entry| entry.live as f64] {
            let caps: Vec<u64> = entries.iter().map(|entry| if grows { u64::MAX } else { entry.live }).collect();
            let (parts, rest) = apportion(left, &weight(of, entries), &caps);
            for (entry, part) in entries.iter_mut().zip(parts) {
                entry.live = if grows { entry.live + part } else { entry.live - part };
            }
            left = rest;
        }
    }

    /// Births of each site: at least what was shown and what those alive need, all together `total` where that is known.
    fn split_births(&self, entries: &[Entry], before: &[i64], total: Option<u64>) -> Vec<u64> {
        let least = |(entry, before): (&Entry, &i64)| {
            let shown = self.shown.get(&entry.site).copied().unwrap_or_default();
            let exits = shown.exits.max(entry.counted.exits).cast_signed();
            let for_those_alive = exits.wrapping_add(entry.live.cast_signed()).wrapping_sub(*before);
            shown.births.max(entry.counted.births).max(u64::try_from(for_those_alive).unwrap_or(0))
        };
        let least: Vec<u64> = entries.iter().zip(before).map(least).collect();
        let estimated = || entries.iter().map(|entry| entry.estimated_births);
        let Some(total) = total else {
            return estimated()
                .zip(least)
                .map(|(estimate, least)| (estimate.round().max(0.0) as u64).max(least))
                .collect();
        };
        let mut births = least;
        let mut left = total.saturating_sub(births.iter().sum());
        let missing: Vec<f64> =
            estimated().zip(&births).map(|(estimate, least)| (estimate - *least as f64).max(0.0)).collect();
        let live: Vec<f64> = entries.iter().map(|entry| entry.live as f64).collect();
        let caps = vec![u64::MAX; entries.len()];
        for weights in [missing, estimated().collect(), live, vec![1.0; entries.len()]] {
            let (parts, rest) = apportion(left, &weights, &caps);
            births.iter_mut().zip(parts).for_each(|(births, part)| *births += part);
            left = rest;
        }
        births
    }
}
