//! `parkranger serve` finds leaks by itself: JSON, metrics, one line of the log.

#![allow(missing_docs, reason = "tests")]

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use parkranger_tests::daemon::Daemon;
use parkranger_tests::go::{Program, Toolchain, Variant};
use parkranger_tests::on_these_go;
use parkranger_tests::skip::agent;
use serde_json::Value;

on_these_go!(agent: [(go_1_24, 24), (go_1_27, 27)] leaks_are_kept_up_to_date);

struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn leaks_are_kept_up_to_date(go: &Toolchain) -> Result<()> {
    let (_folder, program) = go.build(Program::Leaks, Variant::Plain)?.private_copy()?;
    let start =
        |name| Command::new(&program).arg(name).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map(Service);
    let leaky = start("through-own-helper")?;
    let healthy = start("busy-pool")?;
    let daemon = Daemon::start_with(&program, &["--leaks-interval", "1s"])?;
    let asked = |of: &Service| -> Result<Value> {
        let path = format!("/api/v1/processes/{}/leaks", of.0.id());
        Ok(serde_json::from_str(daemon.ok(&path)?.text()?)?)
    };
    let begun = Instant::now();
    let found = loop {
        let json = asked(&leaky)?;
        if json["findings"][0]["confidence"].as_f64() > Some(0.9) {
            break json;
        }
        if begun.elapsed() > Duration::from_secs(60) {
            bail!("not found in a minute: {json:#}");
        }
        std::thread::sleep(Duration::from_millis(500));
    };
    let finding = &found["findings"][0];
    ensure!(finding["pattern"] == "abandoned-sender" && finding["function"] == "main.reserveStock", "{found:#}");
    let none = asked(&healthy)?;
    ensure!(none["findings"].as_array().is_some_and(Vec::is_empty), "{none:#}");
    ensure!(none["watched_ns"].as_u64() > Some(1_000_000_000), "it was not watched: {none:#}");
    let metrics = daemon.ok("/metrics")?;
    let series: Vec<&str> =
        metrics.text()?.lines().filter(|line| line.starts_with("parkranger_leak_goroutines{")).collect();
    let [series] = series[..] else { bail!("{series:?}") };
    ensure!(
        series.contains("function=\"main.reserveStock\"") && series.contains("pattern=\"abandoned-sender\""),
        "{series}"
    );
    ensure!(
        series.rsplit(' ').next().is_some_and(|count| count.parse::<f64>().is_ok_and(|count| count > 5.0)),
        "{series}"
    );
    // Told once, however often it is found again.
    std::thread::sleep(Duration::from_secs(4));
    let log = daemon.said();
    let told = log.iter().filter(|line| line.contains("goroutines leak") && line.contains("main.reserveStock")).count();
    ensure!(told == 1, "{told} lines in {log:#?}");
    Ok(())
}
