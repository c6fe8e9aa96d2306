//! Births, exits and live goroutines of a helper's one `go` statement, by who called the helper.

#![allow(missing_docs, reason = "tests")]

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use parkranger_tests::agent::{Process, Top, run_once};
use parkranger_tests::daemon::Daemon;
use parkranger_tests::go::{Program, Toolchain, Variant};
use parkranger_tests::on_every_go;
use parkranger_tests::skip::agent;
use parkranger_tests::target::Target;
use serde_json::Value;

on_every_go!(agent: each_has_its_own, without_the_option_nobody_is_blamed, a_profile_has_them);

/// Goroutines of each caller, and those of them that stay.
const CALLERS: [(&str, u64, u64); 3] = [("main.callerA", 4000, 0), ("main.callerB", 300, 7), ("main.callerC", 50, 50)];

fn start(go: &Toolchain) -> Result<Target> {
    let mut target = Target::start(&go.build(Program::Callers, Variant::Plain)?.path)?;
    // From before: they belong to no caller.
    target.ask::<Value>("all 5 5 5 1 1 1")?;
    Ok(target)
}

fn all(target: &mut Target) -> Result<()> {
    let [a, b, c] = CALLERS;
    let command = format!("all {} {} {} {} {} {}", a.1, b.1, c.1, a.2, b.2, c.2);
    target.ask::<Value>(&command).map(drop)
}

/// Births, exits and live goroutines of a helper by caller.
fn by_caller(process: &Process, helper: &str) -> BTreeMap<String, (u64, u64, u64)> {
    let mut callers: BTreeMap<String, (u64, u64, u64)> = BTreeMap::new();
    for site in process.sites.iter().filter(|site| site.function.starts_with(helper)) {
        for caller in &site.callers {
            let name =
                caller.frames.iter().map(|frame| frame.function.as_str()).find(|name| *name != "main.waitGroupGo");
            let counts = callers.entry(name.unwrap_or_default().to_owned()).or_default();
            *counts = (counts.0 + caller.births, counts.1 + caller.exits, counts.2 + caller.live);
        }
    }
    callers
}

fn each_has_its_own(go: &Toolchain) -> Result<()> {
    let mut target = start(go)?;
    let mut top = Top::start_with(target.pid(), &["--callers"])?;
    for round in 1..=5 {
        all(&mut target)?;
        let helpers =
            ["main.(*group).Go", "main.each", if go.minor >= 25 { "sync.(*WaitGroup).Go" } else { "main.waitGroupGo" }];
        let expected: BTreeMap<String, (u64, u64, u64)> = CALLERS
            .iter()
            .map(|(name, births, stay)| ((*name).to_owned(), (births * round, (births - stay) * round, stay * round)))
            .collect();
        let exact = |process: &Process| helpers.iter().all(|helper| by_caller(process, helper) == expected);
        let process = top.wait_until("exact", |process| process.births > 13_000 * round)?;
        // A caller's last exit may be counted just behind the site's.
        if !exact(&process) {
            top.wait_until("exact by caller", exact).with_context(|| {
                let have: Vec<_> = helpers.iter().map(|helper| by_caller(&process, helper)).collect();
                format!("round {round}: {have:?} instead of {expected:?}")
            })?;
        }
    }
    let process = top.finish()?;
    ensure!(process.losses["caller_unknown"] == 0, "{:?}", process.losses);
    Ok(())
}

/// The first stack that was seen is not said to be everybody's.
fn without_the_option_nobody_is_blamed(go: &Toolchain) -> Result<()> {
    let mut target = start(go)?;
    let top = Top::start(target.pid())?;
    all(&mut target)?;
    let process = top.finish()?;
    ensure!(process.sites.iter().all(|site| site.callers.is_empty()), "{process:?}");
    let mut other = start(go)?;
    let pid = other.pid().to_string();
    let args = ["top", "--pid", &pid, "--stacks", "20", "--for", "3s", "--interval", "3s", "--budget", "off"];
    let text = std::thread::scope(|scope| {
        let shown = scope.spawn(|| run_once(args));
        std::thread::sleep(std::time::Duration::from_secs(1));
        all(&mut other)?;
        shown.join().map_err(|_| anyhow::anyhow!("no text"))?
    })?
    .stdout;
    let block =
        text.split("goroutines of ").find(|block| block.contains("main.(*group).Go\n")).context(text.clone())?;
    let (own, rest) = block.split_once("  first seen with this stack").context(block.to_owned())?;
    ensure!(own.contains("main.(*group).Go") && !own.contains("main.caller"), "{own}");
    ensure!(rest.contains("main.caller"), "{rest}");
    Ok(())
}

/// `go tool pprof` shows the callers in the profile of births, with what is live of each.
fn a_profile_has_them(go: &Toolchain) -> Result<()> {
    let program = go.build(Program::Callers, Variant::Plain)?.path;
    let mut target = start(go)?;
    let daemon = Daemon::start_with(&program, &["--callers"])?;
    daemon.wait_until(target.pid(), "watched", |process| process["baseline"] == true)?;
    all(&mut target)?;
    let born = |process: &Value| process["births"].as_u64() >= Some(13_050);
    daemon.wait_until(target.pid(), "counted", born)?;
    let profile = daemon.profile(target.pid(), "births");
    let top = go.tool(&["pprof", "-top", "-cum", "-sample_index=live", &profile])?;
    for (caller, _, live) in CALLERS {
        // flat flat% sum% cum cum% function: three helpers each
        let line = top.lines().find(|line| line.ends_with(&format!(" {caller}")));
        let shown = line.and_then(|line| line.split_whitespace().nth(3)?.parse::<u64>().ok()).unwrap_or(0);
        ensure!(shown == 3 * live, "{caller}: {shown} of {}: {top}", 3 * live);
    }
    Ok(())
}
