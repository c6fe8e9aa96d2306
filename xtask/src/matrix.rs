//! `cargo xtask matrix`: every supported Go version by every way to build, the agent's counts against the program's own.

use std::process::ExitCode;

use anyhow::Result;

use crate::{go, paths::Paths, proof};

pub(crate) fn run(paths: &Paths, args: &[String]) -> Result<ExitCode> {
    go::ensure_c_compiler(paths)?;
    proof::run(paths, "matrix", &go::MATRIX, args, "the matrix is not all exact")
}
