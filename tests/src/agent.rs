//! The agent under test: runs it as a user does and reads what it prints. The types here are the schema that
//! parkranger promises (`"schema":1`), written down a second time on purpose: a change of the agent's own types must
//! not silently change what its users read.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

/// How long an attach, a report or an exit may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// One line of `parkranger top --json`.
#[derive(Debug, Clone, Deserialize)]
pub struct Report {
    /// 1
    pub schema: u32,
    /// RFC 3339
    pub time: String,
    /// The watched processes.
    pub processes: Vec<Process>,
    /// What is known to be missing and belongs to no process, by name.
    #[serde(default)]
    pub losses: BTreeMap<String, u64>,
}

/// A watched process.
#[derive(Debug, Clone, Deserialize)]
pub struct Process {
    /// Process id, as the agent sees it.
    pub pid: u32,
    /// Tells two lives of one pid apart.
    pub start_time: u64,
    /// Its executable.
    pub exe: String,
    /// Such as `go1.27.3`.
    pub go_version: String,
    /// Its counts are final.
    pub ended: bool,
    /// How much is recorded.
    pub fidelity: String,
    /// What watching costs it, as a share of its own CPU time.
    pub cost: Option<f64>,
    /// How often the fidelity changed.
    pub fidelity_changes: u64,
    /// For how long something was not counted.
    pub uncounted: Uncounted,
    /// The part of the time that parks were counted in, where they were sampled.
    pub window_share: Option<f64>,
    /// Whether goroutines older than the agent are counted in.
    pub baseline: bool,
    /// How often that was checked against a census.
    pub audits: Audits,
    /// Alive now.
    pub goroutines: Goroutines,
    /// Since attach, over all sites.
    pub births: u64,
    /// Since attach, over all sites.
    pub exits: u64,
    /// Since attach, over all sites.
    pub parks: u64,
    /// What is known to be missing, by name.
    pub losses: BTreeMap<String, u64>,
    /// How long goroutines wait and live, where that was ever told.
    pub story: Option<Story>,
    /// One per (site, start function).
    pub sites: Vec<Site>,
}

/// The story of a process.
#[derive(Debug, Clone, Deserialize)]
pub struct Story {
    /// For how long it was told.
    pub seconds: f64,
    /// When it ends.
    pub ends_in_seconds: Option<f64>,
    /// By wait reason.
    pub waits: BTreeMap<String, Times>,
    /// From first runs to ends.
    pub lifetimes: Times,
}

/// How long something took.
#[derive(Debug, Clone, Deserialize)]
pub struct Times {
    /// How often.
    pub count: u64,
    /// All together.
    pub seconds: f64,
    /// Half of them are not longer.
    pub p50_seconds: Option<f64>,
    /// Upper bounds in seconds, and how many are in each.
    pub buckets: Vec<(Option<f64>, u64)>,
}

/// Times of a site, summed up.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct Spent {
    /// How many.
    pub count: u64,
    /// How long together.
    pub seconds: f64,
}

/// For how long something was not counted at all, in seconds.
#[derive(Debug, Clone, Deserialize)]
pub struct Uncounted {
    /// Births and exits.
    pub births_exits_seconds: f64,
    /// Parks.
    pub parks_seconds: f64,
}

/// Comparisons of the agent's counts with what is in the target's memory.
#[derive(Debug, Clone, Deserialize)]
pub struct Audits {
    /// Comparisons made; the first one makes the baseline.
    pub settled: u64,
    /// Those that had to be repeated.
    pub repeated: u64,
    /// Goroutines that they did not agree on.
    pub drift: u64,
}

/// Goroutines alive. Without a baseline, those that ended may be older than the agent: the numbers may be negative.
#[derive(Debug, Clone, Deserialize)]
pub struct Goroutines {
    /// All.
    pub live: i64,
    /// The program's.
    pub user: i64,
    /// The runtime's own.
    pub system: i64,
}

/// Goroutines of one site that start one function.
#[derive(Debug, Clone, Deserialize)]
pub struct Site {
    /// Has the `go` statement.
    pub function: String,
    /// Its file, as compiled in.
    pub file: String,
    /// The line of the `go` statement.
    pub line: u32,
    /// The user's function, whatever wrapper the compiler started.
    pub start_function: String,
    /// The runtime's own.
    pub system: bool,
    /// Since attach.
    pub births: u64,
    /// Since attach.
    pub exits: u64,
    /// Births less exits, until there is a baseline.
    pub live: i64,
    /// Since attach.
    pub parks: u64,
    /// Parks by wait reason, in the runtime's words.
    pub waits: BTreeMap<String, u64>,
    /// Some of it is estimated.
    pub approximate: bool,
    /// By wait reason, in a story.
    #[serde(default)]
    pub waited: BTreeMap<String, Spent>,
    /// Lives that began and ended in a story.
    #[serde(default)]
    pub lived: Spent,
    /// By who called the function with the `go` statement, where that is told apart.
    #[serde(default)]
    pub callers: Vec<Caller>,
}

