//! What the kernel's maps have no room for is counted all the same, or said.

#![allow(missing_docs, reason = "tests")]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use parkranger_tests::agent::Top;
use parkranger_tests::daemon::Daemon;
use parkranger_tests::go::{Program, Toolchain, Variant};
use parkranger_tests::on_these_go;
use parkranger_tests::skip::agent;
use parkranger_tests::target::{Exercise, Target};
use serde_json::Value;

on_these_go!(agent: [(go_1_27, 27)] sites_beyond_are_in_the_totals, processes_beyond_are_said);

fn sites_beyond_are_in_the_totals(go: &Toolchain) -> Result<()> {
    // The runtime's own goroutines are a few more.
    const RUNTIME: u64 = 20;
    let (_directory, path) = go.build(Program::Exercise, Variant::Plain)?.private_copy()?;
    let mut exercise = Exercise::start(&path)?;
    let top = Top::start_with(exercise.pid(), &["--max-sites", "8"])?;
    for site in exercise.names()?.spawn {
        exercise.spawn(&site, 100)?;
    }
    exercise.settle()?;
    let stats = exercise.stats()?;
    let last = top.finish()?;
    ensure!(last.losses["site_map_full"] > 0, "nothing was beyond: {:?}", last.losses);
    let (births, exits) = stats.sites.iter().fold((0, 0), |sum, site| (sum.0 + site.births, sum.1 + site.exits));
    for (what, counted, own) in [("births", last.births, births), ("exits", last.exits, exits)] {
        ensure!((own..own + RUNTIME).contains(&counted), "{counted} {what} counted of {own}");
    }
    let beyond = last.sites.iter().find(|site| site.function == "(unattributed)").context("no site for them")?;
    ensure!(beyond.births > 0 && beyond.births < last.births, "{} births without a site", beyond.births);
    Ok(())
}

fn processes_beyond_are_said(go: &Toolchain) -> Result<()> {
    let (_directory, path) = go.build(Program::Load, Variant::Plain)?.private_copy()?;
    let daemon = Daemon::start_with(&path, &["--max-processes", "2"])?;
    // What a hit costs was measured in the agent itself, which took one of the places.
    std::thread::sleep(Duration::from_secs(2));
    let watched = |process: &Value| process["baseline"] == true;
    let (first, second) = (Target::start(&path)?, Target::start(&path)?);
    for target in [&first, &second] {
        daemon.wait_until(target.pid(), "watched", watched)?;
    }
    let mut third = Target::start(&path)?;
    let _: Value = third.ask("start spawn")?;
    let begin = Instant::now();
    loop {
        let metrics = daemon.ok("/metrics")?.text()?.to_owned();
        let lost = metrics.lines().any(|line| {
            line.starts_with("parkranger_host_losses_total{loss=\"process_map_full\"}") && !line.ends_with(" 0")
        });
        if lost && metrics.contains("\nparkranger_refused_processes 1\n") {
            break;
        }
        ensure!(begin.elapsed() < Duration::from_secs(20), "nothing is said of the third process");
        std::thread::sleep(Duration::from_millis(100));
    }
    let all = daemon.ok("/api/v1/processes")?.json()?;
    let pids: Vec<u64> = all["processes"]
        .as_array()
        .context("processes")?
        .iter()
        .filter_map(|process| process["pid"].as_u64())
        .collect();
    ensure!(!pids.contains(&third.pid().into()), "the third is watched: {pids:?}");
    // A place becomes free.
    drop(first);
    daemon.wait_until(third.pid(), "watched", watched)?;
    ensure!(daemon.stop()?.success(), "the daemon did not end well");
    Ok(())
}
