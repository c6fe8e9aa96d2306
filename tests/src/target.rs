//! A Go program under test: a child process that is told what to do line by line, answers in JSON, and never outlives
//! its test. Every answer has a time limit; a target that hangs fails the test with its last words.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// How long any answer may take: the longest, a million goroutines under single-stepped probes, takes tens of seconds.
const PATIENCE: Duration = Duration::from_secs(180);

/// A running program that speaks the line protocol.
#[derive(Debug)]
pub struct Target {
    child: Child,
    input: ChildStdin,
    answers: Receiver<String>,
    complaints: Arc<Mutex<String>>,
}

impl Target {
    /// Starts the program.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(program: &Path) -> Result<Target> {
        Target::start_command(&mut Command::new(program))
    }

    /// Starts a command that ends up speaking the line protocol.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_command(command: &mut Command) -> Result<Target> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {command:?}"))?;
        let input = child.stdin.take().context("stdin")?;
        let output = child.stdout.take().context("stdout")?;
        let mut errors = child.stderr.take().context("stderr")?;
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let complaints = Arc::new(Mutex::new(String::new()));
        let heard = Arc::clone(&complaints);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = errors.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..n]);
                heard.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
            }
        });
        Ok(Target { child, input, answers, complaints })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives one command and waits for its answer.
    ///
    /// # Errors
    /// When the target refuses, dies, takes too long, or answers something else.
    pub fn ask<A: DeserializeOwned>(&mut self, command: &str) -> Result<A> {
        self.ask_within(command, PATIENCE)
    }

    /// [`Target::ask`] for what takes longer than anything should.
    ///
    /// # Errors
    /// As there.
    pub fn ask_within<A: DeserializeOwned>(&mut self, command: &str, patience: Duration) -> Result<A> {
        writeln!(self.input, "{command}").with_context(|| self.last_words(command))?;
        let line = self.answers.recv_timeout(patience).with_context(|| self.last_words(command))?;
        #[derive(Deserialize)]
        struct Refusal {
            error: String,
        }
        if let Ok(Refusal { error }) = serde_json::from_str(&line)
            && !error.is_empty()
        {
            bail!("target, told to {command}: {error}");
        }
        serde_json::from_str(&line).with_context(|| format!("target, told to {command}, said {line}"))
    }

    /// Gives a command that it will not answer.
    ///
    /// # Errors
    /// When it does not listen.
    pub fn tell(&mut self, command: &str) -> Result<()> {
        writeln!(self.input, "{command}").with_context(|| self.last_words(command))
    }

    /// Ends it with SIGKILL.
    ///
    /// # Errors
    /// When that fails.
    pub fn kill(&mut self) -> Result<()> {
        Ok(self.child.kill()?)
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// When that cannot be known.
    pub fn is_alive(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    fn last_words(&self, command: &str) -> String {
        let complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        let lines: Vec<&str> = complaints.lines().collect();
        let tail = lines[lines.len().saturating_sub(40)..].join("\n");
        format!("process {}, told to {command}; its last lines on standard error:\n{tail}", self.pid())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // It may be gone already, which is just as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The exercise program: see `programs/exercise/main.go` for what each command does.
#[derive(Debug)]
pub struct Exercise {
    target: Target,
}

/// What the exercise program counted itself.
#[derive(Debug, Clone, Deserialize)]
pub struct Stats {
    /// `runtime.Version()`
    pub go_version: String,
    /// `runtime.GOMAXPROCS(0)`
    pub gomaxprocs: u32,
    /// `runtime.NumGoroutine()`
    pub goroutines: u64,
    /// One per (site, start function) that has been used.
    pub sites: Vec<Tally>,
}

/// Births and exits of one site that starts one function.
#[derive(Debug, Clone, Deserialize)]
pub struct Tally {
    /// What commands call it; several tallies may share it.
    pub site: String,
    /// The function that has the `go` statement.
    pub function: String,
    /// Its file, as compiled in; null before the first goroutine is known to the runtime.
    pub file: Option<String>,
    /// The line of the `go` statement.
    pub line: Option<u32>,
    /// The function started.
    pub start_function: String,
    /// Goroutines started.
    pub births: u64,
    /// Goroutines ended.
    pub exits: u64,
}

/// Goroutines that the runtime says are blocked.
#[derive(Debug, Clone, Deserialize)]
pub struct Blocked {
    /// How many there are at this site.
    pub blocked: u64,
    /// The runtime's own word for what they wait for.
    pub wait_reason: String,
    /// Whether `release` ends them.
    pub releasable: bool,
    /// The site's function.
    pub function: String,
    /// The function they were started with.
    pub start_function: String,
}

/// Goroutines that parked an exact number of times.
#[derive(Debug, Clone, Deserialize)]
pub struct Parked {
    /// How many times, all together.
    pub parks: u64,
    /// The runtime's own word for what they waited for.
    pub wait_reason: String,
    /// The site's function.
    pub function: String,
    /// The function they were started with.
    pub start_function: String,
}

/// What the load found when it checked itself.
#[derive(Debug, Clone, Deserialize)]
pub struct Check {
    /// Every result was right.
    pub ok: bool,
    /// How many results there were.
    pub operations: u64,
    /// The first wrong one.
    pub first_failure: String,
}

/// The names that `spawn` and `block` know.
#[derive(Debug, Clone, Deserialize)]
pub struct Names {
    /// Sites whose goroutines end by themselves.
    pub spawn: Vec<String>,
    /// Ways to block.
    pub block: Vec<String>,
}

impl Exercise {
    /// Starts the program.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(program: &Path) -> Result<Exercise> {
        Ok(Exercise { target: Target::start(program)? })
    }

    /// Starts a command that becomes the program, or has it as its child: then the process id is the command's.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_command(command: &mut Command) -> Result<Exercise> {
        Ok(Exercise { target: Target::start_command(command)? })
    }

    /// Starts Python and loads the program there, built as a shared object. Its `main` runs on a thread of Python's.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_in_python(library: &Path) -> Result<Exercise> {
        const LOAD: &str = "import ctypes, sys; ctypes.CDLL(sys.argv[1]).Exercise()";
        let mut command = Command::new("python3");
        Ok(Exercise { target: Target::start_command(command.arg("-c").arg(LOAD).arg(library))? })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.target.pid()
    }

    /// The target itself.
    pub fn target(&mut self) -> &mut Target {
        &mut self.target
    }

    fn does(&mut self, command: &str) -> Result<()> {
        self.target.ask::<serde_json::Value>(command).map(drop)
    }

    /// # Errors
    /// See [`Target::ask`], here and below.
    pub fn names(&mut self) -> Result<Names> {
        self.target.ask("sites")
    }

    /// Starts `n` goroutines that end by themselves, and waits for their last acts.
    pub fn spawn(&mut self, site: &str, n: u64) -> Result<()> {
        self.does(&format!("spawn {site} {n}"))
    }

    /// Starts `n` goroutines that block, and waits until they do.
    pub fn block(&mut self, kind: &str, n: u64) -> Result<Blocked> {
        self.target.ask(&format!("block {kind} {n}"))
    }

    /// Lets every blocked goroutine go that can be.
    pub fn release(&mut self) -> Result<()> {
        self.does("release")
    }

    /// Has each of `goroutines` goroutines park `n` times.
    pub fn park(&mut self, goroutines: u64, n: u64) -> Result<Parked> {
        self.target.ask(&format!("park {goroutines} {n}"))
    }

    /// Round trips over unbuffered channels.
    pub fn ping(&mut self, n: u64) -> Result<()> {
        self.does(&format!("ping {n}"))
    }

    /// 1,000,000 births and exits, plus those of the two goroutines that cause them.
    pub fn million(&mut self) -> Result<()> {
        self.does("million")
    }

    /// Turns the mixed load on.
    pub fn load_on(&mut self) -> Result<()> {
        self.does("load on")
    }

    /// Turns the mixed load off, waits for its end, and tells how it went.
    pub fn load_off(&mut self) -> Result<Check> {
        self.target.ask("load off")
    }

    /// How the load is going.
    pub fn check(&mut self) -> Result<Check> {
        self.target.ask("check")
    }

    /// Waits until every goroutine that did its last act is gone.
    pub fn settle(&mut self) -> Result<()> {
        self.does("settle")
    }

    /// What it counted.
    pub fn stats(&mut self) -> Result<Stats> {
        self.target.ask("stats")
    }
}
