//! A suspected leak, as it is shown.

use std::{sync::Arc, time::Duration};

use super::Pattern;
use crate::history::{
    place::{Place, Site},
    population::Kind,
};

/// A suspected leak.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Its shape.
    pub pattern: Pattern,
    /// Origin of its goroutines.
    pub site: Site,
    /// Place where they wait.
    pub place: Place,
    /// Lines that may be the cause, where it is not the site: with the share of the evidence each has.
    pub blamed: Vec<(String, f64)>,
    /// Goroutines that belong to it.
    pub goroutines: u64,
    /// Of these, those that came since it is watched.
    pub arrived: u64,
    /// Goroutines that had been there as long and went.
    pub departed: u64,
    /// Time that the process has been watched.
    pub watched: Duration,
    /// Goroutines per hour that came to stay.
    pub per_hour: f64,
    /// Bounds of that at 95 %.
    pub per_hour_bounds: (f64, f64),
    /// Time since the first of them came; at the least, where `since_is_bound`.
    pub since: Duration,
    /// True where they may have come earlier: they were there when the watch began.
    pub since_is_bound: bool,
    /// Time that half of them have not moved for.
    pub median_rest: Duration,
    /// Memory of their stacks.
    pub stack_bytes: u64,
    /// Object that they wait on, in words; "" where it is not known.
    pub waits_on: String,
    /// Probability that it is a leak, 0 to 1.
    pub confidence: f64,
    /// Reasons for it and against, each with its weight (natural logarithm of the odds).
    pub evidence: Vec<Evidence>,
    /// One of them.
    pub example: Arc<Kind>,
    /// Numbers of some of them.
    pub goids: Vec<u64>,
}

/// Something that speaks for a leak or against.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    /// In words.
    pub says: String,
    /// Natural logarithm of the factor by which it changes the odds.
    pub weight: f64,
}

impl Finding {
    /// Memory of their stacks that is added per hour.
    #[must_use]
    pub fn bytes_per_hour(&self) -> f64 {
        self.stack_bytes as f64 / self.goroutines.max(1) as f64 * self.per_hour
    }

    /// The function to look at first: the caller where a helper or library starts the goroutines, else the creator.
    #[must_use]
    pub fn function(&self) -> &str {
        match self.blamed.first() {
            Some((blamed, _)) => blamed.split(' ').next().unwrap_or_default(),
            None if !self.site.caller.is_empty() => &self.site.caller,
            None if !self.site.created_at.function.is_empty() => &self.site.created_at.function,
            None => &self.place.at.function,
        }
    }

    /// The line to look at first: `file.go:12`.
    #[must_use]
    pub fn location(&self) -> String {
        let short = |location: &crate::history::place::Location| {
            format!("{}:{}", location.file.rsplit('/').next().unwrap_or_default(), location.line)
        };
        match self.blamed.first() {
            Some((blamed, _)) => blamed.split([' ', ',']).nth(1).unwrap_or_default().to_owned(),
            None if self.site.caller.is_empty() && self.site.created_at.line > 0 => short(&self.site.created_at),
            None => short(&self.place.at),
        }
    }
}
