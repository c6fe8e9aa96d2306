//! A story's waits and lives are those that the target had: every one, and as long as they were.

#![allow(missing_docs, reason = "tests")]

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use parkranger_tests::agent::{Process, Site, Spent, Top};
use parkranger_tests::compare::{consistent, rows};
use parkranger_tests::daemon::{Daemon, write_token};
use parkranger_tests::go::{Program, Toolchain, Variant};
use parkranger_tests::http::{get_with, send};
use parkranger_tests::skip::agent;
use parkranger_tests::target::{Exercise, Target};
use parkranger_tests::{on_every_go, on_pgo_go, on_these_go};
use serde::Deserialize;

on_every_go!(agent: every_wait_and_life_is_told);
on_pgo_go!(agent: a_pgo_build_has_stories);
on_these_go!(agent: [(go_1_27, 27)] a_request_tells_a_story_for_a_while);

/// Goroutines of each kind, and how long they wait.
const N: u64 = 30;
const MS: u64 = 200;

/// What `wait` answers; see `programs/waits/main.go`.
#[derive(Deserialize)]
struct Waited {
    reason: String,
    least_wait_s: f64,
    most_wait_s: f64,
    least_life_s: f64,
    most_life_s: f64,
}

#[derive(Deserialize)]
struct Done {}

fn every_wait_and_life_is_told(go: &Toolchain) -> Result<()> {
    let mut target = Target::start(&go.build(Program::Waits, Variant::Plain)?.path)?;
    let _: Done = target.ask(&format!("older {N}"))?;
    let top = Top::start_with(target.pid(), &["--fidelity", "story"])?;
    let _: Done = target.ask("release")?;
    let mut kinds = Vec::new();
    for kind in ["sleep", "receive", "send", "select", "group"] {
        let waited: Waited = target.ask(&format!("wait {kind} {N} {MS}"))?;
        kinds.push(waited);
    }
    let agent = top.finish()?;
    ensure!(agent.fidelity == "story", "{}", agent.fidelity);
    let site = only(&agent, "main.wait", "main.waiter")?;
    for kind in &kinds {
        let waited = site.waited.get(&kind.reason).copied().unwrap_or_default();
        ensure!(waited.count == N, "{} waits for {}, not {N}: {site:?}", waited.count, kind.reason);
        within(waited, kind.least_wait_s, kind.most_wait_s, &kind.reason)?;
    }
    let lived = N * kinds.len() as u64;
    ensure!(site.lived.count == lived, "{} lives, not {lived}", site.lived.count);
    let sum = |of: fn(&Waited) -> f64| kinds.iter().map(of).sum::<f64>();
    within(site.lived, sum(|kind| kind.least_life_s), sum(|kind| kind.most_life_s), "lives")?;
    // Who is older than the story has no life in it, and what it waited for at its beginning is no wait.
    let older = only(&agent, "main.older", "main.behind")?;
    ensure!(older.exits == N && older.lived.count == 0, "{older:?}");
    ensure!(older.waited.values().all(|waited| waited.count == 0), "{older:?}");
    whole(&agent)
}

/// Thousands of sleeps, all of them told.
fn a_pgo_build_has_stories(go: &Toolchain) -> Result<()> {
    let mut exercise = Exercise::start(&go.build(Program::Exercise, Variant::Pgo)?.path)?;
    exercise.names()?;
    let top = Top::start_with(exercise.pid(), &["--fidelity", "story"])?;
    let parked = exercise.park(8, 1000)?;
    exercise.settle()?;
    let agent = top.finish()?;
    let rows = rows(&agent, &parked.function, &parked.start_function);
    let waited: u64 = rows.iter().filter_map(|row| row.waited.get(&parked.wait_reason)).map(|spent| spent.count).sum();
    ensure!(waited == parked.parks, "{waited} waits, not {}: {rows:?}", parked.parks);
    ensure!(rows.iter().all(|row| row.lived.count == row.exits && row.exits == row.births), "{rows:?}");
    whole(&agent)
}

fn only<'a>(agent: &'a Process, function: &str, start_function: &str) -> Result<&'a Site> {
    match rows(agent, function, start_function).as_slice() {
        [site] => Ok(site),
        others => anyhow::bail!("{} sites of {function}: {others:?}", others.len()),
    }
}

