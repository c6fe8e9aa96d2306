//! What watching costs stays within the budget, and what is given up for that is said and comes back.

#![allow(missing_docs, reason = "tests")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use parkranger_tests::agent::{Process, Top};
use parkranger_tests::daemon::{Daemon, write_token};
use parkranger_tests::go::{Program, Toolchain, Variant};
use parkranger_tests::http::{get_with, send};
use parkranger_tests::on_these_go;
use parkranger_tests::skip::agent;
use parkranger_tests::target::Target;
use serde::Deserialize;

on_these_go!(agent: [(go_1_27, 27)] parks_are_sampled, births_are_sampled, births_are_left_to_censuses_and_come_back, what_is_chosen_stays, idle_is_full, a_request_changes_it, agents_begun_together_know_what_a_hit_costs);

/// What `stop` answers; see `programs/load/main.go`.
#[derive(Deserialize)]
struct Done {
    operations: u64,
}

#[derive(Deserialize)]
struct Begun {}

/// The default budget.
const BUDGET: f64 = 0.01;
/// Windows of programs that do nothing else are some ten seconds apart, and one of them says little.
const SEVERAL_WINDOWS: Duration = Duration::from_secs(45);

/// A load of its own inode: what other tests run must not decide about it.
fn load(go: &Toolchain) -> Result<(tempfile::TempDir, PathBuf)> {
    go.build(Program::Load, Variant::Plain)?.private_copy()
}

fn parks_are_sampled(go: &Toolchain) -> Result<()> {
    let (_directory, path) = load(go)?;
    let mut target = Target::start(&path)?;
    let _: Begun = target.ask("start pingpong")?;
    let mut top = Top::start_with(target.pid(), &["--budget", "1"])?;
    let sampled = top.wait_until("sampling", |process| process.fidelity == "sampled")?;
    ensure!(sampled.fidelity_changes == 1, "{} steps", sampled.fidelity_changes);
    let cheap = |process: &Process| process.cost.is_some_and(|cost| cost <= BUDGET);
    top.wait_until("within its budget", cheap)?;
    let begin: Done = target.ask("done")?;
    let first = top.wait_until("going on", |_| true)?;
    std::thread::sleep(SEVERAL_WINDOWS);
    let end: Done = target.ask("done")?;
    let last = top.finish()?;
    ensure!(last.fidelity == "sampled", "{}", last.fidelity);
    ensure!(last.sites.iter().all(|site| site.approximate), "estimates are to be marked");
    let share = last.window_share.context("no window share")?;
    ensure!(share > 0.0 && share < 0.1, "parks are counted in {share} of the time");
    ensure!(last.uncounted.births_exits_seconds == 0.0, "{:?}", last.uncounted);
    // Each operation is two parks. Few windows are left of a program that does nothing but park.
    let (parks, done) = (last.parks - first.parks, 2 * (end.operations - begin.operations));
    ensure!(parks > done / 3 && parks < done * 3, "{parks} parks estimated, {done} done");
    Ok(())
}

fn births_are_sampled(go: &Toolchain) -> Result<()> {
    let (_directory, path) = load(go)?;
    let mut target = Target::start(&path)?;
    let _: Begun = target.ask("start spawn")?;
    let mut top = Top::start_with(target.pid(), &["--budget", "1"])?;
    top.wait_until("sparse", |process| process.fidelity == "sparse")?;
    let cheap = |process: &Process| process.cost.is_some_and(|cost| cost <= BUDGET);
    top.wait_until("within its budget", cheap)?;
    let begin: Done = target.ask("done")?;
    let first = top.wait_until("going on", |_| true)?;
    std::thread::sleep(SEVERAL_WINDOWS);
    let end: Done = target.ask("done")?;
    let last = top.finish()?;
    ensure!(
        last.fidelity == "sparse" && last.fidelity_changes == 1,
        "{} after {}",
        last.fidelity,
        last.fidelity_changes
    );
    ensure!(last.sites.iter().all(|site| site.approximate), "estimates are to be marked");
    ensure!(last.uncounted.births_exits_seconds == 0.0, "{:?}", last.uncounted);
    let share = last.window_share.context("no window share")?;
    ensure!(share > 0.0 && share < 0.1, "events are counted in {share} of the time");
    let of_spawn = |process: &Process| {
        let sites = process.sites.iter().filter(|site| site.function == "main.spawn");
        sites.fold((0, 0), |(births, exits), site| (births + site.births, exits + site.exits))
    };
    let ((births_before, exits_before), (births, exits)) = (of_spawn(&first), of_spawn(&last));
    let (births, exits, done) = (births - births_before, exits - exits_before, end.operations - begin.operations);
    // Few windows are left of a program that does nothing but start goroutines.
    for (events, name) in [(births, "births"), (exits, "exits")] {
        ensure!(events > done / 3 && events < done * 3, "{events} {name} estimated, {done} done");
    }
    // Those alive are counted by censuses, however many come and go.
    ensure!(last.baseline && last.goroutines.user < 10_000, "{:?}", last.goroutines);
    Ok(())
}

