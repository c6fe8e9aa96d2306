//! `--budget` and `--fidelity`: what watching may cost, and how much is recorded.

use std::str::FromStr;

use clap::Args;
use serde::Deserialize;

use crate::governor::{Budget, Fidelity};

/// What watching may cost, or whatever it does.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Choice(pub(super) Option<Budget>);

impl Default for Choice {
    fn default() -> Self {
        Self(Some(Budget::DEFAULT))
    }
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        text.parse().map(|budget| Self(Some(budget))).map_err(|why: String| format!("{why}; or off"))
    }
}

impl TryFrom<String> for Choice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// For commands that watch.
#[derive(Clone, Debug, Args)]
pub(super) struct BudgetOptions {
    /// Limit of what watching costs a process, in per cent of the CPU time it uses by itself, or off; half a per cent of one core
    /// is always allowed. Where everything would cost more, parks are counted in short slices of time (and marked ~), then
    /// not at all, then births and exits by site neither: how many there are in all stays exact. [default: 1; with --pid 5,
    /// and two per cent of one core]
    #[arg(long, value_name = "PERCENT")]
    budget: Option<Choice>,
    /// Record no more than this. A story tells how long goroutines wait and live, whatever it costs: twice as much as
    /// counting.
    #[arg(long, value_enum, value_name = "FIDELITY", default_value_t = Fidelity::Full)]
    pub(super) fidelity: Fidelity,
}

impl BudgetOptions {
    /// Limit of what watching costs; `None` for no limit. A process that is `named` may cost more by default: someone asked
    /// for it, and will end it.
    pub(super) fn budget(&self, named: bool) -> Option<Budget> {
        match (self.budget, named) {
            (Some(choice), _) => choice.0,
            (None, true) => Some(Budget::NAMED),
            (None, false) => Some(Budget::DEFAULT),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_named_may_cost_more_unless_told_otherwise() {
        let options = |budget: Option<&str>| BudgetOptions {
            budget: budget.map(|text| text.parse().unwrap()),
            fidelity: Fidelity::Full,
        };
        assert_eq!(options(None).budget(false), Some(Budget::DEFAULT));
        assert_eq!(options(None).budget(true), Some(Budget::NAMED));
        assert_eq!(options(Some("1")).budget(true), Some(Budget::DEFAULT));
        assert_eq!(options(Some("off")).budget(true), None);
    }
}
