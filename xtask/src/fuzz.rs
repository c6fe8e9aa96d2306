//! `cargo xtask fuzz`: every parser of hostile bytes under libFuzzer, one after the other, within stated time and memory.
//!
//! No nightly and no cargo-fuzz: the coverage instrumentation is a flag of every rustc, and the target is a program of
//! the `fuzz` package with libFuzzer linked in. What is new goes to a corpus outside the repository; `--keep` merges the
//! part of it that covers more into `fuzz/corpus`, which the package's test replays.

use std::{
    env, fs,
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    agent::Workspace,
    ebpf,
    paths::Paths,
    setup,
    step::{note, openly},
};

/// In the order they run.
const PARSERS: [&str; 7] = ["binary", "dwarf", "gopclntab", "layout", "plan", "record", "wait-reasons"];

/// Coverage for libFuzzer, and the checks of a debug build at nearly the speed of a release build.
const INSTRUMENTATION: [&str; 9] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cdebug-assertions=on",
    "-Coverflow-checks=on",
    "-Ccodegen-units=4",
    "--cfg=fuzzing",
];

/// What any one input may cost.
const LIMITS: [&str; 3] = ["-rss_limit_mb=512", "-timeout=10", "-max_len=4096"];

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// How long to fuzz each parser
    #[arg(long, default_value_t = 30)]
    minutes: u32,
    /// Merge what covers more into fuzz/corpus afterwards
    #[arg(long)]
    keep: bool,
    /// Only these parsers
    #[arg(value_parser = PARSERS)]
    parsers: Vec<String>,
}

pub(crate) fn run(paths: &Paths, options: &Options) -> Result<ExitCode> {
    let target = target(paths)?;
    let chosen = |parser: &&str| options.parsers.is_empty() || options.parsers.iter().any(|chosen| chosen == parser);
    let mut failed = Vec::new();
    for parser in PARSERS.into_iter().filter(chosen) {
        let work = paths.cache.join("fuzz").join(parser);
        let found = paths.target.join("fuzz-found").join(parser);
        let corpus = paths.root.join("fuzz/corpus").join(parser);
        for folder in [&work, &found, &corpus] {
            fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        note("fuzz", &format!("{parser}, {} minutes", options.minutes));
        let mut command = fuzzer(&target, parser);
        command
            .args(LIMITS)
            .args([format!("-max_total_time={}", options.minutes * 60), "-print_final_stats=1".to_owned()])
            .arg(format!("-artifact_prefix={}/", found.display()))
            .arg(&work)
            .args(corpora(paths)?);
        if let Err(error) = openly(&mut command, &format!("{parser} broke; the input is in {}", paths.shown(&found))) {
            note("fuzz", &format!("{error:#}"));
            failed.push(parser);
        }
        if options.keep {
            openly(
                fuzzer(&target, parser).args(["-merge=1", "-max_len=512"]).args([&corpus, &work]),
                "merging failed",
            )?;
        }
    }
    if !failed.is_empty() {
        bail!("{} of the parsers broke: {}", failed.len(), failed.join(", "));
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds the fuzz target and gives its path. In a target folder of its own: instrumented code is of no other use.
fn target(paths: &Paths) -> Result<std::path::PathBuf> {
    let triple = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let toolchain = setup::build(paths)?;
    let object = ebpf::build(paths, &toolchain)?;
    let folder = paths.target.join("fuzz");
    let mut command = Workspace::new(paths, &object)?.compiling_with("build", &INSTRUMENTATION);
    // The triple keeps the flags from build scripts.
    command
        .args(["--release", "--package", "parkranger-fuzz", "--bin", "fuzz", "--features", "parkranger-fuzz/libfuzzer"])
        .args(["--target", &triple])
        .env("CARGO_TARGET_DIR", &folder);
    openly(&mut command, "the fuzz target did not compile")?;
    Ok(folder.join(&triple).join("release/fuzz"))
}

fn fuzzer(target: &Path, parser: &str) -> Command {
    let mut command = Command::new(target);
    command.env("PARKRANGER_FUZZ", parser);
    command
}

/// Every folder of the committed corpus: what broke one parser may break another.
fn corpora(paths: &Paths) -> Result<Vec<std::path::PathBuf>> {
    let root = paths.root.join("fuzz/corpus");
    let folders = fs::read_dir(&root).with_context(|| format!("cannot read {}", root.display()))?;
    let mut folders = folders.map(|folder| Ok(folder?.path())).collect::<Result<Vec<_>>>()?;
    folders.sort();
    Ok(folders)
}
