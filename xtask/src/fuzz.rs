//! `cargo xtask fuzz`: every parser of hostile bytes under libFuzzer, one after the other, within stated time and memory.
//!
//! No nightly and no cargo-fuzz: the coverage instrumentation is a flag of every rustc, and the target is a program of
//! the `fuzz` package with libFuzzer linked in. What is new goes to a corpus outside the repository; `--keep` puts the
//! smallest part of it that covers as much into `fuzz/corpus/found`, which the package's test replays.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    agent::Workspace,
    paths::Paths,
    step::{note, openly},
};

/// In the order they run.
const PARSERS: [&str; 9] =
    ["binary", "debug-file", "dwarf", "gopclntab", "layout", "plan", "record", "saved", "wait-reasons"];

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

/// What any one input may cost. The target itself limits the processor time to 10 s; libFuzzer's clock runs on while
/// the machine does something else, and is for what sleeps or never ends.
const LIMITS: [&str; 3] = ["-rss_limit_mb=512", TIMEOUT, "-max_len=4096"];
const TIMEOUT: &str = "-timeout=120";

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// How long to fuzz each parser
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    minutes: u32,
    /// Put what was found into fuzz/corpus/found afterwards
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
        for folder in [&work, &found] {
            fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        unpack(paths, &work)?;
        note("fuzz", &format!("{parser}, {} minutes", options.minutes));
        let mut command = fuzzer(&target, parser);
        command
            .args(LIMITS)
            .args([format!("-max_total_time={}", options.minutes * 60), "-print_final_stats=1".to_owned()])
            .arg(format!("-artifact_prefix={}/", found.display()))
            .arg(&work)
            .args(["crafted", "seed"].map(|folder| paths.root.join("fuzz/corpus").join(folder)));
        if let Err(error) = openly(&mut command, &format!("{parser} broke; the input is in {}", paths.shown(&found))) {
            note("fuzz", &format!("{error:#}"));
            failed.push(parser);
        }
        if options.keep {
            keep(paths, &target, parser, &work)?;
        }
    }
    if !failed.is_empty() {
        bail!("{} of the parsers broke: {}", failed.len(), failed.join(", "));
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds the fuzz target and gives its path. In a target folder of its own: instrumented code is of no other use.
fn target(paths: &Paths) -> Result<PathBuf> {
    let triple = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let folder = paths.target.join("fuzz");
    let mut command = Workspace::new(paths)?.compiling_with("build", &INSTRUMENTATION);
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

/// Where the repository keeps what a parser's fuzzing found: one input to a line, in hex.
fn found_file(paths: &Paths, parser: &str) -> PathBuf {
    paths.root.join("fuzz/corpus/found").join(parser).with_extension("hex")
}

/// Writes every input of the repository into `work`: what broke one parser may break another.
fn unpack(paths: &Paths, work: &Path) -> Result<()> {
    for parser in PARSERS {
        let lines = fs::read_to_string(found_file(paths, parser)).unwrap_or_default();
        for (number, line) in lines.lines().enumerate() {
            let bytes = (0..line.len()).step_by(2).map(|at| u8::from_str_radix(line.get(at..at + 2).unwrap_or(""), 16));
            let bytes =
                bytes.collect::<Result<Vec<u8>, _>>().with_context(|| format!("{parser}.hex:{}", number + 1))?;
            let file = work.join(format!("{parser}-{number}"));
            fs::write(&file, bytes).with_context(|| format!("cannot write {}", file.display()))?;
        }
    }
    Ok(())
}

/// Replaces the repository's inputs of a parser with the smallest part of `work` that covers as much.
fn keep(paths: &Paths, target: &Path, parser: &str, work: &Path) -> Result<()> {
    let smallest = work.with_extension("smallest");
    fs::remove_dir_all(&smallest).ok();
    fs::create_dir_all(&smallest).with_context(|| format!("cannot create {}", smallest.display()))?;
    let mut command = fuzzer(target, parser);
    openly(command.args(["-merge=1", "-max_len=512", TIMEOUT]).args([&smallest, work]), "merging failed")?;
    let mut lines = Vec::new();
    for file in fs::read_dir(&smallest)? {
        let bytes = fs::read(file?.path())?;
        lines.push(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n");
    }
    lines.sort_by_key(|line| (line.len(), line.clone()));
    let file = found_file(paths, parser);
    fs::write(&file, lines.concat()).with_context(|| format!("cannot write {}", file.display()))
}