fn births_are_left_to_censuses_and_come_back(go: &Toolchain) -> Result<()> {
    let (_directory, path) = load(go)?;
    let mut target = Target::start(&path)?;
    // Perf probes come off too slowly for windows.
    for (attach, least, way) in
        [("uprobe-multi", "sparse", &["sampled", "full"][..]), ("perf-cookie", "census", &["lifecycle", "full"])]
    {
        // What was spent beyond the budget is paid back before the next try: a large one does that in seconds.
        let mut top = Top::start_with(target.pid(), &["--budget", "20", "--attach", attach])?;
        let _: Begun = target.ask("start spawn")?;
        let census = top.wait_until(least, |process| process.fidelity == least)?;
        ensure!(census.births > 0, "the beginning was counted");
        let seen = top.wait_until("seen by a census", |process| process.baseline && process.goroutines.user > 0)?;
        ensure!((seen.uncounted.births_exits_seconds > 0.0) == (least == "census"), "{:?}", seen.uncounted);
        ensure!(seen.sites.iter().all(|site| site.approximate), "lower bounds and estimates are to be marked");
        let _: Done = target.ask("stop")?;
        // Up step by step; each is tried for some seconds.
        let mut full = None;
        for fidelity in way {
            full = Some(top.wait_until(fidelity, |process| process.fidelity == *fidelity)?);
        }
        let gap = full.context("steps")?.uncounted;
        let last = top.wait_until("sure again", |process| process.baseline && process.goroutines.user == 1)?;
        ensure!(last.audits.drift == 0, "what went uncounted is no drift: {:?}", last.audits);
        ensure!(last.uncounted.births_exits_seconds == gap.births_exits_seconds, "everything is counted again");
        let (before, spawned) = (top.wait_until("going on", |_| true)?, 5);
        for _ in 0..spawned {
            let _: Begun = target.ask("start pingpong")?;
            let _: Done = target.ask("stop")?;
        }
        let births = |process: &Process| {
            process.sites.iter().filter(|site| site.function == "main.start").map(|site| site.births).sum::<u64>()
        };
        let after = births(&top.finish()?) - births(&before);
        ensure!(after == spawned, "{after} of {spawned} births");
    }
    Ok(())
}

fn what_is_chosen_stays(go: &Toolchain) -> Result<()> {
    let (_directory, path) = load(go)?;
    let mut target = Target::start(&path)?;
    for (args, fidelity, is_counted) in [
        (["--budget", "off", "--fidelity", "full"], "full", (true, true)),
        (["--budget", "off", "--fidelity", "lifecycle"], "lifecycle", (true, false)),
        (["--budget", "1", "--fidelity", "census"], "census", (false, false)),
    ] {
        let top = Top::start_with(target.pid(), &args)?;
        let _: Begun = target.ask("start spawn")?;
        std::thread::sleep(Duration::from_secs(1));
        let done: Done = target.ask("stop")?;
        let last = top.finish()?;
        ensure!(last.fidelity == fidelity && last.fidelity_changes == 0, "{} instead of {fidelity}", last.fidelity);
        let births: u64 = last.sites.iter().filter(|site| site.function == "main.spawn").map(|site| site.births).sum();
        ensure!(births == if is_counted.0 { done.operations } else { 0 }, "{births} births at {fidelity}");
        ensure!((last.parks > 0) == is_counted.1, "{} parks at {fidelity}", last.parks);
        ensure!((last.uncounted.births_exits_seconds == 0.0) == is_counted.0, "{:?}", last.uncounted);
        ensure!((last.uncounted.parks_seconds == 0.0) == is_counted.1, "{:?}", last.uncounted);
        ensure!(last.baseline && last.goroutines.user == 1, "{:?} at {fidelity}", last.goroutines);
    }
    Ok(())
}

