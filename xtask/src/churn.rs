//! `cargo xtask churn`: Go programs that come and go while the agent watches them all.

use std::process::ExitCode;

use anyhow::Result;

use crate::{go, paths::Paths, proof};

pub(crate) fn run(paths: &Paths, minutes: u64) -> Result<ExitCode> {
    let seconds = (minutes * 60).to_string();
    proof::run(paths, "churn", &go::TESTED, &[seconds], "not everything was seen")
}
