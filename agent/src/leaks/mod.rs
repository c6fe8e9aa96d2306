//! Evidence ▶ findings: which goroutines leak, why, since when, and how sure that is.
//!
//! | file | does |
//! |---|---|
//! | `evidence` | groups goroutines by where they come from and where they are, and counts |
//! | `judge` | weighs what speaks for a leak and against |
//! | `name` | gives the shape its name |
//! | `pattern` | the names, and what would make each certain |
//! | `trend` | slopes and rates with their bounds |
//!
//! Pure: it takes a [`History`] and says what it makes of it. A leak is goroutines that come to a place and stay: what
//! tells it from a pool is that they keep coming, from a queue that nobody of them goes, from slow work that nobody works for
//! them. Every piece of evidence has a weight, the logarithm of the factor by which it changes the odds; the weights were
//! set on two thirds of the corpus (`cargo xtask leaks`), and the figures of docs/leaks.md are of the other third.

mod evidence;
mod finding;
mod judge;
mod name;
mod pattern;
#[cfg(test)]
mod tests;
pub mod trend;

use std::time::Duration;

pub use finding::{Evidence, Finding};
pub use pattern::Pattern;

use crate::history::History;
use evidence::Crowd;

/// Findings below this confidence are not shown unless asked for.
pub const SHOWN: f64 = 0.5;
/// Above this a finding will hardly change.
pub const SURE: f64 = 0.95;
/// Findings kept of one process.
const MAX_FINDINGS: usize = 64;

/// Facts beside the history.
#[derive(Clone, Copy, Debug, Default)]
pub struct Circumstances {
    /// Age of the process when the history began.
    pub process_age: Option<Duration>,
}

/// Findings of a history: those of at least `least` confidence, the surest and largest first.
#[must_use]
pub fn findings(history: &History, circumstances: Circumstances, least: f64) -> Vec<Finding> {
    let Some(crowd) = Crowd::of(history) else { return Vec::new() };
    let groups = crowd.groups();
    let mut findings: Vec<Finding> =
        groups.iter().filter_map(|group| judge::finding(&crowd, group, &groups, circumstances)).collect();
    // The two goroutines of a connection, those at rest and those that moved of one site: the surer speaks for both.
    findings.sort_by(|one, other| {
        let rank = |finding: &Finding| finding.confidence + 0.02 * (finding.goroutines as f64).log10().min(4.0);
        rank(other).total_cmp(&rank(one)).then_with(|| one.site.cmp(&other.site))
    });
    let mut kept: Vec<Finding> = Vec::new();
    for finding in findings {
        let same = |other: &&mut Finding| other.site == finding.site && other.pattern == finding.pattern;
        if let Some(other) = kept.iter_mut().find(same) {
            other.goroutines += finding.goroutines;
            other.stack_bytes += finding.stack_bytes;
        } else if finding.confidence >= least && kept.len() < MAX_FINDINGS {
            kept.push(finding);
        }
    }
    kept
}