fn within(spent: Spent, least: f64, most: f64, what: &str) -> Result<()> {
    ensure!((least..=most).contains(&spent.seconds), "{what}: {} s, and {least} to {most} s were", spent.seconds);
    Ok(())
}

/// The process's histograms are the sums of its sites, no wait is without its park, and nothing is lost.
fn whole(agent: &Process) -> Result<()> {
    consistent(agent)?;
    let story = agent.story.as_ref().context("no story")?;
    let mut waits: BTreeMap<&str, u64> = BTreeMap::new();
    for (reason, waited) in agent.sites.iter().flat_map(|site| &site.waited) {
        *waits.entry(reason).or_default() += waited.count;
    }
    for (reason, times) in &story.waits {
        let parks: u64 = agent.sites.iter().filter_map(|site| site.waits.get(reason)).sum();
        ensure!(times.count <= parks, "{} waits for {reason} and {parks} parks", times.count);
        ensure!(waits.get(reason.as_str()) == Some(&times.count), "{reason}: {} and {waits:?}", times.count);
        ensure!(times.buckets.iter().map(|bucket| bucket.1).sum::<u64>() == times.count, "{times:?}");
    }
    ensure!(story.lifetimes.count == agent.sites.iter().map(|site| site.lived.count).sum::<u64>(), "lifetimes");
    ensure!(agent.losses.values().all(|lost| *lost == 0), "{:?}", agent.losses);
    Ok(())
}

fn a_request_tells_a_story_for_a_while(go: &Toolchain) -> Result<()> {
    const AUTHORIZED: &[(&str, &str)] = &[("Authorization", "Bearer a-token-that-nobody-guesses")];
    let (directory, path) = go.build(Program::Waits, Variant::Plain)?.private_copy()?;
    let mut target = Target::start(&path)?;
    let file = directory.path().join("token");
    write_token(&file, "a-token-that-nobody-guesses")?;
    let token = ["--token-file", file.to_str().context("path")?, "--interval", "200ms"];
    let daemon = Daemon::start_with(&path, &token)?;
    let base = format!("/api/v1/processes/{}", target.pid());
    let put = |query: &str| {
        let path = format!("{base}/fidelity?{query}");
        anyhow::Ok(send(daemon.address(), "PUT", &path, AUTHORIZED)?.status)
    };
    let process = |fidelity: &str| {
        for _ in 0..600 {
            let all = get_with(daemon.address(), "/api/v1/processes", AUTHORIZED)?.json()?;
            if all["processes"][0]["fidelity"] == fidelity {
                return Ok(all["processes"][0].clone());
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        anyhow::bail!("it is not {fidelity}")
    };
    process("full")?;
    ensure!(put("to=full&for=5s")? == 409, "only a story ends by itself");
    ensure!(put("to=story&for=5")? == 400 && put("to=story&for=2h")? == 400, "for how long?");
    ensure!(put("to=story&for=5s")? == 204, "a story");
    let begun = process("story")?;
    let left = begun["story"]["ends_in_seconds"].as_f64().context("it says when it ends")?;
    ensure!(left > 0.0 && left <= 5.0, "{left} s left");
    let waited: Waited = target.ask(&format!("wait receive {N} {MS}"))?;
    let ended = process("full")?;
    let story = &ended["story"];
    ensure!(story["ends_in_seconds"].is_null(), "it has ended: {story}");
    let told = story["seconds"].as_f64().context("for how long")?;
    ensure!((5.0..30.0).contains(&told), "told for {told} s");
    let sites = get_with(daemon.address(), &format!("{base}/sites?site=main.wait"), AUTHORIZED)?.json()?;
    let site = &sites["sites"][0];
    ensure!(site["waited"][&waited.reason]["count"] == N && site["lived"]["count"] == N, "{site}");
    // What came of it stays in the metrics, and in the profile of parks.
    let metrics = get_with(daemon.address(), "/metrics", AUTHORIZED)?;
    let line = |name: &str| metrics.text().ok()?.lines().find(|line| line.starts_with(name)).map(str::to_owned);
    ensure!(line("parkranger_goroutine_wait_seconds_bucket").is_some_and(|line| line.contains("le=\"")), "waits");
    ensure!(line("parkranger_goroutine_lifetime_seconds_count").is_some(), "lifetimes");
    ensure!(put("to=budget")? == 204, "back to the budget");
    ensure!(daemon.stop()?.success(), "the daemon ends");
    Ok(())
}
