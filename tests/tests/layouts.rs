//! A layout is a hypothesis: memory proves it before a number is shown, or the process is refused with the reason.

#![allow(missing_docs, reason = "tests")]

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use parkranger_tests::{
    agent::{CheckTarget, check, run_once},
    executable,
    go::{Program, Toolchain, Variant, with_go},
    skip::agent,
    target::Exercise,
};

/// A stripped program that says it was built by another Go version.
fn posing(go: &Toolchain, version: &str) -> Result<(tempfile::TempDir, PathBuf)> {
    let (directory, path) = go.build(Program::Exercise, Variant::Stripped)?.private_copy()?;
    let mut bytes = fs::read(&path)?;
    let own = format!("go1.{}.", go.minor).into_bytes();
    let places: Vec<usize> = (0..bytes.len() - own.len()).filter(|at| bytes[*at..].starts_with(&own)).collect();
    ensure!(!places.is_empty(), "the program does not say its version");
    for at in places {
        bytes[at..at + version.len()].copy_from_slice(version.as_bytes());
    }
    executable::write(&bytes, &path)?;
    Ok((directory, path))
}

fn checked(go: &Toolchain, version: &str) -> Result<CheckTarget> {
    let (_directory, path) = posing(go, version)?;
    let mut exercise = Exercise::start(&path)?;
    exercise.names()?;
    let pid = exercise.pid().to_string();
    let output = run_once(["check", "--json", "--pid", &pid])?;
    let report: parkranger_tests::agent::CheckReport = serde_json::from_str(&output.stdout)?;
    report.targets.into_iter().next().context("no target")
}

#[test]
fn a_newer_version_is_accepted_by_its_memory() {
    with_go("a_newer_version_is_accepted_by_its_memory", 27, agent, |go| {
        let target = checked(go, "go1.99.")?;
        ensure!(target.watchable, "{:?}", target.reason);
        ensure!(target.go_version.as_deref().is_some_and(|version| version.starts_with("go1.99.")), "{target:?}");
        Ok(())
    });
}

#[test]
fn a_layout_that_memory_contradicts_is_refused() {
    with_go("a_layout_that_memory_contradicts_is_refused", 27, agent, |go| {
        let target = checked(go, "go1.22.")?;
        ensure!(!target.watchable, "watched by a wrong layout");
        let reason = target.reason.unwrap_or_default();
        ensure!(reason.contains("its memory contradicts the layout"), "{reason}");
        Ok(())
    });
}

#[test]
fn a_version_before_the_table_is_refused_by_name() {
    with_go("a_version_before_the_table_is_refused_by_name", 27, agent, |go| {
        let reason = checked(go, "go1.17.")?.reason.unwrap_or_default();
        ensure!(reason.contains("go1.17."), "{reason}");
        Ok(())
    });
}

#[test]
fn an_unchanged_program_is_watched() {
    with_go("an_unchanged_program_is_watched", 27, agent, |go| {
        let mut exercise = Exercise::start(&go.build(Program::Exercise, Variant::Stripped)?.path)?;
        exercise.names()?;
        let report = check(exercise.pid())?;
        ensure!(report.targets.iter().all(|target| target.watchable), "{report:?}");
        Ok(())
    });
}
