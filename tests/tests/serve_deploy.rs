//! What is deployed with parkranger works: the systemd unit and its configuration.

#![allow(missing_docs, reason = "tests")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use parkranger_tests::agent::binary;
use parkranger_tests::daemon::{Daemon, Served};
use parkranger_tests::go::{Program, Variant, with_go};
use parkranger_tests::prometheus::deploy;
use parkranger_tests::skip::{self, Missing, agent};

fn unit() -> Result<String> {
    Ok(fs::read_to_string(deploy().join("systemd/parkranger.service"))?)
}

fn systemd_analyze() -> Result<(), Missing> {
    agent()?;
    let there = Command::new("systemd-analyze").arg("--version").stdout(Stdio::null()).status();
    if there.is_ok() { Ok(()) } else { Err(Missing("there is no systemd-analyze".into())) }
}

/// systemd finds nothing wrong with the unit, and calls it tight.
#[test]
fn unit_is_sound() {
    skip::run("serve_deploy::unit_is_sound", systemd_analyze(), || {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("parkranger.service");
        // systemd looks for the executable.
        let installed = unit()?.replace("/usr/local/bin/parkranger", binary()?.to_str().context("path")?);
        fs::write(&path, installed)?;
        let output = Command::new("systemd-analyze").arg("verify").arg(&path).output()?;
        let said = String::from_utf8([output.stdout, output.stderr].concat())?;
        ensure!(output.status.success() && said.is_empty(), "{said}");
        let tight = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--threshold=40"])
            .arg(&path)
            .output()?;
        ensure!(tight.status.success(), "{}", String::from_utf8_lossy(&tight.stdout));
        Ok(())
    });
}

/// The daemon watches and reads with no more than the capabilities the unit leaves it, and with the file that is
/// deployed beside it.
#[test]
fn unit_is_enough() {
    with_go("serve_deploy::unit_is_enough", 27, agent, |go| {
        let unit = unit()?;
        let all = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).context("capabilities")?;
        // For kernels that attach through perf; this one may do without.
        let kept: Vec<String> =
            all.split(' ').filter(|name| *name != "CAP_SYS_ADMIN").map(|name| name.replace("CAP_", "+")).collect();
        let kept = kept.join(",").to_lowercase();
        let program = go.build(Program::Served, Variant::Plain)?.path;
        let served = Served::start(&program)?;
        let directory = tempfile::tempdir()?;
        let config = directory.path().join("parkranger.toml");
        let deployed = fs::read_to_string(deploy().join("systemd/parkranger.toml"))?;
        let socket = format!("unix:{}/socket", directory.path().display());
        fs::write(
            &config,
            deployed.replace(":7117\"", ":0\"").replace("unix:/run/parkranger/parkranger.sock", &socket),
        )?;
        let set = format!("--bounding-set=-all,{kept}");
        let before = ["setpriv", &set, "--no-new-privs"];
        let daemon = Daemon::start_under(&before, &program, &["--config", config.to_str().context("path")?])?;
        daemon.wait_until(served.pid(), "watched", |process| process["baseline"] == true)?;
        let goroutines = daemon.ok(&format!("/pids/{}/debug/pprof/goroutine?debug=2", served.pid()))?;
        ensure!(goroutines.text()?.contains("main.recurse"), "{goroutines:?}");
        let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid()))?;
        ensure!(status.contains("NoNewPrivs:\t1") && !status.contains("CapEff:\t000001ffffffffff"), "{status}");
        ensure!(Path::new(&socket["unix:".len()..]).exists(), "{socket}");
        Ok(())
    });
}
