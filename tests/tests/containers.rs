//! Containers of one image, and other files of several names: one attachment for what is one file to the kernel, and one
//! each for what is not.

#![allow(missing_docs, reason = "tests")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use parkranger_tests::agent::{Process, Top, parse};
use parkranger_tests::containers::{BpfStats, Image, names, program_runs};
use parkranger_tests::daemon::Daemon;
use parkranger_tests::go::{Program, Toolchain, Variant};
use parkranger_tests::on_these_go;
use parkranger_tests::skip::{self, Missing};
use parkranger_tests::target::Exercise;
use serde_json::Value;

on_these_go!(overlays: [(go_1_21, 21), (go_1_27, 27)] one_program_per_event, first_goes_first, alike_and_not_one, linked_twice, begun_later);

fn overlays() -> Result<(), Missing> {
    skip::agent()?;
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if filesystems.contains("overlay") { Ok(()) } else { Err(Missing("the kernel has no overlayfs".into())) }
}

/// Watches all of them with one agent.
fn watch(all: &[Exercise]) -> Result<Top> {
    let (first, rest) = all.split_first().context("nothing to watch")?;
    let pids: Vec<String> = rest.iter().map(|exercise| exercise.pid().to_string()).collect();
    let args: Vec<&str> = pids.iter().flat_map(|pid| ["--pid", pid.as_str()]).collect();
    Top::start_with(first.pid(), &args)
}

fn start(command: &mut Command) -> Result<Exercise> {
    let mut exercise = Exercise::start_command(command)?;
    exercise.names()?; // it has begun, and its runtime with it
    Ok(exercise)
}

/// Counts of each by the agent, and how often programs ran, from its first line to its last.
fn counted(mut top: Top, all: &mut [Exercise], act: impl FnOnce(&mut [Exercise]) -> Result<()>) -> Result<Counted> {
    let _stats = BpfStats::on()?;
    let events = |process: &Process| process.births + process.exits + process.parks;
    let pids: Vec<u32> = all.iter().map(Exercise::pid).collect();
    let before = at_rest(top.agent_pid())?;
    act(all)?;
    top.wait_until("at rest", |_| true)?;
    let runs = program_runs(top.agent_pid())?.count - before;
    let line = top.finish_raw()?;
    let report = parse(&line)?;
    let process = |pid: &u32| report.process(*pid).cloned().with_context(|| format!("{line} lacks {pid}"));
    let processes: Vec<Process> = pids.iter().map(process).collect::<Result<_>>()?;
    Ok(Counted { runs, events: processes.iter().map(events).sum(), processes })
}

/// Runs so far, once the agent has measured on itself what a run costs.
fn at_rest(agent: u32) -> Result<u64> {
    let mut runs = program_runs(agent)?.count;
    for _ in 0..50 {
        std::thread::sleep(Duration::from_millis(300));
        let now = program_runs(agent)?.count;
        if now.abs_diff(runs) < 100 {
            return Ok(now);
        }
        runs = now;
    }
    bail!("the agent's programs go on running while nothing happens")
}

struct Counted {
    runs: u64,
    events: u64,
    processes: Vec<Process>,
}

const GOROUTINES: u64 = 20_000;

/// One, four, twenty-four containers: the one that is busy has every event counted once, by one run of one program.
fn one_program_per_event(go: &Toolchain) -> Result<()> {
    let (_directory, path) = go.build(Program::Exercise, Variant::Plain)?.private_copy()?;
    for number in [1, 4, 24] {
        let mut image = Image::of(&path)?;
        let mut all: Vec<Exercise> = (0..number).map(|_| start(&mut image.container()?)).collect::<Result<_>>()?;
        let named: Vec<(u64, u64)> = names(&all.iter().map(Exercise::pid).collect::<Vec<_>>())?;
        ensure!(number == 1 || named[0].0 != named[1].0, "the containers share a device: {named:?}");
        let top = watch(&all)?;
        let counted = counted(top, &mut all, |all| {
            all[0].spawn("plain", GOROUTINES)?;
            all[0].settle()
        })?;
        let busy = &counted.processes[0];
        ensure!((GOROUTINES..GOROUTINES + 100).contains(&busy.births), "{} births", busy.births);
        ensure!(busy.births - busy.exits < 100, "{} births, {} exits", busy.births, busy.exits);
        ensure!(counted.processes.iter().all(|process| process.audits.drift == 0), "{:?}", counted.processes);
        // Some events are counted between the reading of the runs and the agent's first or last line.
        let one_each = counted.runs.abs_diff(counted.events) <= counted.events / 50;
        ensure!(one_each, "{number} containers: {} runs for {} events", counted.runs, counted.events);
    }
    Ok(())
}