/// Goroutines of a site that one caller had made.
#[derive(Debug, Clone, Deserialize)]
pub struct Caller {
    /// The caller, and what it was inlined into.
    pub frames: Vec<CallerFrame>,
    /// Since callers are told apart.
    pub births: u64,
    /// Of those.
    pub exits: u64,
    /// Of those.
    pub live: u64,
}

/// A function and line.
#[derive(Debug, Clone, Deserialize)]
pub struct CallerFrame {
    /// The function.
    pub function: String,
}

/// `parkranger check --pid N --json`
#[derive(Debug, Clone, Deserialize)]
pub struct CheckReport {
    /// 1
    pub schema: u32,
    /// What the kernel can do.
    pub kernel: serde_json::Value,
    /// The processes asked for.
    pub targets: Vec<CheckTarget>,
}

/// Whether and how a process would be watched.
#[derive(Debug, Clone, Deserialize)]
pub struct CheckTarget {
    /// Process id.
    pub pid: u32,
    /// Its executable.
    pub exe: String,
    /// Such as `go1.27.3`; null where there is no Go.
    pub go_version: Option<String>,
    /// Whether it can be watched.
    pub watchable: bool,
    /// Why not.
    pub reason: Option<String>,
    /// Where.
    pub probes: Vec<Probe>,
}

/// One probed instruction.
#[derive(Debug, Clone, Deserialize)]
pub struct Probe {
    /// `birth`, `park` or `exit`.
    pub event: String,
    /// The function that holds it.
    pub function: String,
    /// Its offset in the executable file.
    pub file_offset: u64,
    /// Its virtual address as linked.
    pub address: u64,
    /// Disassembled.
    pub instruction: String,
}

impl Report {
    /// The process with that id.
    pub fn process(&self, pid: u32) -> Option<&Process> {
        self.processes.iter().find(|process| process.pid == pid)
    }
}

impl CheckReport {
    /// Where an event of a process is probed.
    ///
    /// # Errors
    /// When it is not.
    pub fn probe(&self, pid: u32, event: &str) -> Result<&Probe> {
        let target = self.targets.iter().find(|target| target.pid == pid);
        let target = target.with_context(|| format!("check says nothing of process {pid}"))?;
        let probe = target.probes.iter().find(|probe| probe.event == event);
        probe.with_context(|| format!("no {event} probe in process {pid}: {:?}", target.reason))
    }
}

/// The agent's executable.
///
/// # Errors
/// When `PARKRANGER_BIN` is not set.
pub fn binary() -> Result<PathBuf> {
    let path = std::env::var_os("PARKRANGER_BIN").context("PARKRANGER_BIN does not name the agent")?;
    Ok(std::fs::canonicalize(path)?)
}

/// What a finished command left behind.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs the agent until it ends by itself.
///
/// # Errors
/// When it cannot be started or does not end in time.
pub fn run_once<I: IntoIterator<Item: Into<OsString>>>(args: I) -> Result<Output> {
    let mut command = Command::new(binary()?);
    command.args(args.into_iter().map(Into::into));
    run_to_end(command)
}

/// Runs any command to its end, with a time limit.
///
/// # Errors
/// When it cannot be started or does not end in time.
pub fn run_to_end(mut command: Command) -> Result<Output> {
    let described = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| described.clone())?;
    let stdout = read_all(child.stdout.take().context("stdout")?);
    let stderr = read_all(child.stderr.take().context("stderr")?);
    let Some(status) = wait(&mut child)? else {
        child.kill()?;
        child.wait()?;
        bail!("{described} did not end within {PATIENCE:?}; on standard error: {}", stderr.recv()?);
    };
    Ok(Output { status, stdout: stdout.recv()?, stderr: stderr.recv()? })
}

/// `parkranger check --json` of one process.
///
/// # Errors
/// When it fails or prints something else.
pub fn check(pid: u32) -> Result<CheckReport> {
    let output = run_once(["check", "--json", "--pid", &pid.to_string()])?;
    ensure!(output.status.success(), "check: {}: {}", output.status, output.stderr);
    serde_json::from_str(&output.stdout).with_context(|| format!("check printed {}", output.stdout))
}

/// A running `parkranger top --json`. Killed with SIGKILL when dropped.
#[derive(Debug)]
pub struct Top {
    child: Child,
    pid: u32,
    lines: Receiver<String>,
    stderr: Receiver<String>,
    last: Option<String>,
}

impl Top {
    /// Watches one process, whatever it costs, and returns when it is attached: at the first line that has the process.
    ///
    /// # Errors
    /// When that does not happen in time, with what the agent said.
    pub fn start(pid: u32) -> Result<Top> {
        Top::start_with(pid, &[])
    }

