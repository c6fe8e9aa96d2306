//! What is read of goroutines from outside is what the runtime says of them itself.

#![allow(missing_docs, reason = "tests")]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use parkranger_tests::agent::Top;
use parkranger_tests::crowd::{Crowd, dump, dumped, goroutines};
use parkranger_tests::go::{Program, Toolchain, Variant};
use parkranger_tests::on_every_go;
use parkranger_tests::skip::agent;
use serde_json::Value;

on_every_go!(agent: dumps_are_the_same, forms, baseline, drift_under_churn, every_outcome);

/// Goroutine by goroutine: state, every frame with its line and offset, creator and its goroutine.
fn dumps_are_the_same(go: &Toolchain) -> Result<()> {
    for variant in [Variant::Plain, Variant::Stripped, Variant::Pie, Variant::TrimPath, Variant::Unoptimized] {
        let mut crowd = Crowd::start(&go.build(Program::Crowd, variant)?.path)?;
        let count = crowd.gather()?;
        let ours = goroutines(&dumped(crowd.pid(), &[])?)?;
        let own = goroutines(&crowd.own_dump()?)?;
        ensure!(ours.len() as u64 == count, "{variant:?}: {} goroutines of {count}", ours.len());
        let mut differences = Vec::new();
        for goid in own.keys().chain(ours.keys()) {
            // The main goroutine waits for a command, and then it writes a dump.
            if *goid != 1 && own.get(goid) != ours.get(goid) {
                let text =
                    |of: &BTreeMap<u64, Vec<String>>| of.get(goid).map_or("nothing".into(), |lines| lines.join("\n"));
                differences.push(format!("the runtime says\n{}\nand we\n{}", text(&own), text(&ours)));
            }
        }
        ensure!(differences.is_empty(), "{variant:?}: {}", differences.join("\n\n"));
    }
    Ok(())
}