fn idle_is_full(go: &Toolchain) -> Result<()> {
    let (_directory, path) = load(go)?;
    let mut target = Target::start(&path)?;
    let _: Begun = target.ask("start pingpong")?;
    let _: Done = target.ask("stop")?;
    let top = Top::start_with(target.pid(), &["--budget", "0.1"])?;
    std::thread::sleep(Duration::from_secs(3));
    let last = top.finish()?;
    ensure!(last.fidelity == "full" && last.fidelity_changes == 0, "{} of an idle process", last.fidelity);
    ensure!(last.sites.iter().all(|site| !site.approximate), "all is exact");
    Ok(())
}

/// Over HTTP, for a process that runs; with a token, and only with one.
fn a_request_changes_it(go: &Toolchain) -> Result<()> {
    const TOKEN: &str = "a-token-that-nobody-guesses";
    const AUTHORIZED: &[(&str, &str)] = &[("Authorization", "Bearer a-token-that-nobody-guesses")];
    let (directory, path) = load(go)?;
    let target = Target::start(&path)?;
    let change = |daemon: &Daemon, to: &str, headers| {
        let path = format!("/api/v1/processes/{}/fidelity?to={to}", target.pid());
        anyhow::Ok(send(daemon.address(), "PUT", &path, headers)?.status)
    };
    let open = Daemon::start_with(&path, &[])?;
    ensure!(change(&open, "census", &[])? == 403, "without a token nothing can be changed");
    ensure!(open.stop()?.success(), "the first daemon");

    let file = directory.path().join("token");
    write_token(&file, TOKEN)?;
    let daemon = Daemon::start_with(&path, &["--token-file", file.to_str().context("path")?])?;
    ensure!(change(&daemon, "census", &[])? == 401, "with the token only");
    ensure!(change(&daemon, "everything", AUTHORIZED)? == 400, "there is no such fidelity");
    for fidelity in ["census", "sparse", "lifecycle", "full"] {
        ensure!(change(&daemon, fidelity, AUTHORIZED)? == 204, "{fidelity}");
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let all = get_with(daemon.address(), "/api/v1/processes", AUTHORIZED)?;
            if all.json()?["processes"][0]["fidelity"] == fidelity {
                break;
            }
            ensure!(Instant::now() < deadline, "it is not {fidelity}: {:?}", all.text());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    ensure!(change(&daemon, "budget", AUTHORIZED)? == 204, "back to the budget");
    ensure!(daemon.stop()?.success(), "the second daemon");
    Ok(())
}

/// Each measures it on itself, and all of them run the same executable.
fn agents_begun_together_know_what_a_hit_costs(go: &Toolchain) -> Result<()> {
    let (_directory, path) = load(go)?;
    let target = Target::start(&path)?;
    let costs = |top: Top| -> Result<Vec<f64>> {
        let (_, heard) = top.finish_heard()?;
        let line = heard.lines().find_map(|line| line.split_once("counting costs ")).context("it did not say")?.1;
        let costs: Vec<f64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
        ensure!(costs.len() == 3, "{line}");
        Ok(costs)
    };
    let pid = target.pid();
    let begin = move || {
        let mut top = Top::start_with(pid, &["-v"])?;
        // Long enough for it to be measured.
        for _ in 0..5 {
            top.wait_until("going on", |_| true)?;
        }
        anyhow::Ok(top)
    };
    let least = costs(begin()?)?.into_iter().fold(f64::MAX, f64::min) / 4.0;
    for round in 0..4 {
        let tops: Vec<Top> = std::thread::scope(|scope| {
            let began: Vec<_> = (0..6).map(|_| scope.spawn(begin)).collect();
            began.into_iter().map(|top| top.join().expect("no panic")).collect::<Result<_>>()
        })?;
        for top in tops {
            let costs = costs(top)?;
            ensure!(costs.iter().all(|cost| *cost >= least), "round {round}: {costs:?} ns where one takes {least}");
        }
    }
    Ok(())
}
