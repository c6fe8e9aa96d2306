//! The story of a process: how long its goroutines wait and live, for JSON and for the table.

use std::{cmp::Reverse, collections::BTreeMap, fmt::Write as _, time::Duration};

use parkranger_common::story::{self, Histogram, bound};
use serde::Serialize;

use super::json::rounded;
use crate::{
    ledger::story::quantile,
    snapshot::{SiteSnapshot, StorySnapshot},
};

#[derive(Serialize)]
pub(super) struct Story<'a> {
    seconds: f64,
    ends_in_seconds: Option<f64>,
    waits: BTreeMap<&'a str, Times>,
    lifetimes: Times,
}

/// How long something took, how often.
#[derive(Serialize)]
struct Times {
    count: u64,
    seconds: f64,
    p50_seconds: Option<f64>,
    p90_seconds: Option<f64>,
    p99_seconds: Option<f64>,
    /// What is below a number of seconds, and not below the one before; the last bucket has no bound.
    buckets: Vec<(Option<f64>, u64)>,
}

#[derive(Serialize)]
pub(super) struct Spent {
    count: u64,
    seconds: f64,
}

/// The schema's form of a story.
pub(super) fn of(story: &StorySnapshot) -> Story<'_> {
    Story {
        seconds: rounded(story.telling.told.as_secs_f64(), 3),
        ends_in_seconds: story.telling.ends_in.map(|time| rounded(time.as_secs_f64(), 3)),
        waits: story.waits.iter().map(|(reason, histogram)| (reason.as_str(), times(histogram))).collect(),
        lifetimes: times(&story.lifetimes),
    }
}

fn times(histogram: &Histogram) -> Times {
    let at = |part| quantile(histogram, part).map(seconds);
    let used = histogram.buckets.iter().enumerate().filter(|(_, count)| **count > 0);
    Times {
        count: histogram.count(),
        seconds: seconds(histogram.ns),
        p50_seconds: at(0.5),
        p90_seconds: at(0.9),
        p99_seconds: at(0.99),
        buckets: used.map(|(bucket, count)| (bound(bucket).map(seconds), *count)).collect(),
    }
}

/// How long goroutines of a site waited, by reason.
pub(super) fn waited(site: &SiteSnapshot) -> BTreeMap<&str, Spent> {
    site.waited.iter().map(|(reason, time)| (reason.as_str(), spent(*time))).collect()
}

pub(super) fn spent(spent: story::Spent) -> Spent {
    Spent { count: spent.count, seconds: seconds(spent.ns) }
}

/// Exact: no number of ns that fits into 53 bits loses anything.
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// Reasons shown at most.
const REASONS: usize = 6;

/// How many lines [`render`] writes.
pub(super) fn lines(story: &StorySnapshot) -> usize {
    2 + story.waits.len().min(REASONS)
}

/// The story as a small table: the reasons that took most time, and lifetimes.
pub(super) fn render(text: &mut String, story: &StorySnapshot) {
    let mut waits: Vec<(&str, &Histogram)> =
        story.waits.iter().map(|(reason, times)| (reason.as_str(), times)).collect();
    waits.sort_by_key(|(reason, times)| (Reverse(times.ns), *reason));
    let end = story.telling.ends_in.map_or_else(String::new, |time| format!(", ends in {}", short(time)));
    let head = format!("story of {}{end}", short(story.telling.told));
    let _ = writeln!(text, "{head:<34} {:>9} {:>9} {:>9} {:>9} {:>9}", "COUNT", "TOTAL", "P50", "P90", "P99");
    for (reason, times) in waits.into_iter().take(REASONS) {
        row(text, &format!("waits: {reason}"), times);
    }
    row(text, "lifetimes", &story.lifetimes);
}

fn row(text: &mut String, name: &str, times: &Histogram) {
    let at = |part| match quantile(times, part) {
        Some(ns) => short(Duration::from_nanos(ns)),
        None if times.count() == 0 => String::new(),
        None => "longer".to_owned(),
    };
    let total = short(Duration::from_nanos(times.ns));
    let _ = writeln!(text, "{name:<34} {:>9} {total:>9} {:>9} {:>9} {:>9}", times.count(), at(0.5), at(0.9), at(0.99));
}

/// Three digits or so: 1.31ms, 12.4s.
fn short(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds >= 100.0 => format!("{seconds:.0}s"),
        0.0 => "0s".to_owned(),
        _ => format!("{time:.1?}"),
    }
}

#[cfg(test)]
mod tests {
    use parkranger_common::story::bucket;

    use super::*;

    #[test]
    fn a_table_of_the_longest() {
        let mut histogram = Histogram::EMPTY;
        histogram.buckets[bucket(5_000_000)] = 3;
        histogram.ns = 15_000_000;
        let times = |ns| {
            let mut times = histogram;
            times.ns = ns;
            times
        };
        let waits = (0..9).map(|number| (format!("reason {number}"), times(number))).collect();
        let story = StorySnapshot { waits, lifetimes: histogram, ..StorySnapshot::default() };
        let mut text = String::new();
        render(&mut text, &story);
        assert_eq!(text.lines().count(), lines(&story));
        assert!(text.contains("waits: reason 8") && !text.contains("waits: reason 2"), "{text}");
        let last: Vec<&str> = text.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(last, ["lifetimes", "3", "15.0ms", "5.2ms", "5.2ms", "5.2ms"]);
    }
}
