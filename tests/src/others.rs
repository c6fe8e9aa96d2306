//! Other people's programs: the tests of Go's own standard library, which check the scheduler, timers and locks harder than
//! any program of ours, with and without the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::agent::signal;
use crate::daemon::Daemon;
use crate::go::Toolchain;

/// How often what came out differently is repeated without the agent, to see whether it does so by itself.
const REPETITIONS: u32 = 10;

/// How a test came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// `--- PASS`
    Passed,
    /// `--- FAIL`
    Failed,
    /// `--- SKIP`
    Skipped,
}

/// The tests of one package of the standard library, compiled.
#[derive(Debug)]
pub struct Suite {
    package: &'static str,
    program: PathBuf,
    goroot: PathBuf,
}

/// One run of a suite.
#[derive(Debug)]
pub struct Run {
    outcomes: BTreeMap<String, Outcome>,
    succeeded: bool,
    took: Duration,
}

/// What the agent counted in a run.
#[derive(Debug, Default)]
pub struct Counted {
    births: u64,
    parks: u64,
    losses: u64,
    drift: u64,
}

/// Runs with and without the agent.
#[derive(Debug)]
pub struct Comparison {
    name: String,
    alone: Vec<Run>,
    watched: Vec<Run>,
    counted: Counted,
    /// Tests that come out now one way, now another without the agent too.
    flaky: BTreeSet<String>,
    /// What came out watched as it never did alone.
    differences: Vec<String>,
}

impl Suite {
    /// Compiles the tests of a package.
    ///
    /// # Errors
    /// When that fails.
    pub fn build(go: &Toolchain, package: &'static str) -> Result<Suite> {
        Ok(Suite { package, program: go.build_tests(package)?.path, goroot: go.goroot()? })
    }

    /// Runs it alone and watched at full fidelity in turn, `rounds` times each, and what came out differently again.
    ///
    /// # Errors
    /// When the agent does not see a run, or something cannot be started.
    pub fn compare(&self, name: String, rounds: u32) -> Result<Comparison> {
        let (mut alone, mut watched, mut counted) = (Vec::new(), Vec::new(), Counted::default());
        for _ in 0..rounds {
            alone.push(self.run(None)?.0);
            let (run, seen) = self.watched()?;
            watched.push(run);
            counted.add(&seen);
        }
        let mut known = outcomes(&alone);
        let (mut flaky, mut differences) = (BTreeSet::new(), Vec::new());
        for (test, came_out) in outcomes(&watched) {
            let strange = |known: &BTreeMap<String, BTreeSet<Outcome>>| {
                let seen = known.get(&test).cloned().unwrap_or_default();
                came_out.difference(&seen).copied().collect::<BTreeSet<_>>()
            };
            let mut repetitions = 0;
            while !strange(&known).is_empty() && repetitions < REPETITIONS {
                merge(&mut known, &self.run(test.split('/').next())?.0);
                repetitions += 1;
            }
            let strange = strange(&known);
            if strange.is_empty() {
                if repetitions > 0 {
                    flaky.insert(test);
                }
            } else {
                differences.push(format!("{test}: {strange:?} only when watched"));
            }
        }
        let seen = outcomes(&watched);
        differences
            .extend(known.keys().filter(|test| !seen.contains_key(*test)).map(|test| format!("{test}: not run")));
        flaky.extend(known.into_iter().filter(|(_, outcomes)| outcomes.len() > 1).map(|(test, _)| test));
        Ok(Comparison { name, alone, watched, counted, flaky, differences })
    }

    /// One run under the agent.
    fn watched(&self) -> Result<(Run, Counted)> {
        let daemon = Daemon::start_with(&self.program, &["--keep-ended", "10m"])?;
        // One that stands still makes the binary known, so that nothing of the other is missed.
        let resident = Resident::start(&self.program)?;
        daemon.wait_until(resident.0.id(), "watched", |_| true)?;
        let (run, pid) = self.run(None)?;
        let ended = daemon.wait_until(pid, "ended", |process| process["ended"] == true)?;
        ensure!(daemon.stop()?.success(), "the daemon did not end well");
        Ok((run, Counted::of(&ended)?))
    }

    /// One run, of all tests or of one. Its pid goes with it.
    fn run(&self, only: Option<&str>) -> Result<(Run, u32)> {
        let scratch = tempfile::tempdir()?;
        let printed = scratch.path().join("printed");
        let output = File::create(&printed)?;
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(&self.program);
        command
            .args(["-test.v", "-test.short", "-test.timeout=30m"])
            .current_dir(self.goroot.join("src").join(self.package))
            .env("GOROOT", &self.goroot)
            .env("PATH", format!("{}:{path}", self.goroot.join("bin").display()))
            .env("GOTOOLCHAIN", "local")
            .env("GOPROXY", "off")
            .env("GOCACHE", std::env::temp_dir().join("parkranger-others-cache"))
            .env("TMPDIR", scratch.path())
            .stdin(Stdio::null())
            .stderr(output.try_clone()?)
            .stdout(output);
        if let Some(test) = only {
            command.arg(format!("-test.run=^{test}$"));
        }
        let began = Instant::now();
        let mut child = command.spawn().with_context(|| self.program.display().to_string())?;
        let succeeded = child.wait()?.success();
        let took = began.elapsed();
        let outcomes = parse(&String::from_utf8_lossy(&std::fs::read(&printed)?));
        ensure!(!outcomes.is_empty(), "{} ran no test", self.package);
        Ok((Run { outcomes, succeeded, took }, child.id()))
    }
}

