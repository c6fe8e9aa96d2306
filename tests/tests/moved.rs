//! Processes whose code is not, or no longer, that of their file: no probe can fire there, and that is said.

#![allow(missing_docs, reason = "tests")]

use std::process::Command;

use anyhow::{Result, ensure};
use parkranger_tests::agent::{Process, Top};
use parkranger_tests::go::{Program, Toolchain, Variant};
use parkranger_tests::on_these_go;
use parkranger_tests::skip::agent;
use parkranger_tests::target::Target;
use serde_json::Value;

on_these_go!(agent: [(go_1_21, 21), (go_1_27, 27)] before_it_begins, later_and_back, written_over);

const OFTEN: [&str; 2] = ["--audit-every", "100ms"];

fn start(go: &Toolchain, moved: &str) -> Result<Target> {
    let (variant, program) = (Variant::Plain, Program::Moved);
    let mut target = Target::start_command(Command::new(go.build(program, variant)?.path).env("MOVED", moved))?;
    spawn(&mut target)?;
    Ok(target)
}

fn spawn(target: &mut Target) -> Result<()> {
    target.ask::<Value>("spawn 1000").map(drop)
}

/// Checks a process that no probe fires in: nothing is claimed to be counted, and the goroutines there are are known.
fn is_told(process: &Process) -> bool {
    process.fidelity == "census" && process.losses["breakpoint_missing"] > 0 && process.goroutines.user == 1
}

fn before_it_begins(go: &Toolchain) -> Result<()> {
    let mut target = start(go, "early")?;
    let mut top = Top::start_with(target.pid(), &OFTEN)?;
    spawn(&mut target)?;
    let process = top.wait_until("told of", is_told)?;
    ensure!(process.baseline && process.cost.is_none(), "{process:?}");
    let process = top.finish()?;
    ensure!(is_told(&process), "it is never said to be counted: {process:?}");
    Ok(())
}

/// The code goes, and the losses say so; it comes back with the kernel's breakpoints, and everything is counted again.
fn later_and_back(go: &Toolchain) -> Result<()> {
    let mut target = start(go, "")?;
    let mut top = Top::start_with(target.pid(), &OFTEN)?;
    spawn(&mut target)?;
    top.wait_until("counting", |process| process.fidelity == "full" && process.births >= 1000)?;
    target.ask::<Value>("move")?;
    top.wait_until_doing("told of", || spawn(&mut target), is_told)?;
    target.ask::<Value>("return")?;
    let back = |process: &Process| process.fidelity == "full" && process.baseline;
    let process = top.wait_until_doing("counting again", || spawn(&mut target), back)?;
    spawn(&mut target)?;
    let births = process.births + 1000;
    top.wait_until("counted again", |process| process.births >= births && process.goroutines.user == 1)?;
    Ok(())
}

fn written_over(go: &Toolchain) -> Result<()> {
    let mut target = start(go, "")?;
    let mut top = Top::start_with(target.pid(), &OFTEN)?;
    spawn(&mut target)?;
    top.wait_until("counting", |process| process.births >= 1000)?;
    target.ask::<Value>("patch")?;
    top.wait_until_doing("told of", || spawn(&mut target), is_told)?;
    Ok(())
}
