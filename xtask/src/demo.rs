//! `cargo xtask demo`: a Go service that leaks, and parkranger naming the line.
//!
//! The service is ended when the demo is over, whatever the end: on return, error and panic by [`Service`]'s drop, on
//! Ctrl-C by the terminal, which tells the whole group; if this process is killed, by the kernel (`setpriv --pdeathsig`);
//! and by itself a minute later.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    agent::{self, Profile},
    apt::Privilege,
    paths::{Paths, in_path},
    setup,
    step::{cannot_start, ending, fresh, openly, quietly, step},
};

const PROGRAM: &str = "tests/programs/leaky";

/// How long the service lives at most, if nobody ends it.
const SERVICE_LIFE: &str = "60s";

/// Between the starts of service and agent: Go's runtime and the load must be running.
const HEAD_START: Duration = Duration::from_secs(1);

/// What the agent is asked; its table is the demo.
/// The service is busy enough that counting everything costs it more than the usual budget on some machines.
const WATCH: [&str; 6] = ["--interval", "5s", "--for", "15s", "--budget", "10"];

pub(crate) fn run(paths: &Paths) -> Result<ExitCode> {
    println!(
        "For 15 seconds parkranger will watch a small Go service from outside and show, every 5 seconds, which `go` \
         statements its goroutines come from; one of them leaks, and should come out on top."
    );
    // Asked first: nobody should wait for a build to hear that they may not run it.
    let privilege = Privilege::find();
    if privilege == Privilege::None {
        bail!(
            "loading eBPF programs needs root, and there is no passwordless sudo here: run `sudo -v` and then this again, \
             or run this as root"
        );
    }
    let go = setup::demo(paths)?;
    // Without optimisations it compiles in a fraction of the time; what it does in the kernel is the same.
    let binary = step("build", "the agent (debug)", || agent::build(paths, Profile::Debug))?;
    let program = build_service(paths, &go)?;

    let service = Service::start(&program, &paths.log("leaky"))?;
    sleep(HEAD_START);
    let mut command = privilege.command(&binary).context("not root")?;
    command.args(["top", "--pid", &service.pid()]).args(WATCH);
    println!("$ {} top --pid {} {}", paths.shown(&binary), service.pid(), WATCH.join(" "));
    let watched = openly(&mut command, "parkranger could not watch the service");
    let ended = service.end();
    watched?;
    ended?;
    println!(
        "That line is in {PROGRAM}. Next, watch every Go process of this machine: `sudo {} top`; `cargo build --release` \
         makes the agent to keep.",
        paths.shown(&binary)
    );
    Ok(ExitCode::SUCCESS)
}

fn build_service(paths: &Paths, go: &Path) -> Result<PathBuf> {
    let source = paths.root.join(PROGRAM);
    let program = paths.target.join("demo/leaky");
    let log = paths.log("go-build");
    fresh(&log)?;
    step("build", &format!("{PROGRAM}, the service that leaks"), || {
        fs::create_dir_all(paths.target.join("demo"))?;
        let mut command = Command::new(go);
        command
            .args(["build", "-o"])
            .arg(&program)
            .arg(".")
            .current_dir(&source)
            .env("GOTOOLCHAIN", "local")
            .env("GOPROXY", "off")
            .env("GOFLAGS", "")
            .env("CGO_ENABLED", "0")
            .env("GOCACHE", paths.fixtures().join("cache"));
        quietly(&mut command, &log)
    })?;
    Ok(program)
}

/// The leaking service, ended on drop.
struct Service {
    child: Child,
    log: PathBuf,
}

impl Service {
    fn start(program: &Path, log: &Path) -> Result<Self> {
        let file = fs::File::create(log).with_context(|| format!("cannot write the log {}", log.display()))?;
        let mut command = in_path("setpriv").map_or_else(
            || Command::new(program),
            |setpriv| {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "TERM", "--"]).arg(program);
                command
            },
        );
        command.args(["-for", SERVICE_LIFE]).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().map_err(|error| cannot_start(&command, &error))?;
        Ok(Self { child, log: log.into() })
    }

    fn pid(&self) -> String {
        self.child.id().to_string()
    }

    /// Ends the service; an error if it ended by itself before.
    fn end(mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("the service ended early: it {}; see {}", ending(status), self.log.display()),
            None => Ok(()),
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