/// A process that was stopped as it began. Killed when dropped.
struct Resident(Child);

impl Resident {
    fn start(program: &Path) -> Result<Resident> {
        let resident = Resident(Command::new(program).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?);
        signal(&resident.0, libc::SIGSTOP)?;
        Ok(resident)
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        // It may be gone already, which is just as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Counted {
    fn of(process: &Value) -> Result<Counted> {
        let number = |value: &Value| value.as_u64().with_context(|| format!("a number in {process}"));
        let losses = process["losses"].as_object().context("losses")?;
        Ok(Counted {
            births: number(&process["births"])?,
            parks: number(&process["parks"])?,
            losses: losses.values().filter_map(Value::as_u64).sum(),
            drift: number(&process["audits"]["drift"])?,
        })
    }

    fn add(&mut self, other: &Counted) {
        self.births += other.births;
        self.parks += other.parks;
        self.losses += other.losses;
        self.drift += other.drift;
    }
}

impl Comparison {
    /// Whether the agent changed nothing, and knows everything.
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.differences.is_empty() && self.counted.losses == 0 && self.counted.drift == 0 && self.counted.births > 0
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |runs: &[Run], outcome| {
            let of_run = |run: &Run| run.outcomes.values().filter(|other| **other == outcome).count();
            runs.iter().map(of_run).max().unwrap_or_default()
        };
        let seconds = |runs: &[Run]| runs.iter().map(|run| run.took.as_secs_f64()).sum::<f64>() / runs.len() as f64;
        let Counted { births, parks, losses, drift } = self.counted;
        write!(f, "{:<22} ", self.name)?;
        for (what, runs) in [("alone", &self.alone), ("watched", &self.watched)] {
            let well = runs.iter().filter(|run| run.succeeded).count();
            let [passed, failed, skipped] =
                [Outcome::Passed, Outcome::Failed, Outcome::Skipped].map(|outcome| number(runs, outcome));
            write!(
                f,
                "{what}: {passed} pass {failed} fail {skipped} skip, {well}/{} ok, {:.1} s  ",
                runs.len(),
                seconds(runs)
            )?;
        }
        write!(f, "counted: {births} births {parks} parks, lost {losses}, drift {drift}  ")?;
        write!(f, "{}", if self.is_same() { "same" } else { "DIFFERENT" })?;
        if !self.flaky.is_empty() {
            write!(f, "; also alone now this way, now that: {:?}", self.flaky)?;
        }
        for difference in &self.differences {
            write!(f, "\n    {difference}")?;
        }
        Ok(())
    }
}

/// All ways in which each test came out.
fn outcomes(runs: &[Run]) -> BTreeMap<String, BTreeSet<Outcome>> {
    let mut all = BTreeMap::new();
    runs.iter().for_each(|run| merge(&mut all, run));
    all
}

fn merge(all: &mut BTreeMap<String, BTreeSet<Outcome>>, run: &Run) {
    for (test, outcome) in &run.outcomes {
        all.entry(test.clone()).or_default().insert(*outcome);
    }
}

/// The outcomes in what `-test.v` prints. A test may leave a line of its own unfinished before it.
fn parse(printed: &str) -> BTreeMap<String, Outcome> {
    let marks = [("--- PASS: ", Outcome::Passed), ("--- FAIL: ", Outcome::Failed), ("--- SKIP: ", Outcome::Skipped)];
    let outcome = |line: &str| {
        marks.iter().find_map(|(mark, outcome)| {
            let (_, rest) = line.split_once(mark)?;
            let (test, time) = rest.split_once(" (")?;
            // "(0.00s)", and nothing that only looks like it.
            time.ends_with("s)").then(|| (test.to_owned(), *outcome))
        })
    };
    printed.lines().filter_map(outcome).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_found_in_what_is_printed() {
        let printed = "=== RUN   TestA\n    --- PASS: TestA/b (0.00s)\nhello--- FAIL: TestA (1.20s)\n--- SKIP: TestC (0.00s)\n    x.go:1: --- PASS: no\nPASS\n";
        let expected = [("TestA", Outcome::Failed), ("TestA/b", Outcome::Passed), ("TestC", Outcome::Skipped)];
        assert_eq!(parse(printed), expected.map(|(test, outcome)| (test.to_owned(), outcome)).into());
    }
}
