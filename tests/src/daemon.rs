//! A running `parkranger serve`, and what is read from it.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::agent::{Output, binary, run_to_end, signal, whatever_it_costs};
use crate::go::{Program, Toolchain, Variant};
use crate::http::{Response, get, get_ok};
use crate::target::Target;

const PATIENCE: Duration = Duration::from_secs(30);

/// The daemon. Killed with SIGKILL when dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    address: String,
    log: Receiver<String>,
}

impl Daemon {
    /// Watches the processes of one program, on a port of loopback that is free; returns when it is ready.
    ///
    /// # Errors
    /// When that does not happen in time, with what it said.
    pub fn start(program: &Path) -> Result<Daemon> {
        Daemon::start_with(program, &[])
    }

    /// The same with more arguments.
    ///
    /// # Errors
    /// As there.
    pub fn start_with(program: &Path, args: &[&str]) -> Result<Daemon> {
        Daemon::start_under(&[], program, args)
    }

    /// The same by another command that runs it in its place, such as setpriv.
    ///
    /// # Errors
    /// As there.
    pub fn start_under(before: &[&str], program: &Path, args: &[&str]) -> Result<Daemon> {
        let agent = binary()?;
        let mut command = match before.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(agent);
                command
            }
            None => Command::new(agent),
        };
        command.args(["serve", "--exe"]).arg(program);
        if !args.contains(&"--interval") {
            command.args(["--interval", "200ms"]);
        }
        if !args.contains(&"--listen") && !args.contains(&"--config") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        command.args(whatever_it_costs(args));
        let mut child = command.args(args).stdin(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let stderr = child.stderr.take().context("stderr")?;
        let (sender, log) = channel();
        std::thread::spawn(move || {
            // To its end, so that the pipe never fills up.
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let mut daemon = Daemon { child, address: String::new(), log };
        let listening = daemon.wait_for_line("listening on http")?;
        daemon.address = listening.rsplit("//").next().context("an address")?.to_owned();
        daemon.wait_for_line("INFO ready")?;
        Ok(daemon)
    }

    /// Reads the log until a line has that in it.
    ///
    /// # Errors
    /// When none comes in time.
    pub fn wait_for_line(&mut self, part: &str) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut said = Vec::new();
        loop {
            match self.log.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(part) => return Ok(line),
                Ok(line) => said.push(line),
                Err(RecvTimeoutError::Timeout) => bail!("no {part:?} within {PATIENCE:?}: {said:?}"),
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("serve ended before {part:?}: {:?}: {said:?}", self.child.wait()?)
                }
            }
        }
    }

    /// Lines that it has logged since it was asked last.
    pub fn said(&self) -> Vec<String> {
        self.log.try_iter().collect()
    }

    /// `127.0.0.1:PORT`
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks for a path.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn get(&self, path: &str) -> Result<Response> {
        get(&self.address, path)
    }

    /// Asks for a path, and expects it.
    ///
    /// # Errors
    /// When the answer is another than 200.
    pub fn ok(&self, path: &str) -> Result<Response> {
        get_ok(&self.address, path)
    }

    /// The process as `/api/v1/processes` has it, once it holds.
    ///
    /// # Errors
    /// When that does not happen in time.
    pub fn wait_until(&self, pid: u32, what: &str, holds: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let all = self.ok("/api/v1/processes")?.json()?;
            let process = all["processes"].as_array().and_then(|all| all.iter().find(|process| process["pid"] == pid));
            if let Some(process) = process.filter(|process| holds(process)) {
                return Ok(process.clone());
            }
            ensure!(Instant::now() < deadline, "process {pid} is not {what} after {PATIENCE:?}: {process:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The URL that `go tool pprof` takes.
    pub fn profile(&self, pid: u32, name: &str) -> String {
        format!("http://{}/pids/{pid}/debug/pprof/{name}", self.address)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn signal(&self, number: i32) -> Result<()> {
        signal(&self.child, number)
    }

    /// Ends it as systemd does.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.signal(libc::SIGTERM)?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("serve did not end within {PATIENCE:?} of SIGTERM")
    }

    /// User and system time so far, in seconds.
    ///
    /// # Errors
    /// When it is gone.
    pub fn cpu_seconds(&self) -> Result<f64> {
        const TICKS_PER_SECOND: f64 = 100.0;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        let fields: Vec<&str> = stat.rsplit_once(") ").context("stat")?.1.split(' ').collect();
        let ticks = fields[11].parse::<u32>()? + fields[12].parse::<u32>()?;
        Ok(f64::from(ticks) / TICKS_PER_SECOND)
    }

    /// Resident memory, in bytes.
    ///
    /// # Errors
    /// When it is gone.
    pub fn resident_bytes(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1024)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may be gone already, which is just as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes a token into a file that only its owner can read: others are refused.
///
/// # Errors
/// When it cannot be written.
pub fn write_token(file: &Path, token: &str) -> Result<()> {
    std::fs::write(file, token)?;
    Ok(std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600))?)
}

/// Runs `parkranger serve` where it should end by itself.
///
/// # Errors
/// When it does not.
pub fn refused<I: IntoIterator<Item: AsRef<OsStr>>>(args: I) -> Result<Output> {
    let mut command = Command::new(binary()?);
    command.arg("serve").args(args);
    run_to_end(command)
}

/// Starts the program with profiles of its own, and a daemon with `args` that watches it.
///
/// # Errors
/// When either cannot be started.
pub fn serve(go: &Toolchain, variant: Variant, args: &[&str]) -> Result<(Served, Daemon)> {
    let program = go.build(Program::Served, variant)?.path;
    let served = Served::start(&program)?;
    Ok((served, Daemon::start_with(&program, args)?))
}

/// The program with profiles of its own: see `programs/served/main.go`.
#[derive(Debug)]
pub struct Served {
    target: Target,
    /// Where its own profiles are.
    pub address: String,
}

/// What it says of itself.
#[derive(Debug, Clone, Deserialize)]
pub struct Stats {
    /// `runtime.NumGoroutine()`
    pub goroutines: i64,
    /// `MemStats.NumGC`
    pub gc_cycles: u32,
    /// `MemStats.PauseTotalNs`
    pub pause_ns: u64,
    /// `MemStats.NextGC`
    pub next_gc: u64,
    /// `MemStats.HeapAlloc`
    pub heap: u64,
    /// `runtime.GOMAXPROCS(0)`
    pub processors: u32,
}

#[derive(Deserialize)]
struct Listening {
    address: String,
}

impl Served {
    /// Starts the program, and everything in it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(program: &Path) -> Result<Served> {
        let mut target = Target::start(program)?;
        let Listening { address } = target.ask("listen")?;
        Ok(Served { target, address })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.target.pid()
    }

    /// Has it do something.
    ///
    /// # Errors
    /// See [`Target::ask`].
    pub fn ask(&mut self, command: &str) -> Result<Stats> {
        self.target.ask(command)
    }
}
