//! `parkranger ps`, and Go in a program that is none.

#![allow(missing_docs, reason = "tests")]

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use parkranger_tests::{
    agent::{Top, run_once},
    compare::same_counts,
    go::{Program, Toolchain, Variant},
    on_these_go, skip,
    target::{Exercise, Target},
};
use serde_json::Value;

on_these_go!(skip::agent: [(go_1_24, 24), (go_1_27, 27)] a_library_in_python_is_watched, ps_says_what_bites);

fn row(pid: u32) -> Result<Value> {
    let output = run_once(["ps", "--json", "--pid", &pid.to_string()])?;
    let list: Value = serde_json::from_str(&output.stdout).with_context(|| output.stderr.clone())?;
    list["processes"].get(0).cloned().with_context(|| format!("no process {pid} in {list}"))
}

fn a_library_in_python_is_watched(go: &Toolchain) -> Result<()> {
    let library = go.build(Program::Exercise, Variant::CShared)?.path;
    let mut exercise = Exercise::start_in_python(&library)?;
    exercise.names()?;
    let top = Top::start(exercise.pid())?;
    exercise.spawn("plain", 500)?;
    exercise.spawn("closure", 500)?;
    exercise.settle()?;
    let stats = exercise.stats()?;
    same_counts(&stats, &top.finish()?)?;
    let row = row(exercise.pid())?;
    ensure!(row["library"] == library.display().to_string(), "{row}");
    ensure!(row["go_version"] == stats.go_version && row["watchable"] == true, "{row}");
    ensure!(row["build"]["cgo"] == true && row["build"]["mode"] == "c-shared", "{row}");
    Ok(())
}

fn ps_says_what_bites(go: &Toolchain) -> Result<()> {
    let program = go.build(Program::Exercise, Variant::Stripped)?.path;
    let mut command = Command::new(&program);
    command.env("GODEBUG", "asyncpreemptoff=1").env("GOGC", "off").env("GOTRACEBACK", "none").env_remove("GOMEMLIMIT");
    let mut target = Target::start_command(&mut command)?;
    target.ask::<Value>("sites")?;
    let row = row(target.pid())?;
    ensure!(row["exe"] == program.display().to_string() && row["module"] == "exercise", "{row}");
    for (fact, expected) in [("stripped", true), ("pie", false), ("static", true), ("race", false), ("pgo", false)] {
        ensure!(row["build"][fact] == expected, "{fact}: {row}");
    }
    let warnings: Vec<&str> = row["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for expected in ["GODEBUG asyncpreemptoff=1", "GOGC=off without GOMEMLIMIT", "GOTRACEBACK=none"] {
        ensure!(warnings.iter().any(|warning| warning.starts_with(expected)), "no {expected:?} in {warnings:?}");
    }
    Ok(())
}
