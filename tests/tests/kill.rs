//! The agent may die at any moment, as hard as can be: the target goes on, unharmed and unprobed.

#![allow(missing_docs, reason = "tests")]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use parkranger_tests::agent::Top;
use parkranger_tests::breakpoints::{changed_offsets, wait_until_clean};
use parkranger_tests::compare::consistent;
use parkranger_tests::go::{Program, Toolchain, Variant};
use parkranger_tests::on_every_go;
use parkranger_tests::skip::agent;
use parkranger_tests::target::Exercise;

on_every_go!(agent: killed_ten_times_under_load);

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
