//! The agent may die at any moment, as hard as can be: the target goes on, unharmed and unprobed.

#![allow(missing_docs, reason = "tests")]

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use parkranger_tests::agent::{Top, binary, signal};
use parkranger_tests::breakpoints::{changed_offsets, wait_until_clean};
use parkranger_tests::compare::consistent;
use parkranger_tests::go::{Program, Toolchain, Variant};
use parkranger_tests::skip::agent;
use parkranger_tests::target::Exercise;
use parkranger_tests::{on_every_go, on_these_go};

on_every_go!(agent: killed_ten_times_under_load);
on_these_go!(agent: [(go_1_27, 27)] killed_at_every_stage);

fn killed_ten_times_under_load(go: &Toolchain) -> Result<()> {
    // A copy of its own: another test's agent on the same file would leave its probes in this process too.
    let (_directory, path) = go.build(Program::Exercise, Variant::Plain)?.private_copy()?;
    let mut exercise = Exercise::start(&path)?;
    let pid = exercise.pid();
    exercise.load_on()?;
    let mut operations = 0;
    for round in 0..10 {
        let top = Top::start(pid).with_context(|| format!("attaching, round {round}"))?;
        ensure!(!changed_offsets(pid)?.is_empty(), "round {round}: attached, but there is no probe");
        // At a different moment of the agent's own rhythm each time.
        std::thread::sleep(Duration::from_millis(100 + 37 * round));
        top.kill()?;
        wait_until_clean(pid, Duration::from_secs(10)).with_context(|| format!("round {round}"))?;
        let check = exercise.check()?;
        ensure!(check.ok, "round {round}: {}", check.first_failure);
        ensure!(check.operations > operations, "round {round}: the target does no work");
        operations = check.operations;
    }
    let mut top = Top::start(pid)?;
    top.wait_until("counting", |process| process.births > 0 && process.parks > 0 && process.exits > 0)?;
    consistent(&top.finish()?).context("the one that was not killed")?;
    wait_until_clean(pid, Duration::from_secs(10))?;
    let check = exercise.load_off()?;
    ensure!(check.ok, "{}", check.first_failure);
    exercise.settle()
}

/// In how many steps it is killed over its whole start, and over its whole end.
const STEPS: u32 = 16;

/// In steps over its whole start, and over its whole end, by each way to attach.
fn killed_at_every_stage(go: &Toolchain) -> Result<()> {
    let (_directory, path) = go.build(Program::Exercise, Variant::Plain)?.private_copy()?;
    let mut exercise = Exercise::start(&path)?;
    exercise.load_on()?;
    for method in ["uprobe-multi", "perf-cookie", "perf"] {
        attaching(&mut exercise, method).with_context(|| format!("attaching through {method}"))?;
        detaching(&mut exercise, method).with_context(|| format!("detaching through {method}"))?;
    }
    let pid = exercise.pid();
    let mut top = Top::start(pid)?;
    top.wait_until("counting", |process| process.births > 0 && process.parks > 0 && process.exits > 0)?;
    consistent(&top.finish()?).context("the one that was not killed")?;
    let check = exercise.load_off()?;
    ensure!(check.ok, "{}", check.first_failure);
    exercise.settle()
}

fn attaching(exercise: &mut Exercise, method: &str) -> Result<()> {
    let pid = exercise.pid();
    let begin = Instant::now();
    drop(Top::start_with(pid, &["--attach", method])?);
    // From before it has done anything to after its first line.
    let whole = begin.elapsed();
    unharmed(exercise)?;
    for step in 0..STEPS {
        let delay = whole * step / STEPS;
        let mut agent = start(pid, method)?;
        std::thread::sleep(delay);
        agent.kill()?;
        agent.wait()?;
        unharmed(exercise).with_context(|| format!("killed after {delay:?} of {whole:?}"))?;
    }
    Ok(())
}

fn detaching(exercise: &mut Exercise, method: &str) -> Result<()> {
    let pid = exercise.pid();
    let mut whole = Duration::ZERO;
    for step in 0..=STEPS {
        let mut agent = start(pid, method)?;
        wait_until_attached(pid)?;
        std::thread::sleep(Duration::from_millis(20));
        signal(&agent, libc::SIGINT)?;
        let begin = Instant::now();
        if step == 0 {
            // How long it takes to end by itself.
            ensure!(agent.wait()?.success(), "it did not end well");
            whole = begin.elapsed();
        } else {
            std::thread::sleep(whole * step / STEPS);
            agent.kill()?;
            agent.wait()?;
        }
        unharmed(exercise).with_context(|| format!("killed in step {step} of {STEPS} of an end of {whole:?}"))?;
    }
    Ok(())
}

fn start(pid: u32, method: &str) -> Result<Child> {
    let args = ["top", "--json", "--budget", "off", "--attach", method, "--pid", &pid.to_string()];
    let mut command = Command::new(binary()?);
    Ok(command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
}

fn wait_until_attached(pid: u32) -> Result<()> {
    let begin = Instant::now();
    while changed_offsets(pid)?.is_empty() {
        ensure!(begin.elapsed() < Duration::from_secs(10), "no probe");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// The target's code is as in its file, and it does its work.
fn unharmed(exercise: &mut Exercise) -> Result<()> {
    wait_until_clean(exercise.pid(), Duration::from_secs(10))?;
    let before = exercise.check()?;
    ensure!(before.ok, "{}", before.first_failure);
    let begin = Instant::now();
    while exercise.check()?.operations == before.operations {
        ensure!(begin.elapsed() < Duration::from_secs(10), "the target does no work");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
