//! The JSON that scripts read: every field there, of its type, in every line; see `agent.rs` for the schema.

#![allow(missing_docs, reason = "tests")]

use anyhow::{Context, Result, ensure};
use parkranger_tests::agent::{Top, binary, check, parse, run_once, run_to_end};
use parkranger_tests::compare::consistent;
use parkranger_tests::go::{Program, Toolchain, Variant, with_go};
use parkranger_tests::skip::agent;
use parkranger_tests::target::Exercise;

fn started(go: &Toolchain) -> Result<Exercise> {
    let mut exercise = Exercise::start(&go.build(Program::Exercise, Variant::Plain)?.path)?;
    exercise.names()?;
    Ok(exercise)
}

/// `2026-11-21T01:02:03.456Z`, or with an offset.
fn is_rfc3339(time: &str) -> bool {
    let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let Some(rest) = shape.strip_prefix("0000-00-00T00:00:00") else { return false };
    let zone = rest.strip_prefix('.').map_or(rest, |fraction| fraction.trim_start_matches('0'));
    matches!(zone, "Z" | "+00:00" | "-00:00")
}

#[test]
fn once_is_one_object() {
    with_go("json::once_is_one_object", 27, agent, |go| {
        let exercise = started(go)?;
        let output = run_once(["top", "--once", "--json", "--pid", &exercise.pid().to_string()])?;
        ensure!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        ensure!(output.stdout.lines().count() == 1 && output.stdout.ends_with('\n'), "{output:?}");
        let report = parse(&output.stdout)?;
        ensure!(report.processes.len() == 1, "{report:?}");
        ensure!(is_rfc3339(&report.time), "{}", report.time);
        let process = report.process(exercise.pid()).context("the process asked for")?;
        ensure!(process.fidelity == "full" && process.start_time > 0, "{process:?}");
        ensure!(process.go_version.starts_with("go1.27"), "{process:?}");
        let exe = std::fs::read_link(format!("/proc/{}/exe", exercise.pid()))?;
        ensure!(exe.to_str() == Some(&process.exe), "{process:?}");
        consistent(process)
    });
}

#[test]
fn every_line_is_a_report_and_the_last_is_final() {
    with_go("json::every_line_is_a_report_and_the_last_is_final", 27, agent, |go| {
        let mut exercise = started(go)?;
        let mut top = Top::start(exercise.pid())?;
        exercise.spawn("plain", 1000)?;
        let seen = top.wait_until("counting", |process| process.births >= 1000)?;
        exercise.spawn("closure", 500)?;
        exercise.settle()?;
        // Nothing waits for the next interval here: only a last look can have the closures.
        let last = top.finish()?;
        ensure!(last.births >= seen.births + 500, "{} births, then {}", seen.births, last.births);
        ensure!(last.births >= 1500 && last.exits >= 1500, "{last:?}");
        consistent(&last)
    });
}

#[test]
fn for_a_while() {
    with_go("json::for_a_while", 27, agent, |go| {
        let mut exercise = started(go)?;
        let mut command = std::process::Command::new(binary()?);
        let pid = exercise.pid().to_string();
        command.args(["top", "--json", "--interval", "200ms", "--for", "1s", "--pid", &pid]);
        exercise.load_on()?;
        let output = run_to_end(command)?;
        exercise.load_off()?;
        ensure!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        let mut births = 0;
        for line in output.stdout.lines() {
            let report = parse(line)?;
            let process = report.process(exercise.pid()).context("the process asked for")?;
            ensure!(process.births >= births, "births never fall");
            births = process.births;
        }
        ensure!(births > 0 && output.stdout.lines().count() >= 3, "{output:?}");
        Ok(())
    });
}

#[test]
fn check_names_its_probes() {
    with_go("json::check_names_its_probes", 27, agent, |go| {
        let exercise = started(go)?;
        let report = check(exercise.pid())?;
        ensure!(report.schema == 1 && report.kernel.is_object() && report.targets.len() == 1, "{report:?}");
        let target = &report.targets[0];
        ensure!(target.watchable && target.reason.is_none() && target.pid == exercise.pid(), "{target:?}");
        ensure!(target.go_version.as_deref().is_some_and(|version| version.starts_with("go1.27")), "{target:?}");
        for event in ["birth", "park", "exit"] {
            let probe = report.probe(exercise.pid(), event)?;
            ensure!(probe.function.starts_with("runtime."), "{probe:?}");
            ensure!(probe.file_offset > 0 && probe.address > 0 && !probe.instruction.is_empty(), "{probe:?}");
        }
        Ok(())
    });
}