/// The probes are in the file, whichever container they came by: they outlive it.
fn first_goes_first(go: &Toolchain) -> Result<()> {
    let (_directory, path) = go.build(Program::Exercise, Variant::Plain)?.private_copy()?;
    let mut image = Image::of(&path)?;
    let mut all = vec![start(&mut image.container()?)?, start(&mut image.container()?)?];
    let mut top = watch(&all)?;
    all[0].target().kill()?;
    top.wait_until("without the first", |process| process.ended)?;
    let counted = counted(top, &mut all[1..], |all| {
        all[0].spawn("plain", GOROUTINES)?;
        all[0].settle()
    })?;
    ensure!((GOROUTINES..GOROUTINES + 100).contains(&counted.processes[0].births), "{:?}", counted.processes);
    ensure!(counted.runs.abs_diff(counted.events) <= counted.events / 50, "{} runs", counted.runs);
    Ok(())
}

/// Two files of the same bytes, length and time of change are two files all the same.
fn alike_and_not_one(go: &Toolchain) -> Result<()> {
    let (directory, path) = go.build(Program::Exercise, Variant::Plain)?.private_copy()?;
    let copy = directory.path().join("other");
    std::fs::copy(&path, &copy)?;
    same_time_of_change(&path, &copy)?;
    let mut all = vec![start(&mut Command::new(&path))?, start(&mut Command::new(&copy))?];
    let top = watch(&all)?;
    let counted = counted(top, &mut all, |all| {
        for exercise in all {
            exercise.spawn("plain", GOROUTINES)?;
            exercise.settle()?;
        }
        Ok(())
    })?;
    for process in &counted.processes {
        ensure!((GOROUTINES..GOROUTINES + 100).contains(&process.births), "{} births", process.births);
    }
    Ok(())
}

/// Changes both files until the clock, which moves by ticks of some milliseconds, gives them the same time of change.
fn same_time_of_change(one: &Path, other: &Path) -> Result<()> {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let change = |path: &Path| -> Result<(i64, i64)> {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
        let metadata = std::fs::metadata(path)?;
        Ok((metadata.ctime(), metadata.ctime_nsec()))
    };
    for _ in 0..1000 {
        if change(one)? == change(other)? {
            return Ok(());
        }
    }
    anyhow::bail!("the clock of this file system is too fine for two files to change at once")
}

/// A hard link, and a bind mount: names of one file.
fn linked_twice(go: &Toolchain) -> Result<()> {
    let (directory, path) = go.build(Program::Exercise, Variant::Plain)?.private_copy()?;
    let link = directory.path().join("link");
    std::fs::hard_link(&path, &link)?;
    let mounted = directory.path().join("mounted");
    std::fs::write(&mounted, "")?;
    let script = "mount --bind \"$1\" \"$2\" && exec \"$2\"";
    let mut bound = Command::new("unshare");
    bound.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]).arg(&path).arg(&mounted);
    let mut all = vec![start(&mut Command::new(&path))?, start(&mut Command::new(&link))?, start(&mut bound)?];
    let top = watch(&all)?;
    let counted = counted(top, &mut all, |all| {
        for exercise in all {
            exercise.spawn("plain", GOROUTINES)?;
            exercise.settle()?;
        }
        Ok(())
    })?;
    for process in &counted.processes {
        ensure!((GOROUTINES..GOROUTINES + 100).contains(&process.births), "{} births", process.births);
    }
    ensure!(counted.runs.abs_diff(counted.events) <= counted.events / 50, "{} runs", counted.runs);
    Ok(())
}

/// Containers that begin while the agent watches the host, as the orchestrator starts them.
fn begun_later(go: &Toolchain) -> Result<()> {
    let (_directory, path) = go.build(Program::Exercise, Variant::Plain)?.private_copy()?;
    let mut image = Image::of(&path)?;
    let mut all = vec![start(&mut image.container()?)?];
    let daemon = Daemon::start(Path::new("program"))?;
    for _ in 0..7 {
        all.push(start(&mut image.container()?)?);
    }
    let births = |value: &Value| value["births"].as_u64().unwrap_or_default();
    for exercise in &all {
        daemon.wait_until(exercise.pid(), "watched", |process| process["baseline"] == true)?;
    }
    let _stats = BpfStats::on()?;
    let before = at_rest(daemon.pid())?;
    let busy = all.last_mut().context("a container")?;
    let born = births(&daemon.wait_until(busy.pid(), "watched", |_| true)?);
    busy.spawn("plain", GOROUTINES)?;
    busy.settle()?;
    let done = |process: &Value| births(process) >= born + GOROUTINES;
    let process = daemon.wait_until(busy.pid(), "counted", done)?;
    ensure!(births(&process) < born + GOROUTINES + 100, "{process}");
    let runs = program_runs(daemon.pid())?.count - before;
    ensure!(runs.abs_diff(2 * GOROUTINES) < 1000, "{runs} runs for {GOROUTINES} goroutines");
    Ok(())
}
