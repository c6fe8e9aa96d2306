//! `cargo xtask test`: builds, runs every test of the workspace, and counts what ran, failed and was skipped.
//!
//! Unit tests run as cargo runs them. Tests against real Go programs run one at a time: they measure, and a small machine
//! has no room for two measurements. They use the agent as it ships, built with optimisations.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result};

use crate::{
    agent::{self, Profile, Workspace, hush},
    apt::Privilege,
    paths::Paths,
    setup,
    step::{cannot_start, ending, note, step},
};

/// Skips that CI accepts: how the harness's line begins, and why that is right. Any other skip fails in CI, so that a
/// machine which cannot run a test is noticed.
const ALLOWED_IN_CI: [(&str, &str); 1] =
    [("serve_deploy::unit_is_sound: there is no systemd-analyze", "a container has no systemd")];

/// Unit tests that read real Go programs are ignored by plain `cargo test`, which needs no Go. Here there is one. What is
/// skipped checks nothing: it writes test data or prints numbers.
const ON_REAL_GO: [&str; 5] = ["--include-ignored", "--skip", "refresh_functions", "--skip", "what_a_start_costs"];

/// What libtest counted, over all test programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Tally {
    passed: u32,
    failed: u32,
    ignored: u32,
}

impl Tally {
    /// Adds a line like `test result: ok. 3 passed; 0 failed; 1 ignored; ...`; other lines count nothing.
    fn add_line(&mut self, line: &str) {
        let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) else {
            return;
        };
        for count in counts.split("; ") {
            match count.split_once(' ').map(|(number, what)| (number.parse::<u32>().unwrap_or(0), what)) {
                Some((number, "passed")) => self.passed += number,
                Some((number, "failed")) => self.failed += number,
                Some((number, "ignored")) => self.ignored += number,
                _ => {}
            }
        }
    }
}

pub(crate) fn run(paths: &Paths, args: &[String]) -> Result<ExitCode> {
    let start = Instant::now();
    let go = setup::test(paths)?;
    if Privilege::find() != Privilege::Root {
        note("test", "not root: tests that load eBPF programs will be skipped, and counted");
    }
    let binary = step("build", "the agent (release)", || agent::build(paths, Profile::Release))?;

    let skips = paths.logs.join("skips.txt");
    fs::write(&skips, "").with_context(|| format!("cannot write {}", skips.display()))?;
    let workspace = Workspace::new(paths)?;
    let command = || {
        let mut command = workspace.compiling("test");
        command
            .args(["--workspace", "--no-fail-fast"])
            .env("PARKRANGER_BIN", &binary)
            .env("PARKRANGER_FIXTURES", paths.fixtures())
            .env("PARKRANGER_SKIPS", &skips)
            // An error's text says what differs; the stack of whoever wrapped it only hides that. Panics keep theirs.
            .env("RUST_LIB_BACKTRACE", "0")
            .envs(go.iter().map(|(name, path)| (name, path)));
        command
    };
    step("build", "the tests", || crate::step::openly(hush(command().arg("--no-run")), "the tests did not compile"))?;

    let mut tally = Tally::default();
    let mut succeeded = true;
    // The same packages each time: another selection would be other features, and so another build.
    let unit: &[&str] = &["--lib", "--bins"];
    let documentation: &[&str] = &["--doc"];
    let integration: &[&str] = &["--test", "*"];
    for (what, targets, one_at_a_time) in [
        ("unit tests, and the agent's tests on what each Go builds", unit, false),
        ("documentation tests", documentation, false),
        ("tests against real Go programs, one at a time", integration, true),
    ] {
        if one_at_a_time && !paths.root.join("tests/tests").is_dir() {
            continue;
        }
        note("test", what);
        let mut command = command();
        command.arg("--quiet").args(targets).arg("--").args(args.iter().filter(|arg| *arg != "--"));
        if one_at_a_time {
            command.arg("--test-threads=1");
        } else if targets == unit && !args.iter().any(|arg| arg.ends_with("ignored")) {
            command.args(ON_REAL_GO);
        }
        succeeded &= run_and_count(&mut command, &mut tally)?;
    }
    let skips = fs::read_to_string(&skips).unwrap_or_default();
    Ok(conclude(paths, tally, &skips, succeeded, start))
}

/// Shows the output of `cargo test` as it comes, and adds its counts to `tally`.
fn run_and_count(command: &mut Command, tally: &mut Tally) -> Result<bool> {
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(|error| cannot_start(command, &error))?;
    if let Some(stdout) = child.stdout.take() {
        let mut own = std::io::stdout();
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line?;
            own.write_all(&line)?;
            own.write_all(b"\n")?;
            tally.add_line(&String::from_utf8_lossy(&line));
        }
    }
    let status = child.wait()?;
    if !status.success() {
        eprintln!("error: `cargo test` {}", ending(status));
    }
    Ok(status.success())
}

/// Prints what was skipped and why, then the line that sums it up.
fn conclude(paths: &Paths, tally: Tally, skips: &str, succeeded: bool, start: Instant) -> ExitCode {
    let skipped: Vec<&str> = skips.lines().filter(|line| !line.trim().is_empty()).collect();
    for line in &skipped {
        println!("skipped: {line}");
    }
    let in_ci = env::var("CI").is_ok_and(|value| value == "true");
    let refused = skipped.iter().filter(|line| in_ci && !is_allowed_in_ci(line)).count();
    if refused > 0 {
        println!("{refused} of these skips are failures in CI: xtask/src/test.rs lists the ones that are not");
    }
    let ran = tally.passed + tally.failed;
    if ran == 0 {
        println!("no test ran: does the filter match one?");
    }
    println!("finished in {} s, logs in {}", start.elapsed().as_secs(), paths.shown(Path::new(&paths.logs)));
    // A test that skips itself has passed, as far as libtest knows.
    let skipped = u32::try_from(skipped.len()).unwrap_or(u32::MAX);
    println!(
        "test: {} passed, {} failed, {} skipped",
        tally.passed.saturating_sub(skipped),
        tally.failed,
        skipped + tally.ignored
    );
    if succeeded && refused == 0 && ran > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn is_allowed_in_ci(skip: &str) -> bool {
    ALLOWED_IN_CI.iter().any(|(start, _)| skip.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_add_up_and_other_lines_count_nothing() {
        let mut tally = Tally::default();
        tally
            .add_line("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s");
        tally.add_line("test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out");
        tally.add_line("7 passed; 7 failed");
        tally.add_line("test result: odd");
        assert_eq!(tally, Tally { passed: 14, failed: 1, ignored: 1 });
    }

    #[test]
    fn ci_accepts_no_unlisted_skip() {
        assert!(!is_allowed_in_ci("some_test: not root"));
    }
}
