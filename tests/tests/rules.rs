//! Which processes are watched is chosen by rules, for those that begin later too, and anew when the rules change.

#![allow(missing_docs, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use parkranger_tests::agent::{parse, run_once};
use parkranger_tests::daemon::Daemon;
use parkranger_tests::executable;
use parkranger_tests::go::{Program, Toolchain, Variant};
use parkranger_tests::on_these_go;
use parkranger_tests::skip::agent;
use parkranger_tests::target::Target;
use serde::Deserialize;

on_these_go!(agent: [(go_1_27, 27)] the_excluded_of_a_watched_binary_are_left_out, users_and_groups_are_told_apart);

/// What `stop` answers; see `programs/load/main.go`.
#[derive(Deserialize)]
struct Done {
    operations: u64,
}

#[derive(Deserialize)]
struct Begun {}

const NOBODY: u32 = 65534;

/// One inode under two names, for everybody to run.
fn two_names(go: &Toolchain) -> Result<(tempfile::TempDir, PathBuf, PathBuf)> {
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    executable::copy(&go.build(Program::Load, Variant::Plain)?.path, &one)?;
    fs::hard_link(&one, &two)?;
    Ok((folder, one, two))
}

fn everything_in(folder: &Path) -> PathBuf {
    folder.join("*")
}

fn spawned(target: &mut Target) -> Result<u64> {
    let _: Begun = target.ask("start spawn")?;
    std::thread::sleep(std::time::Duration::from_millis(500));
    Ok(target.ask::<Done>("stop")?.operations)
}

/// The births that the daemon counted at the load's site, once they are `births`.
fn wait_for_births(daemon: &Daemon, pid: u32, births: u64) -> Result<()> {
    // The goroutine that does the work is one more, and the runtime has its own.
    let counted = |process: &serde_json::Value| process["births"].as_u64().is_some_and(|counted| counted > births);
    daemon.wait_until(pid, "counted", counted)?;
    let sites = daemon.ok(&format!("/api/v1/processes/{pid}/sites?site=main.spawn"))?.json()?;
    let counted: u64 =
        sites["sites"].as_array().context("sites")?.iter().filter_map(|site| site["births"].as_u64()).sum();
    ensure!(counted == births, "{counted} births counted of {births}");
    Ok(())
}

fn shown(daemon: &Daemon) -> Result<BTreeSet<u64>> {
    let all = daemon.ok("/api/v1/processes")?.json()?;
    Ok(all["processes"].as_array().context("processes")?.iter().filter_map(|process| process["pid"].as_u64()).collect())
}

/// Every path with a pid answers for the process that is watched, and says of the other what it says of none.
fn exists_on_every_path(daemon: &Daemon, watched: u32, excluded: u32) -> Result<()> {
    // Above any pid there is.
    let nobody = 1 << 30;
    let said = |pid: u32, path: &str| -> Result<(u16, String)> {
        let answer = daemon.get(&path.replace("PID", &pid.to_string()))?;
        Ok((answer.status, answer.text()?.replace(&pid.to_string(), "PID")))
    };
    for path in [
        "/api/v1/processes/PID/sites",
        "/api/v1/processes/PID/goroutines",
        "/api/v1/processes/PID/leaks",
        "/pids/PID/debug/pprof/",
        "/pids/PID/debug/pprof/goroutine",
        "/pids/PID/debug/pprof/goroutine?debug=1",
        "/pids/PID/debug/pprof/goroutine?debug=2",
        "/pids/PID/debug/pprof/goroutine?seconds=1",
        "/pids/PID/debug/pprof/births",
        "/pids/PID/debug/pprof/parks",
    ] {
        let (status, text) = said(excluded, path)?;
        ensure!(status == 404 && text.contains("process PID is not watched"), "{path}: {status} {text}");
        ensure!(said(nobody, path)? == (status, text), "{path}: one that is excluded is told apart from none");
        let answer = daemon.get(&path.replace("PID", &watched.to_string()))?;
        ensure!(answer.status == 200, "{path}: {answer:?}");
    }
    Ok(())
}

