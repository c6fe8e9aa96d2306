//! The agent's births, exits and live goroutines are exactly the target's own, site by site.

#![allow(missing_docs, reason = "tests")]

use anyhow::{Context, Result, ensure};
use parkranger_tests::agent::{Process, Top};
use parkranger_tests::compare::{rows, same_counts};
use parkranger_tests::go::{Program, Toolchain, Variant};
use parkranger_tests::on_every_go;
use parkranger_tests::skip::agent;
use parkranger_tests::target::{Exercise, Stats};

on_every_go!(agent: million, every_site, every_variant, every_way_to_attach, blocked_goroutines_are_live);

/// Has the program do something under watch, and gives what both sides counted of it.
fn watched(
    go: &Toolchain,
    variant: Variant,
    act: impl FnOnce(&mut Exercise) -> Result<()>,
) -> Result<(Stats, Process)> {
    watched_with(go, variant, &[], act)
}

/// [`watched`] with more arguments for the agent.
fn watched_with(
    go: &Toolchain,
    variant: Variant,
    args: &[&str],
    act: impl FnOnce(&mut Exercise) -> Result<()>,
) -> Result<(Stats, Process)> {
    let mut exercise = Exercise::start(&go.build(Program::Exercise, variant)?.path)?;
    exercise.names()?; // it has begun, and its runtime with it
    let top = Top::start_with(exercise.pid(), args)?;
    act(&mut exercise)?;
    exercise.settle()?;
    let stats = exercise.stats()?;
    Ok((stats, top.finish()?))
}

fn million(go: &Toolchain) -> Result<()> {
    let (stats, agent) = watched(go, Variant::Plain, Exercise::million)?;
    same_counts(&stats, &agent)?;
    ensure!(agent.births >= 1_000_002 && agent.exits >= 1_000_002, "{} births, {} exits", agent.births, agent.exits);
    Ok(())
}

/// Goexit, recovered panics, timers, coroutines, method values, closures, generics, inlined callers, deep stacks: each
/// alone and then among the others, with names and lines.
fn every_site(go: &Toolchain) -> Result<()> {
    let (stats, agent) = watched(go, Variant::Plain, spawn_everywhere)?;
    same_counts(&stats, &agent)?;
    ensure!(agent.go_version == stats.go_version, "{} is not {}", agent.go_version, stats.go_version);
    let starts = rows(&agent, "main.spawnStart", "main.workFirst");
    ensure!(starts.iter().map(|row| row.births).sum::<u64>() == 1000, "a third of 3000: {starts:?}");
    Ok(())
}

/// What a build leaves out or moves changes nothing of what is counted and how it is named.
fn every_variant(go: &Toolchain) -> Result<()> {
    let mut variants = vec![Variant::Stripped, Variant::Pie, Variant::TrimPath];
    if go.minor >= 21 {
        variants.push(Variant::Pgo);
    }
    for variant in variants {
        let (stats, agent) = watched(go, variant, spawn_everywhere).with_context(|| format!("{variant:?}"))?;
        same_counts(&stats, &agent).with_context(|| format!("{variant:?}"))?;
    }
    Ok(())
}

/// Older kernels have perf-event uprobes only, and the oldest no cookies.
fn every_way_to_attach(go: &Toolchain) -> Result<()> {
    for method in ["uprobe-multi", "perf-cookie", "perf"] {
        let (stats, agent) =
            watched_with(go, Variant::Plain, &["--attach", method], spawn_everywhere).context(method)?;
        same_counts(&stats, &agent).context(method)?;
    }
    Ok(())
}

fn spawn_everywhere(exercise: &mut Exercise) -> Result<()> {
    let names = exercise.names()?.spawn;
    for name in &names {
        exercise.spawn(name, 3000)?;
    }
    exercise.park(10, 10)?;
    exercise.load_on()?;
    std::thread::sleep(std::time::Duration::from_secs(1));
    let check = exercise.load_off()?;
    ensure!(check.ok, "{}", check.first_failure);
    Ok(())
}

fn blocked_goroutines_are_live(go: &Toolchain) -> Result<()> {
    let mut sites = Vec::new();
    let (stats, agent) = watched(go, Variant::Plain, |exercise| {
        for kind in exercise.names()?.block {
            sites.push(exercise.block(&kind, 7)?);
        }
        exercise.release()
    })?;
    same_counts(&stats, &agent)?;
    for site in sites {
        let live: i64 = rows(&agent, &site.function, &site.start_function).iter().map(|row| row.live).sum();
        let expected = if site.releasable { 0 } else { 7 };
        ensure!(live == expected, "{} has {live} live goroutines, not {expected}", site.function);
    }
    Ok(())
}
