//! What is deployed with parkranger works: the systemd unit and its configuration.

#![allow(missing_docs, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use parkranger_tests::agent::binary;
use parkranger_tests::daemon::{Daemon, Served};
use parkranger_tests::go::{Program, Variant, with_go};
use parkranger_tests::prometheus::deploy;
use parkranger_tests::skip::{self, Missing, agent};
use parkranger_tests::target::Exercise;

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

/// The DaemonSet's container has the capabilities of the unit.
#[test]
fn daemon_set_has_the_same_capabilities() {
    let unit = unit().unwrap();
    let unit = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
    let unit: BTreeSet<&str> = unit.split(' ').filter_map(|name| name.strip_prefix("CAP_")).collect();
    let daemon_set = fs::read_to_string(deploy().join("kubernetes/daemonset.yaml")).unwrap();
    let added = daemon_set.lines().find_map(|line| line.trim().strip_prefix("add: [")).unwrap();
    assert_eq!(added.trim_end_matches(']').split(", ").collect::<BTreeSet<_>>(), unit);
}

/// A Go library in another program is watched and read with no more than the capabilities of the unit.
#[test]
fn unit_is_enough_for_libraries() {
    with_go("serve_deploy::unit_is_enough_for_libraries", 27, agent, |go| {
        let library = go.build(Program::Exercise, Variant::CShared)?.path;
        let mut exercise = Exercise::start_in_python(&library)?;
        exercise.names()?;
        let python = fs::read_link(format!("/proc/{}/exe", exercise.pid()))?;
        let set = format!("--bounding-set=-all,{}", kept()?);
        let daemon = Daemon::start_under(&["setpriv", &set, "--no-new-privs"], &python, &[])?;
        daemon.wait_until(exercise.pid(), "watched", |process| process["baseline"] == true)?;
        daemon.ok(&format!("/pids/{}/debug/pprof/goroutine?debug=2", exercise.pid()))?;
        Ok(())
    });
}

/// The unit's capabilities for setpriv, without the one for kernels that attach through perf: this one may do without.
fn kept() -> Result<String> {
    let unit = unit()?;
    let all = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).context("capabilities")?;
    let kept: Vec<String> =
        all.split(' ').filter(|name| *name != "CAP_SYS_ADMIN").map(|name| name.replace("CAP_", "+")).collect();
    Ok(kept.join(",").to_lowercase())
}

/// The daemon watches and reads with no more than the capabilities the unit leaves it, and with the file that is
/// deployed beside it.
#[test]
fn unit_is_enough() {
    with_go("serve_deploy::unit_is_enough", 27, agent, |go| {
        let kept = kept()?;
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
