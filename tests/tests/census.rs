//! What is read of goroutines from outside is what the runtime says of them itself.

#![allow(missing_docs, reason = "tests")]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use parkranger_tests::agent::Top;
use parkranger_tests::crowd::{Crowd, dump, dumped, goroutines};
use parkranger_tests::go::{Program, Toolchain, Variant};
use parkranger_tests::on_every_go;
use parkranger_tests::skip::agent;

on_every_go!(agent: baseline, drift_under_churn, a_full_ring_buffer, every_outcome);

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

/// A ring buffer that holds some fifty records overflows in every window while goroutines come and go: each such window is
/// noticed, counted and repeated, nothing is settled from it, and once there is time to tell all, the counts are exact.
fn a_full_ring_buffer(go: &Toolchain) -> Result<()> {
    let mut crowd = Crowd::start(&go.build(Program::Crowd, Variant::Stripped)?.path)?;
    crowd.gather()?;
    crowd.churn(true)?;
    let mut top = Top::start_with(crowd.pid(), &["-vv", "--audit-every", "50ms", "--ring-bytes", "4096"])?;
    let spoiled = top.wait_until("repeating windows", |process| process.audits.repeated >= 3)?;
    ensure!(spoiled.audits.drift == 0, "{:?}", spoiled.audits);
    crowd.churn(false)?;
    let settled = spoiled.audits.settled;
    top.wait_until("settled", |process| process.baseline && process.audits.settled > settled)?;
    // The same with a baseline: an audit that lost something must not correct it.
    crowd.churn(true)?;
    let repeated = spoiled.audits.repeated + 3;
    let audited = top.wait_until("repeating audits", |process| process.audits.repeated >= repeated)?;
    crowd.churn(false)?;
    let settled = audited.audits.settled;
    top.wait_until("settled again", |process| process.audits.settled > settled)?;
    let count = crowd.count()?;
    let (process, heard) = top.finish_heard()?;
    let lost = |line: &&str| line.contains("is repeated") && line.contains("births and exits were told");
    let losses = heard.lines().filter(lost).count() as u64;
    ensure!(losses >= 2 && losses <= process.audits.repeated, "{losses} windows lost something:\n{heard}");
    ensure!(process.audits.drift == 0 && process.births > 10_000, "{:?}, {} births", process.audits, process.births);
    ensure!(process.goroutines.user as u64 == count, "{:?}, NumGoroutine is {count}", process.goroutines);
    for site in process.sites.iter().filter(|site| ["main.breed", "main.mayfly"].contains(&&*site.start_function)) {
        ensure!(site.live == 0, "all of them ended: {site:?}");
    }
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