/// Summary, profile, folded stacks and JSON agree with each other, and `go tool pprof` reads the profile.
fn forms(go: &Toolchain) -> Result<()> {
    let mut crowd = Crowd::start(&go.build(Program::Crowd, Variant::Stripped)?.path)?;
    let count = crowd.gather()?;
    let summary = dumped(crowd.pid(), &["--format", "summary"])?;
    ensure!(summary.starts_with(&format!("goroutine profile: total {count}\n")), "{summary}");
    ensure!(summary.contains(r#"# labels: {"endpoint":"/api", "tenant":"a b"}"#), "{summary}");
    let folded = dumped(crowd.pid(), &["--format", "folded"])?;
    let counts = folded.lines().map(|line| Ok(line.rsplit_once(' ').context("a line")?.1.parse::<u64>()?));
    ensure!(counts.sum::<Result<u64>>()? == count, "{folded}");

    let json: Value = serde_json::from_str(&dumped(crowd.pid(), &["--format", "json"])?)?;
    ensure!(json["user"] == count, "{json}");
    let all = json["goroutines"].as_array().context("goroutines")?;
    ensure!(all.len() as u64 == count, "{} goroutines", all.len());
    let of = |state: &str| all.iter().filter(|one| one["state"] == state).collect::<Vec<_>>();
    let select = of("select");
    ensure!(select.len() == 1 && select[0]["waits_on"].as_array().is_some_and(|on| on.len() == 3), "{select:?}");
    let sender = of("chan send");
    ensure!(sender[0]["waits_on"][0]["len"] == 3 && sender[0]["waits_on"][0]["cap"] == 3, "{sender:?}");
    let labeled = all.iter().filter(|one| one["labels"]["k9"] == "9").count();
    ensure!(labeled == 1, "{labeled} goroutines with ten labels");

    let directory = tempfile::tempdir()?;
    let profile = directory.path().join("profile");
    let path = profile.to_str().context("path")?;
    dumped(crowd.pid(), &["--format", "pprof", "-o", path])?;
    let mode = std::fs::metadata(&profile)?.permissions().mode();
    ensure!(mode & 0o777 == 0o600, "others can read it: {mode:o}");
    let top = go.tool(&["pprof", "-top", path])?;
    ensure!(top.contains(&format!("Total samples = {count} ")) && top.contains("main.inlinedOuter"), "{top}");
    let raw = go.tool(&["pprof", "-raw", path])?;
    ensure!(raw.contains("endpoint:[/api]") && raw.contains("[FN][FL][LN][IN]"), "{raw}");

    let only = ["--label", "endpoint=/api", "--state", "chan receive", "--site", "main.gather*"];
    ensure!(goroutines(&dumped(crowd.pid(), &only)?)?.len() == 2, "two goroutines have that label");
    Ok(())
}

/// Goroutines from before the attach are in `live`, and their ends are no surprise.
fn baseline(go: &Toolchain) -> Result<()> {
    let mut crowd = Crowd::start(&go.build(Program::Crowd, Variant::Plain)?.path)?;
    crowd.gather()?;
    crowd.churn(true)?;
    let top = Top::start_with(crowd.pid(), &["--audit-every", "300ms"])?;
    std::thread::sleep(Duration::from_secs(2));
    crowd.churn(false)?;
    std::thread::sleep(Duration::from_millis(600));
    let count = crowd.count()?;
    let process = top.finish()?;
    ensure!(process.baseline && process.audits.settled > 1, "{:?}", process.audits);
    ensure!(process.goroutines.user as u64 == count, "{:?}, NumGoroutine is {count}", process.goroutines);
    ensure!(process.audits.drift == 0, "{:?}", process.audits);
    for site in &process.sites {
        ensure!(site.live >= 0, "fewer than none: {site:?}");
    }
    let breeders = process.sites.iter().find(|site| site.start_function == "main.breed").context("main.breed")?;
    ensure!(breeders.exits > 0 && breeders.births == 0 && breeders.live == 0, "{breeders:?}");
    Ok(())
}

/// Audit after audit, while goroutines come and go as fast as they can.
fn drift_under_churn(go: &Toolchain) -> Result<()> {
    let mut crowd = Crowd::start(&go.build(Program::Crowd, Variant::Stripped)?.path)?;
    crowd.gather()?;
    crowd.churn(true)?;
    let top = Top::start_with(crowd.pid(), &["--audit-every", "50ms"])?;
    std::thread::sleep(Duration::from_secs(4));
    let process = top.finish()?;
    ensure!(process.audits.settled >= 5 && process.audits.drift == 0, "{:?}", process.audits);
    ensure!(process.births > 10_000, "{} births", process.births);
    Ok(())
}

/// Ended, stopped, replaced, no Go: each has its answer, soon.
fn every_outcome(go: &Toolchain) -> Result<()> {
    let program = go.build(Program::Crowd, Variant::Plain)?.path;
    let mut crowd = Crowd::start(&program)?;
    let count = crowd.gather()?;
    let pid = crowd.pid().to_string();
    let signal = |name: &str| Command::new("kill").args([name, &pid]).status();
    signal("-STOP")?;
    let stopped = goroutines(&dumped(crowd.pid(), &[])?)?;
    signal("-CONT")?;
    ensure!(stopped.len() as u64 == count, "{} of {count} goroutines while it is stopped", stopped.len());

    let mut sleep = Command::new("sleep").arg("100").spawn()?;
    let other = dump(sleep.id(), &[])?;
    sleep.kill()?;
    sleep.wait()?;
    ensure!(other.status.code() == Some(3), "no Go program: {other:?}");
    let gone = dump(sleep.id(), &[])?;
    ensure!(gone.status.code() == Some(1), "no process: {gone:?}");

    // It becomes another program again and again; each dump is whole or refused.
    let script = format!("exec {} < /dev/zero", program.display());
    let looping =
        format!("i=0; while [ $i -lt 200 ]; do i=$((i+1)); (exec sh -c '{script}' & p=$!; sleep 0.01; kill $p) ; done");
    let mut shell = Command::new("sh").args(["-c", &looping]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(3) {
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            let exe = std::fs::read_link(entry.path().join("exe")).unwrap_or_default();
            if exe == program && pid != crowd.pid() {
                let output = dump(pid, &[])?;
                let code = output.status.code();
                ensure!(matches!(code, Some(0 | 1 | 3)), "{output:?}");
                if code == Some(0) {
                    goroutines(&String::from_utf8(output.stdout)?)?;
                }
            }
        }
    }
    shell.kill()?;
    shell.wait()?;
    Ok(())
}
