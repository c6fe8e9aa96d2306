//! Targets in a state that is not the usual one: stopped, traced, confined, in namespaces of their own, just becoming another
//! program or ending. Counts are right, nothing is harmed and nothing left.

#![allow(missing_docs, reason = "tests")]

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use parkranger_tests::agent::{Top, binary};
use parkranger_tests::breakpoints::wait_until_clean;
use parkranger_tests::compare::same_counts;
use parkranger_tests::go::{Program, Toolchain, Variant};
use parkranger_tests::on_these_go;
use parkranger_tests::skip::agent;
use parkranger_tests::target::{Exercise, Target};

on_these_go!(agent: [(go_1_19, 19), (go_1_27, 27)] traced, confined_by_seccomp, in_namespaces, stopped, killed_while_others_begin_and_end);

const PATIENCE: Duration = Duration::from_secs(10);

/// The program's pid, whoever started it: the file is its own.
fn pid_of(path: &Path) -> Result<u32> {
    let file = std::fs::metadata(path)?;
    let begin = Instant::now();
    loop {
        for entry in std::fs::read_dir("/proc")? {
            let entry = entry?;
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let exe = std::fs::metadata(entry.path().join("exe"));
            if exe.is_ok_and(|exe| (exe.dev(), exe.ino()) == (file.dev(), file.ino())) {
                return Ok(pid);
            }
        }
        ensure!(begin.elapsed() < PATIENCE, "nobody runs {}", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Everything the exercise program can do, counted exactly, and no breakpoint left.
fn counted_exactly(exercise: &mut Exercise, pid: u32) -> Result<()> {
    let top = Top::start(pid)?;
    work(exercise)?;
    let stats = exercise.stats()?;
    same_counts(&stats, &top.finish()?)?;
    wait_until_clean(pid, PATIENCE)
}

fn work(exercise: &mut Exercise) -> Result<()> {
    for site in exercise.names()?.spawn {
        exercise.spawn(&site, 300)?;
    }
    exercise.park(5, 50)?;
    exercise.settle()
}

/// The program, under a command that has it as its last argument.
fn under(go: &Toolchain, before: &[&OsStr]) -> Result<()> {
    let (_directory, path) = go.build(Program::Exercise, Variant::Plain)?.private_copy()?;
    let (first, rest) = before.split_first().context("a command")?;
    let mut exercise = Exercise::start_command(Command::new(first).args(rest).arg(&path))?;
    let pid = pid_of(&path)?;
    counted_exactly(&mut exercise, pid)?;
    // A second time, as it is under way.
    exercise.load_on()?;
    let top = Top::start(pid)?;
    std::thread::sleep(Duration::from_millis(300));
    top.finish()?;
    wait_until_clean(pid, PATIENCE)?;
    let check = exercise.load_off()?;
    ensure!(check.ok && check.operations > 0, "{} after {} operations", check.first_failure, check.operations);
    exercise.settle()?;
    ensure!(exercise.target().is_alive()?, "it ended");
    Ok(())
}

fn launch(go: &Toolchain, how: &str) -> Result<()> {
    let launch = go.build(Program::Launch, Variant::Plain)?.path;
    under(go, &[launch.as_os_str(), how.as_ref()])
}

fn traced(go: &Toolchain) -> Result<()> {
    launch(go, "traced")
}

fn confined_by_seccomp(go: &Toolchain) -> Result<()> {
    launch(go, "seccomp")
}

fn in_namespaces(go: &Toolchain) -> Result<()> {
    let unshare =
        ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc", "--net", "--ipc"];
    under(go, &unshare.map(OsStr::new))
}

fn stop(pid: u32, on: bool) -> Result<()> {
    let signal = if on { "-STOP" } else { "-CONT" };
    ensure!(
        Command::new("sh").args(["-c", "kill $0 $1", signal, &pid.to_string()]).status()?.success(),
        "kill {signal}"
    );
    Ok(())
}

/// Attached while it is stopped, then detached while it is.
fn stopped(go: &Toolchain) -> Result<()> {
    let (_directory, path) = go.build(Program::Exercise, Variant::Plain)?.private_copy()?;
    let mut exercise = Exercise::start(&path)?;
    let pid = exercise.pid();
    // Before its runtime has begun, or soon after.
    stop(pid, true)?;
    Top::start(pid)?.finish()?;
    stop(pid, false)?;
    exercise.names()?;
    stop(pid, true)?;
    let top = Top::start(pid)?;
    stop(pid, false)?;
    work(&mut exercise)?;
    let stats = exercise.stats()?;
    stop(pid, true)?;
    let last = top.finish()?;
    same_counts(&stats, &last)?;
    ensure!(last.baseline && last.audits.drift == 0, "{:?}", last.audits);
    wait_until_clean(pid, PATIENCE)?;
    stop(pid, false)?;
    exercise.load_on()?;
    let top = Top::start(pid)?;
    stop(pid, true)?;
    top.kill()?;
    wait_until_clean(pid, PATIENCE)?;
    stop(pid, false)?;
    let check = exercise.load_off()?;
    ensure!(check.ok, "{}", check.first_failure);
    exercise.settle()
}

/// The agent is killed at every stage of its start, while processes of the binary begin, become others and end.
fn killed_while_others_begin_and_end(go: &Toolchain) -> Result<()> {
    const STEP: Duration = Duration::from_millis(5);
    const WHOLE: Duration = Duration::from_millis(250);
    let (directory, path) = go.build(Program::Load, Variant::Plain)?.private_copy()?;
    let resident = Target::start(&path)?;
    let socket = format!("unix:{}", directory.path().join("socket").display());
    let mut delay = Duration::ZERO;
    while delay < WHOLE {
        let mut agent = Command::new(binary()?)
            .args(["serve", "--budget", "off", "--listen", &socket, "--exe"])
            .arg(&path)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        // Shells that become the program, ten milliseconds apart, and live on when the agent is dead.
        let begin = Instant::now();
        let mut others = vec![other(&path)?];
        while begin.elapsed() < delay {
            std::thread::sleep(STEP.min(delay));
            others.push(other(&path)?);
        }
        agent.kill()?;
        agent.wait()?;
        for other in others {
            let output = other.wait_with_output()?;
            let births = String::from_utf8_lossy(&output.stdout).trim().parse::<u32>();
            ensure!(
                output.status.success() && births.is_ok_and(|births| births >= 5),
                "killed after {delay:?}: {}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        // As in `kill.rs`: a breakpoint that was being put in can be left to the next agent.
        if wait_until_clean(resident.pid(), Duration::from_secs(2)).is_err() {
            Top::start(resident.pid())?.finish()?;
        }
        wait_until_clean(resident.pid(), PATIENCE).with_context(|| format!("killed after {delay:?}"))?;
        delay += STEP;
    }
    Ok(())
}

fn other(path: &Path) -> Result<Child> {
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" churn 20"]).arg(path);
    Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
}
