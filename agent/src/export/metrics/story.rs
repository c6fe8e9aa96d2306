//! Waits and lifetimes of processes whose story is or was told, as classic histograms.

use parkranger_common::story::{Histogram, bound};
use prometheus::proto::{self, Bucket, LabelPair};

use super::family::{Family, label};
use crate::snapshot::ProcessSnapshot;

/// Of the ledger's buckets, four for each doubling, every eighth ends one here: four times as long as the one before, from
/// 1.024 µs to 275 s, as wide as that is.
const FIRST: usize = 3;
const STEP: usize = 8;
const BOUNDS: usize = 15;

pub(super) struct Story {
    waits: Family,
    lifetimes: Family,
    told: Family,
}

impl Story {
    pub(super) fn new() -> Self {
        Self {
            waits: Family::histogram(
                "parkranger_goroutine_wait_seconds",
                "From a goroutine's park until it ran again, by wait reason; only while fidelity is story.",
            ),
            lifetimes: Family::histogram(
                "parkranger_goroutine_lifetime_seconds",
                "From a goroutine's first run to its end; only of those with both while fidelity is story.",
            ),
            told: Family::counter("parkranger_story_seconds_total", "For how long fidelity was story."),
        }
    }

    pub(super) fn add(&mut self, own: &[LabelPair], process: &ProcessSnapshot) {
        let Some(story) = &process.story else { return };
        for (reason, times) in &story.waits {
            self.waits.observe(own.iter().cloned().chain([label("reason", reason)]).collect(), histogram(times));
        }
        self.lifetimes.observe(own.to_vec(), histogram(&story.lifetimes));
        self.told.add(own.to_vec(), story.telling.told.as_secs_f64());
    }

    pub(super) fn into_all(self) -> [Family; 3] {
        [self.waits, self.lifetimes, self.told]
    }
}

fn histogram(times: &Histogram) -> proto::Histogram {
    let mut below = 0;
    let mut from = 0;
    let mut buckets = Vec::with_capacity(BOUNDS);
    for last in (FIRST..).step_by(STEP).take(BOUNDS) {
        below += times.buckets.get(from..=last).unwrap_or_default().iter().sum::<u64>();
        from = last + 1;
        let Some(ns) = bound(last) else { break };
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(ns as f64 / 1e9);
        bucket.set_cumulative_count(below);
        buckets.push(bucket);
    }
    let mut histogram = proto::Histogram::default();
    histogram.set_sample_count(times.count());
    histogram.set_sample_sum(times.ns as f64 / 1e9);
    histogram.set_bucket(buckets);
    histogram
}

#[cfg(test)]
mod tests {
    use parkranger_common::story::bucket;

    use super::*;

    #[test]
    fn what_is_below_a_bound_is_counted_below_it() {
        let mut times = Histogram::EMPTY;
        let lengths = [0, 1_023, 1_024, 4_095, 4_096, 1 << 20, 1 << 36, 1 << 50];
        for ns in lengths {
            times.buckets[bucket(ns)] += 1;
            times.ns += ns;
        }
        let histogram = histogram(&times);
        let buckets = histogram.get_bucket();
        assert_eq!(buckets.len(), BOUNDS);
        for bucket in buckets {
            let below = lengths.iter().filter(|ns| (**ns as f64) / 1e9 < bucket.upper_bound()).count();
            assert_eq!(bucket.cumulative_count(), below as u64, "{}", bucket.upper_bound());
        }
        assert_eq!((buckets[0].upper_bound(), histogram.get_sample_count()), (1.024e-6, 8));
        assert!(buckets[BOUNDS - 1].upper_bound() > 270.0);
    }
}
