//! `cargo xtask leaks`: how often findings are right, on the corpus of leaking and healthy services.

use std::process::ExitCode;

use anyhow::Result;

use crate::{go::NEWEST, paths::Paths, proof};

pub(crate) fn run(paths: &Paths, short: bool, words: &[String]) -> Result<ExitCode> {
    let mut args = words.to_vec();
    if short {
        args.push("short".to_owned());
    }
    proof::run(paths, "leaks", &[NEWEST], &args, "findings are not as often right as they should be")
}
