//! What goes wrong says so in one sentence, with its exit code: 1 failure, 2 usage, 3 nothing that can be watched.

#![allow(missing_docs, reason = "tests")]

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use parkranger_tests::agent::{Output, binary, run_once, run_to_end};
use parkranger_tests::executable;
use parkranger_tests::go::{Program, Toolchain, Variant, with_go};
use parkranger_tests::skip::{agent, run};
use parkranger_tests::target::Exercise;

/// The exit code, and one sentence for a person: who speaks, and of which process.
fn fails_with(code: i32, pid: Option<u32>, output: &Output) -> Result<()> {
    ensure!(output.status.code() == Some(code), "exit code {code} expected: {output:?}");
    ensure!(output.stdout.is_empty(), "nothing to show: {output:?}");
    let said = output.stderr.trim_end();
    ensure!(said.lines().count() == 1, "one sentence expected: {output:?}");
    ensure!(said.starts_with("parkranger: "), "who speaks: {output:?}");
    for inner in ["panicked", "Err(", "Error {", "Os {", "os error"] {
        ensure!(!said.contains(inner), "not for people: {output:?}");
    }
    if let Some(pid) = pid {
        ensure!(said.contains(&pid.to_string()), "which process: {output:?}");
    }
    Ok(())
}

/// A process that is killed when the test ends.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may be gone already, which is just as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn no_go_in_the_target() {
    run("errors::no_go_in_the_target", agent(), || {
        let sleep = Killed(Command::new("sleep").arg("60").spawn()?);
        let pid = sleep.0.id();
        fails_with(3, Some(pid), &run_once(["top", "--once", "--json", "--pid", &pid.to_string()])?)
    });
}

#[test]
fn no_such_process() {
    run("errors::no_such_process", agent(), || {
        let mut gone = Command::new("true").spawn()?;
        let pid = gone.id();
        gone.wait()?;
        fails_with(1, Some(pid), &run_once(["top", "--once", "--json", "--pid", &pid.to_string()])?)
    });
}

#[test]
fn not_root() {
    with_go("errors::not_root", 27, agent, |go| {
        let exercise = Exercise::start(&go.build(Program::Exercise, Variant::Plain)?.path)?;
        // Where everyone may run it, whoever may see the build directory.
        let directory = tempfile::tempdir()?;
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755))?;
        let copy = directory.path().join("parkranger");
        executable::copy(&binary()?, &copy)?;
        let mut command = Command::new(&copy);
        command.args(["top", "--once", "--json", "--pid", &exercise.pid().to_string()]);
        command.uid(65534).gid(65534).current_dir("/");
        let output = run_to_end(command)?;
        fails_with(1, None, &output)?;
        let said = output.stderr.to_lowercase();
        ensure!(["root", "permi", "privilege", "cap_"].iter().any(|word| said.contains(word)), "why: {output:?}");
        Ok(())
    });
}

#[test]
fn usage() {
    run("errors::usage", agent(), || {
        for args in [
            &["top", "--no-such-option"][..],
            &["top", "--pid", "not-a-number"],
            &["top", "--interval", "soon"],
            &["no-such-command"],
        ] {
            let output = run_once(args)?;
            ensure!(output.status.code() == Some(2), "{args:?}: exit code 2 expected: {output:?}");
            ensure!(output.stdout.is_empty() && !output.stderr.contains("panicked"), "{args:?}: {output:?}");
        }
        Ok(())
    });
}

/// Whatever moment a process ends at, the agent ends too, or says that it is gone; it never hangs or breaks.
#[test]
fn target_that_ends_while_attaching() {
    with_go("errors::target_that_ends_while_attaching", 27, agent, ends_while_attaching);
}

fn ends_while_attaching(go: &Toolchain) -> Result<()> {
    let program = go.build(Program::Exercise, Variant::Plain)?.path;
    for round in 0..30 {
        let mut exercise = Exercise::start(&program)?;
        exercise.names()?;
        let pid = exercise.pid();
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(2 * round));
            drop(exercise);
        });
        let output = run_once(["top", "--once", "--json", "--pid", &pid.to_string()])?;
        ensure!(killer.join().is_ok(), "the killer");
        match output.status.code() {
            Some(0) => ensure!(output.stdout.lines().count() == 1, "one object: {output:?}"),
            Some(code @ (1 | 3)) => fails_with(code, Some(pid), &output)?,
            _ => anyhow::bail!("round {round}: {output:?}"),
        }
    }
    Ok(())
}
