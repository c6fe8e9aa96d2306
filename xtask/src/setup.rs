//! What each command needs, installed where it is missing.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::ValueEnum;

use crate::{
    apt, ebpf, esbuild,
    go::{self, NEWEST, TESTED},
    paths::{Paths, in_path},
    schemathesis,
    step::note,
};

/// A command to be ready for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Purpose {
    /// Rust for eBPF, LLVM and bpf-linker: only for who changes the eBPF half
    Ebpf,
    /// The Go releases that the tests cover, Prometheus, schemathesis
    Test,
    /// The newest Go
    Demo,
    /// What test needs, and bpftrace to compare with
    Bench,
}

pub(crate) fn run(paths: &Paths, purpose: Purpose) -> Result<ExitCode> {
    match purpose {
        Purpose::Ebpf => ebpf::setup(paths)?,
        Purpose::Test => drop(test(paths)?),
        Purpose::Demo => drop(demo(paths)?),
        Purpose::Bench => drop(bench(paths)?),
    }
    note("setup", "complete");
    Ok(ExitCode::SUCCESS)
}

/// For `test`: the variables that tell the test harness where each Go, programs of older ones and the API's
/// tester are.
pub(crate) fn test(paths: &Paths) -> Result<Vec<(String, PathBuf)>> {
    go::ensure_c_compiler(paths)?;
    if in_path("prometheus").is_none() || in_path("promtool").is_none() {
        apt::ensure(paths, &["prometheus"], "as the tests have a real one scrape parkranger")?;
    }
    let schemathesis = (schemathesis::VARIABLE.to_owned(), schemathesis::ensure(paths)?);
    let go = TESTED.iter().map(|release| Ok((release.variable(), release.ensure(paths)?)));
    go.chain([Ok(schemathesis)]).chain(esbuild::ensure(paths)?.into_iter().map(Ok)).collect()
}

/// For `demo`: a `go`.
pub(crate) fn demo(paths: &Paths) -> Result<PathBuf> {
    NEWEST.ensure(paths)
}

/// For `bench`: as for `test`, and bpftrace.
pub(crate) fn bench(paths: &Paths) -> Result<Vec<(String, PathBuf)>> {
    if in_path("bpftrace").is_none() {
        apt::ensure(paths, &["bpftrace"], "as the benchmarks compare parkranger with it")?;
    }
    test(paths)
}