    /// [`Top::start`] with more arguments.
    ///
    /// # Errors
    /// As there.
    pub fn start_with(pid: u32, args: &[&str]) -> Result<Top> {
        let mut child = Command::new(binary()?)
            .args(["top", "--json", "--interval", "200ms", "--pid", &pid.to_string()])
            .args(whatever_it_costs(args))
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("stdout")?;
        let stderr = read_all(child.stderr.take().context("stderr")?);
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut top = Top { child, pid, lines, stderr, last: None };
        top.wait_until("attached", |_| true)?;
        Ok(top)
    }

    /// The agent's own process id.
    pub fn agent_pid(&self) -> u32 {
        self.child.id()
    }

    /// Reads reports until one has the process in the state asked for.
    ///
    /// # Errors
    /// When that does not happen in time.
    pub fn wait_until(&mut self, what: &str, holds: impl Fn(&Process) -> bool) -> Result<Process> {
        self.wait_until_doing(what, || Ok(()), holds)
    }

    /// The same, doing something before each report.
    ///
    /// # Errors
    /// As there, or what is done.
    pub fn wait_until_doing(
        &mut self,
        what: &str,
        mut act: impl FnMut() -> Result<()>,
        holds: impl Fn(&Process) -> bool,
    ) -> Result<Process> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            act()?;
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let report = parse(&line)?;
                    self.last = Some(line);
                    if let Some(process) = report.process(self.pid)
                        && holds(process)
                    {
                        return Ok(process.clone());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("top is not {what} after {PATIENCE:?}; its last line: {:?}", self.last)
                }
                Err(RecvTimeoutError::Disconnected) => bail!(
                    "top ended before it was {what}: {}; on standard error: {}",
                    self.child.wait()?,
                    self.stderr.recv()?
                ),
            }
        }
    }

    /// Interrupts the agent as Ctrl-C does, and gives the final state of the process: its last line.
    ///
    /// # Errors
    /// When it does not end well, or in time, or its last line lacks the process.
    pub fn finish(self) -> Result<Process> {
        Ok(self.finish_heard()?.0)
    }

    /// [`Top::finish`], with what the agent said on standard error.
    ///
    /// # Errors
    /// As there.
    pub fn finish_heard(self) -> Result<(Process, String)> {
        let pid = self.pid;
        let (line, heard) = self.end()?;
        let process = parse(&line)?.process(pid).cloned();
        Ok((process.with_context(|| format!("the last line lacks process {pid}: {line}"))?, heard))
    }

    /// [`Top::finish`], giving the last line as printed.
    ///
    /// # Errors
    /// As there.
    pub fn finish_raw(self) -> Result<String> {
        Ok(self.end()?.0)
    }

    fn end(mut self) -> Result<(String, String)> {
        signal(&self.child, libc::SIGINT)?;
        let Some(status) = wait(&mut self.child)? else { bail!("top did not end within {PATIENCE:?} of SIGINT") };
        let heard = self.stderr.recv()?;
        ensure!(status.success(), "top ended with {status}; on standard error: {heard}");
        // The reader ends at the end of the output, so this gets every line.
        while let Ok(line) = self.lines.recv() {
            self.last = Some(line);
        }
        Ok((self.last.take().context("top printed nothing")?, heard))
    }

    /// Kills the agent as nothing can prevent, and waits until it is gone.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        // It may be gone already, which is just as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Exact counts of programs that do nothing but what is counted need a budget that is not the usual one.
pub(crate) fn whatever_it_costs(args: &[&str]) -> &'static [&'static str] {
    if args.contains(&"--budget") || args.contains(&"--config") { &[] } else { &["--budget", "off"] }
}

/// Parses one line of `top --json`.
///
/// # Errors
/// When it is not of the schema.
pub fn parse(line: &str) -> Result<Report> {
    let report: Report = serde_json::from_str(line).with_context(|| format!("top printed {line}"))?;
    ensure!(report.schema == 1, "schema {}", report.schema);
    Ok(report)
}

/// Sends a signal to a child that has not been waited for.
///
/// # Errors
/// When the kernel refuses.
pub fn signal(child: &Child, signal: i32) -> Result<()> {
    // SAFETY: kill takes two numbers; the pid is a child of ours that is not reaped, so it is no one else's.
    #[allow(unsafe_code, reason = "std can only send SIGKILL")]
    let result = unsafe { libc::kill(libc::pid_t::try_from(child.id())?, signal) };
    ensure!(result == 0, "signal {signal}: {}", std::io::Error::last_os_error());
    Ok(())
}

/// Waits for a child's end; `None` when it does not come in time.
fn wait(child: &mut Child) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(None)
}

/// Reads everything, in a thread of its own so that no pipe fills up.
fn read_all(mut from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A pipe that breaks ends the text there.
        let _ = from.read_to_end(&mut bytes);
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}
