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
    /// What watching may cost a process, in per cent of the CPU time it uses by itself, or off. Where everything would
    /// cost more, parks are counted in short windows (and marked ~), then not at all, then births and exits neither.
    #[arg(long, value_name = "PERCENT", default_value = "1")]
    pub(super) budget: Choice,
    /// Record no more than this. A story tells how long goroutines wait and live, whatever it costs: twice as much as
    /// counting.
    #[arg(long, value_enum, value_name = "FIDELITY", default_value_t = Fidelity::Full)]
    pub(super) fidelity: Fidelity,
}
