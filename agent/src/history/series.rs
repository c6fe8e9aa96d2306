//! Numbers of one site over time: each kept for minutes, then for hours at falling resolution, in bounded memory.
//!
//! Four levels, each eight times as coarse as the one before. A level that is full gives its two oldest points, as one, to
//! the next. A point that says the same as the last is not kept: an idle site costs one point.

use std::{collections::VecDeque, time::Duration};

/// Points of one level.
const POINTS: usize = 48;
/// Levels.
const LEVELS: usize = 4;
/// Ratio of the steps of each level and the one before.
const COARSER: u32 = 8;

/// Numbers of a site at one time; births and exits since the point before.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    /// When.
    pub time: Duration,
    /// Goroutines there were.
    pub live: u64,
    /// Goroutines there were that had not moved for a while.
    pub unmoved: u64,
    /// Goroutines seen for the first time.
    pub births: u64,
    /// Goroutines seen no more.
    pub exits: u64,
}

/// A site's points, the coarsest and oldest first.
#[derive(Clone, Debug, Default)]
pub struct Series {
    levels: [VecDeque<Point>; LEVELS],
    /// The newest, which has a place of its own: it may yet be lengthened.
    last: Option<Point>,
}

impl Series {
    /// Upper bound of the points kept.
    pub const MAX_POINTS: usize = POINTS * LEVELS + 1;

    /// Adds a point; times must not fall. `step` is the finest resolution.
    pub fn push(&mut self, point: Point, step: Duration) {
        let Some(last) = self.last.replace(point) else { return };
        // Nothing happened: the point before the last one tells as much, when a line is drawn between the two around.
        let quiet = |point: &Point| point.births == 0 && point.exits == 0;
        let flat = self.levels[0].back().is_some_and(|before| {
            (before.live, before.unmoved) == (last.live, last.unmoved)
                && (last.live, last.unmoved) == (point.live, point.unmoved)
        });
        if flat && quiet(&last) && quiet(&point) {
            return;
        }
        self.add(0, last, step);
    }

    fn add(&mut self, level: usize, point: Point, step: Duration) {
        let resolution = step * COARSER.pow(u32::try_from(level).unwrap_or(0));
        let Some(points) = self.levels.get_mut(level) else { return };
        match points.back_mut() {
            // Falls into the time of the one before: the two are one.
            Some(back) if point.time < back.time + resolution && level > 0 => {
                let (births, exits) = (back.births + point.births, back.exits + point.exits);
                // The point keeps the time it began with, so that the resolution holds.
                *back = Point { time: back.time, births, exits, ..point };
            }
            _ => points.push_back(point),
        }
        while let Some(oldest) = self.levels.get_mut(level).filter(|points| points.len() > POINTS) {
            let Some(oldest) = oldest.pop_front() else { break };
            self.add(level + 1, oldest, step);
        }
    }

    /// The points, oldest first.
    pub fn points(&self) -> impl Iterator<Item = &Point> {
        self.levels.iter().rev().flatten().chain(&self.last)
    }

    /// The newest.
    #[must_use]
    pub fn last(&self) -> Option<&Point> {
        self.last.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, live: u64) -> Point {
        Point { time: Duration::from_secs(seconds), live, births: 1, ..Point::default() }
    }

    #[test]
    fn hours_fit_and_sums_stay() {
        let mut series = Series::default();
        for second in 0..6 * 3600 {
            series.push(at(second, second), Duration::from_secs(1));
        }
        let points: Vec<_> = series.points().collect();
        assert!(points.len() <= Series::MAX_POINTS, "{}", points.len());
        assert!(points.is_sorted_by_key(|point| point.time));
        assert_eq!(series.last().unwrap().live, 6 * 3600 - 1);
        // The oldest are let go of only after the coarsest level is full: 48 × 512 s are more than six hours.
        assert_eq!(points[0].time, Duration::ZERO);
        assert_eq!(points.iter().map(|point| point.births).sum::<u64>(), 6 * 3600);
    }

    #[test]
    fn an_idle_site_costs_next_to_nothing() {
        let mut series = Series::default();
        for second in 0..10_000 {
            series.push(Point { births: 0, ..at(second, 5) }, Duration::from_secs(1));
        }
        assert!(series.points().count() <= 2, "{}", series.points().count());
        assert_eq!(series.last().unwrap().time, Duration::from_secs(9_999));
    }
}
