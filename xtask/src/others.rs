//! `cargo xtask others`: other people's programs under watch.

use std::process::ExitCode;

use anyhow::Result;

use crate::{
    go::{NEWEST, TESTED},
    paths::Paths,
    proof,
};

pub(crate) fn run(paths: &Paths, short: bool) -> Result<ExitCode> {
    let args: &[String] = if short { &["short".to_owned()] } else { &[] };
    proof::run(paths, "others", &[TESTED[1], NEWEST], args, "not everything came out as it does alone")
}
