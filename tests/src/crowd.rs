//! The crowd program, and dumps of it: its own and the agent's.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tempfile::NamedTempFile;

use crate::target::Target;

/// The crowd program: see `programs/crowd/main.go` for what each command does.
#[derive(Debug)]
pub struct Crowd {
    target: Target,
}

#[derive(Deserialize)]
struct Count {
    goroutines: u64,
}

/// What the program's own profile cost it.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct OwnProfile {
    /// How long it took.
    pub took_ns: u64,
    /// By how much a ticking goroutine was late at worst.
    pub worst_ns: u64,
}

impl Crowd {
    /// Starts the program.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(program: &Path) -> Result<Crowd> {
        Ok(Crowd { target: Target::start(program)? })
    }

    /// Starts a command that becomes the program.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_command(command: &mut Command) -> Result<Crowd> {
        Ok(Crowd { target: Target::start_command(command)? })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.target.pid()
    }

    fn count_after(&mut self, command: &str) -> Result<u64> {
        Ok(self.ask::<Count>(command)?.goroutines)
    }

    /// Gives a command whose answer is more than a number.
    ///
    /// # Errors
    /// See [`Target::ask`], here and below.
    pub fn ask<A: DeserializeOwned>(&mut self, command: &str) -> Result<A> {
        self.target.ask(command)
    }

    /// What the program's own profile at a debug level costs it. For a million goroutines level 2 takes minutes.
    pub fn own_profile(&mut self, level: u32) -> Result<OwnProfile> {
        self.target.ask_within(&format!("profile {level}"), Duration::from_secs(1200))
    }

    /// Starts goroutines in every state; all rest when it answers. The number of goroutines.
    pub fn gather(&mut self) -> Result<u64> {
        self.count_after("gather")
    }

    /// Starts `n` goroutines parked `depth` calls deep.
    pub fn many(&mut self, n: u64, depth: u64) -> Result<u64> {
        self.count_after(&format!("many {n} {depth}"))
    }

    /// Goroutines that are born and end as fast as they can.
    pub fn churn(&mut self, on: bool) -> Result<u64> {
        self.count_after(if on { "churn on" } else { "churn off" })
    }

    /// Gives a command that is the program's last, so that there is no answer.
    pub fn last_command(&mut self, command: &str) -> Result<()> {
        self.target.tell(command)
    }

    /// Ends the program as nothing can prevent.
    pub fn kill(&mut self) -> Result<()> {
        self.target.kill()
    }

    /// A goroutine that never waits.
    pub fn spin(&mut self, on: bool) -> Result<u64> {
        self.count_after(if on { "spin on" } else { "spin off" })
    }

    /// One garbage collection.
    pub fn collect(&mut self) -> Result<u64> {
        self.count_after("collect")
    }

    /// `runtime.NumGoroutine()`.
    pub fn count(&mut self) -> Result<u64> {
        self.count_after("count")
    }

    /// The program's own dump of all goroutines, without the one that wrote it.
    pub fn own_dump(&mut self) -> Result<BTreeMap<u64, Vec<String>>> {
        own_goroutines(&String::from_utf8(self.written("dump")?)?)
    }

    /// The program's own goroutine profile (debug=0), in a file, with the goroutine that wrote it: `main.writer`.
    pub fn own_proto(&mut self) -> Result<NamedTempFile> {
        let mut file = NamedTempFile::new()?;
        file.write_all(&self.written("proto")?)?;
        Ok(file)
    }

    /// What a command has the program write once its main goroutine rests.
    fn written(&mut self, command: &str) -> Result<Vec<u8>> {
        let directory = tempfile::tempdir()?;
        let file = directory.path().join(command);
        let _: serde_json::Value = self.ask(&format!("{command} {}", file.display()))?;
        let deadline = Instant::now() + Duration::from_secs(60);
        while !file.exists() {
            ensure!(Instant::now() < deadline, "the program wrote no {command}");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(std::fs::read(&file)?)
    }
}

/// Runs `parkranger dump` with more arguments.
///
/// # Errors
/// When it cannot be run.
pub fn dump(pid: u32, args: &[&str]) -> Result<Output> {
    let agent: OsString = std::env::var_os("PARKRANGER_BIN").context("PARKRANGER_BIN")?;
    Ok(Command::new(agent).args(["dump", "--pid", &pid.to_string()]).args(args).output()?)
}