fn the_excluded_of_a_watched_binary_are_left_out(go: &Toolchain) -> Result<()> {
    let (folder, one, two) = two_names(go)?;
    let config = tempfile::NamedTempFile::new()?;
    let exclude = |comm| {
        let text = format!("listen = ['127.0.0.1:0']\nbudget = 'off'\nkeep-ended = '1m'\nexclude-comm = '{comm}'\n");
        fs::write(config.path(), text)
    };
    exclude("two")?;
    let mut first = Target::start(&one)?;
    let args = ["--config", config.path().to_str().context("path")?];
    let daemon = Daemon::start_with(&everything_in(folder.path()), &args)?;
    let watched = |process: &serde_json::Value| process["baseline"] == true;
    daemon.wait_until(first.pid(), "watched", watched)?;
    // It begins later, and its first event has the kernel side adopt it.
    let mut second = Target::start(&two)?;
    spawned(&mut second)?;
    let births = spawned(&mut first)?;
    wait_for_births(&daemon, first.pid(), births)?;
    ensure!(shown(&daemon)? == [first.pid().into()].into(), "shown: {:?}", shown(&daemon)?);
    exists_on_every_path(&daemon, first.pid(), second.pid())?;

    exclude("one")?;
    daemon.signal(libc::SIGHUP)?;
    daemon.wait_until(second.pid(), "watched", watched)?;
    spawned(&mut first)?;
    let births = spawned(&mut second)?;
    wait_for_births(&daemon, second.pid(), births)?;
    ensure!(shown(&daemon)? == [second.pid().into()].into(), "shown: {:?}", shown(&daemon)?);

    // And back: it is as if it had just been found.
    exclude("nobody")?;
    daemon.signal(libc::SIGHUP)?;
    daemon.wait_until(first.pid(), "watched", watched)?;
    let births = spawned(&mut first)?;
    wait_for_births(&daemon, first.pid(), births)?;
    let losses = daemon.ok("/api/v1/processes")?.json()?["losses"].clone();
    ensure!(losses.as_object().is_none_or(|losses| losses.values().all(|lost| lost == 0)), "lost: {losses}");
    ensure!(daemon.stop()?.success(), "the daemon did not end well");
    Ok(())
}

fn users_and_groups_are_told_apart(go: &Toolchain) -> Result<()> {
    let (folder, one, two) = two_names(go)?;
    let root = Target::start(&one)?;
    let mut nobody = Command::new(&two).uid(NOBODY).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    let result = tell_apart(&everything_in(folder.path()), root.pid(), nobody.id(), &one);
    nobody.kill()?;
    nobody.wait()?;
    result
}

fn tell_apart(exe: &Path, root: u32, nobody: u32, path: &Path) -> Result<()> {
    // The group that we are in, they are in.
    let group = fs::read_to_string("/proc/self/cgroup")?;
    let group = group.lines().next().and_then(|line| line.rsplit(':').next()).context("a control group")?;
    let path = path.to_str().context("path")?;
    let number = NOBODY.to_string();
    let both: &[u32] = &[root, nobody];
    for (rules, expected) in [
        (vec![], both),
        (vec!["--user", &number], &[nobody]),
        (vec!["--exclude-user", &number], &[root]),
        (vec!["--user", "root", "--user", &number], both),
        (vec!["--user", "root", "--comm", "two"], &[]),
        (vec!["--comm", "o*", "--cgroup", group], &[root]),
        (vec!["--exclude-cgroup", group], &[]),
        (vec!["--exclude-exe", path], &[nobody]),
    ] {
        let mut args = vec!["top", "--once", "--json", "--exe", exe.to_str().context("path")?];
        args.extend(&rules);
        let output = run_once(args)?;
        let pids: BTreeSet<u32> = match output.status.code() {
            Some(3) => BTreeSet::new(),
            _ => parse(&output.stdout)?.processes.iter().map(|process| process.pid).collect(),
        };
        ensure!(pids == expected.iter().copied().collect(), "{rules:?}: {pids:?}; {}", output.stderr);
    }
    let refused = run_once(["top", "--pid", &root.to_string(), "--user", "root"])?;
    ensure!(refused.status.code() == Some(2), "a pid and rules: {}", refused.status);
    let unknown = run_once(["top", "--user", "no such user"])?;
    ensure!(unknown.status.code() == Some(2) && unknown.stderr.contains("no user"), "{}", unknown.stderr);
    Ok(())
}
