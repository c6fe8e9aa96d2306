//! Waits and lifetimes of the goroutines of a process, while its story was told.

use std::collections::{BTreeMap, HashMap};

use parkranger_common::{
    counts::ProcessId,
    story::{Histogram, LIFETIME, Spent, bound},
};

use super::{ProcessLedger, site};
use crate::kernel::Stories;

/// Waits and lifetimes of one process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Times {
    /// Waits by reason: from the park until it ran again, in the run queue too.
    pub waits: BTreeMap<u8, Histogram>,
    /// From its first run to its end.
    pub lifetimes: Histogram,
}

/// The same at one site, summed up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SiteTimes {
    /// Waits by reason.
    pub waits: BTreeMap<u8, Spent>,
    /// Lifetimes.
    pub lifetimes: Spent,
}

/// Upper bound of the bucket that holds the quantile `part` (0 to 1), in ns: up to a quarter too much. `None` for an empty
/// histogram, and in the last bucket, which has no bound.
#[must_use]
pub fn quantile(histogram: &Histogram, part: f64) -> Option<u64> {
    let wanted = part * histogram.count() as f64;
    let mut seen = 0;
    for (index, count) in histogram.buckets.iter().enumerate() {
        seen += count;
        if seen > 0 && seen as f64 >= wanted {
            return bound(index);
        }
    }
    None
}

/// Gives processes their times.
pub(super) fn apply(stories: &Stories, processes: &mut BTreeMap<ProcessId, ProcessLedger>) {
    let mut times: HashMap<ProcessId, Times> = HashMap::new();
    for (key, histogram) in &stories.histograms {
        let of_process = times.entry(key.process).or_default();
        match reason(key.of) {
            Some(reason) => _ = of_process.waits.insert(reason, *histogram),
            None => of_process.lifetimes = *histogram,
        }
    }
    for (id, times) in times {
        processes.entry(id).or_default().times = Some(Box::new(times));
    }
    for (key, spent) in &stories.spent {
        let tally = processes.entry(key.site.process).or_default().sites.entry(site(&key.site)).or_default();
        let times = tally.times.get_or_insert_default();
        match reason(key.of) {
            Some(reason) => _ = times.waits.insert(reason, *spent),
            None => times.lifetimes = *spent,
        }
    }
}

/// The wait reason; `None` for lifetimes.
fn reason(of: u64) -> Option<u8> {
    if of == LIFETIME { None } else { Some(u8::try_from(of).unwrap_or(u8::MAX)) }
}

#[cfg(test)]
mod tests {
    use parkranger_common::story::bucket;

    use super::*;

    #[test]
    fn quantiles_are_bounds() {
        let mut histogram = Histogram::EMPTY;
        assert_eq!(quantile(&histogram, 0.5), None);
        for ns in [100, 2_000, 2_000, 1_000_000] {
            histogram.buckets[bucket(ns)] += 1;
        }
        assert_eq!(quantile(&histogram, 0.25), Some(256));
        assert_eq!(quantile(&histogram, 0.5), Some(2048));
        assert_eq!(quantile(&histogram, 0.75), Some(2048));
        assert_eq!(quantile(&histogram, 0.99), bound(bucket(1_000_000)));
        histogram.buckets[bucket(u64::MAX)] += 9;
        assert_eq!(quantile(&histogram, 0.5), None, "nobody knows how long");
    }
}