/// Runs `parkranger dump` and expects it to succeed and to have nothing to say beside the dump, unless the process is stopped.
///
/// # Errors
/// When it does not.
pub fn dumped(pid: u32, args: &[&str]) -> Result<String> {
    let output = dump(pid, args)?;
    let said = String::from_utf8_lossy(&output.stderr);
    let is_stopped = format!("parkranger: process {pid} is stopped ");
    let unexpected = said.lines().any(|line| !line.starts_with(&is_stopped));
    ensure!(output.status.success() && !unexpected, "dump {args:?}: {}: {said}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// The goroutines of a dump that the crowd wrote itself, without the one that wrote it.
///
/// # Errors
/// When it is no dump.
pub fn own_goroutines(dump: &str) -> Result<BTreeMap<u64, Vec<String>>> {
    let mut own = goroutines(dump)?;
    own.retain(|_, lines| !lines.iter().any(|line| line.starts_with("created by main.whenMainRests")));
    Ok(own)
}

/// What a dump has of the goroutine that never waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spinning {
    /// It had no processor just then.
    Elsewhere,
    /// It ran, and its stack is not there.
    Unseen,
    /// It ran, and its stack is there.
    Seen,
}

/// Looks for the goroutine that never waits.
///
/// # Errors
/// When it is not there, or with another stack than it can have.
pub fn spinning(dump: &BTreeMap<u64, Vec<String>>) -> Result<Spinning> {
    const CALLS: [&str; 3] = ["main.spinInner", "main.spinMiddle", "main.spinOuter"];
    let spins = |lines: &&Vec<String>| {
        lines.iter().any(|line| line == "created by main.spin" || line.starts_with("created by main.spin in "))
    };
    let lines = dump.values().find(spins).with_context(|| format!("nobody spins: {dump:#?}"))?;
    if !lines.first().is_some_and(|line| line.contains("[running]")) {
        return Ok(Spinning::Elsewhere);
    }
    let calls: Vec<&str> = lines.iter().filter_map(|line| line.strip_suffix("(...)")).collect();
    ensure!(CALLS.ends_with(&calls), "{lines:#?}");
    Ok(if calls.is_empty() { Spinning::Unseen } else { Spinning::Seen })
}

/// Every goroutine of both is in the other with the same lines.
///
/// # Errors
/// Those that are not.
pub fn same_dumps(own: &BTreeMap<u64, Vec<String>>, ours: &BTreeMap<u64, Vec<String>>) -> Result<()> {
    let mut differences = Vec::new();
    for goid in own.keys().chain(ours.keys().filter(|goid| !own.contains_key(goid))) {
        if own.get(goid) != ours.get(goid) {
            let text =
                |of: &BTreeMap<u64, Vec<String>>| of.get(goid).map_or("nothing".into(), |lines| lines.join("\n"));
            differences.push(format!("the runtime says\n{}\nand we\n{}", text(own), text(ours)));
        }
    }
    ensure!(differences.is_empty(), "{}", differences.join("\n\n"));
    Ok(())
}

/// The goroutines of a dump, each with its lines: arguments of calls are left out, they are in the runtime's only.
///
/// # Errors
/// When it is no dump.
pub fn goroutines(dump: &str) -> Result<BTreeMap<u64, Vec<String>>> {
    let mut goroutines = BTreeMap::new();
    for block in dump.trim_end().split("\n\n") {
        let header = block.lines().next().context("an empty block")?;
        let number = header.strip_prefix("goroutine ").and_then(|rest| rest.split(' ').next());
        let number = number.and_then(|number| number.parse().ok()).with_context(|| format!("no header: {header}"))?;
        let lines = block.lines().map(without_arguments).collect();
        ensure!(goroutines.insert(number, lines).is_none(), "goroutine {number} is there twice");
    }
    Ok(goroutines)
}

/// `main.f(0x1, {0x2, ...})` as `main.f(...)`.
fn without_arguments(line: &str) -> String {
    let is_call = line.ends_with(')') && !line.starts_with(['\t', ' ']) && !line.starts_with("created by ");
    if !is_call {
        return line.to_owned();
    }
    let mut depth = 0;
    let open = line.char_indices().rev().find(|(_, letter)| {
        depth += match letter {
            ')' => 1,
            '(' => -1,
            _ => 0,
        };
        depth == 0
    });
    open.map_or_else(|| line.to_owned(), |(at, _)| format!("{}(...)", &line[..at]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_left_out() {
        assert_eq!(without_arguments("main.(*T).f(0x1, {0x2, 0x3})"), "main.(*T).f(...)");
        assert_eq!(without_arguments("main.f(...)"), "main.f(...)");
        assert_eq!(without_arguments("panic({0x1?, 0x2?})"), "panic(...)");
        assert_eq!(without_arguments("\t/a (b)/c.go:1 +0x2"), "\t/a (b)/c.go:1 +0x2");
        assert_eq!(without_arguments("created by main.(*T).f in goroutine 1"), "created by main.(*T).f in goroutine 1");
    }

    #[test]
    fn a_dump_is_taken_apart() {
        let dump =
            "goroutine 1 [running]:\nmain.main()\n\t/m.go:1 +0x1\n\ngoroutine 7 [select]:\nmain.f(0x1)\n\t/m.go:2\n";
        let goroutines = goroutines(dump).unwrap();
        assert_eq!(goroutines.keys().copied().collect::<Vec<_>>(), [1, 7]);
        assert_eq!(goroutines[&7], ["goroutine 7 [select]:", "main.f(...)", "\t/m.go:2"]);
    }
}
