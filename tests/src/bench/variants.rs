//! What can be attached to a target while it is measured.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
pub use parkranger_common::probe::Event;

use crate::agent::signal;
use crate::breakpoints::{wait_until_clean, wait_until_probed};
use crate::elf;

/// What variants need to know of the process under measurement.
#[derive(Debug, Clone)]
pub struct Traced {
    /// Process id.
    pub pid: u32,
    /// Its executable, an inode that no other process runs.
    pub path: PathBuf,
}

/// The function of the runtime that a user of another tracer would probe for an event.
///
/// # Errors
/// When the file cannot be read.
pub fn function_of(event: Event, program: &Path) -> Result<&'static str> {
    Ok(match event {
        Event::Birth => "runtime.newproc1",
        Event::Park => "runtime.gopark",
        Event::Exit if elf::has_function(program, "runtime.gdestroy")? => "runtime.gdestroy",
        Event::Exit => "runtime.goexit0",
        Event::Run => "runtime.execute",
    })
}

/// A way to trace an event, or none.
pub trait Variant {
    /// As it stands in tables.
    fn name(&self) -> &str;

    /// Attaches to one event of the process, and returns when its hits are counted.
    ///
    /// # Errors
    /// When it cannot be attached.
    fn attach(&mut self, target: &Traced, event: Event) -> Result<()>;

    /// Detaches, and returns when the process's code is as it was. `at_least` events have happened meanwhile: a tracer
    /// that saw fewer has not been measured at all.
    ///
    /// # Errors
    /// When it cannot be detached, or counted too little.
    fn detach(&mut self, at_least: u64) -> Result<()>;
}

/// Nothing attached: the floor.
#[derive(Debug)]
pub struct Untraced;

impl Variant for Untraced {
    fn name(&self) -> &'static str {
        "untraced"
    }

    fn attach(&mut self, _: &Traced, _: Event) -> Result<()> {
        Ok(())
    }

    fn detach(&mut self, _: u64) -> Result<()> {
        Ok(())
    }
}

/// The simplest thing bpftrace can do: `uprobe:FILE:FUNCTION { @ = count(); }`, at the function's entry.
#[derive(Debug, Default)]
pub struct Bpftrace {
    running: Option<(Child, u32)>,
}

impl Bpftrace {
    /// Whether it is installed.
    pub fn is_available() -> bool {
        Command::new("bpftrace").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    }
}

impl Bpftrace {
    /// Counts several events together, each at the entry of its function.
    ///
    /// # Errors
    /// When it cannot be attached.
    pub fn attach_all(&mut self, target: &Traced, events: &[Event]) -> Result<()> {
        let functions: Vec<&str> =
            events.iter().map(|event| function_of(*event, &target.path)).collect::<Result<_>>()?;
        let path = target.path.display();
        let probes: Vec<String> = functions.iter().map(|function| format!("uprobe:{path}:\"{function}\"")).collect();
        let child = Command::new("bpftrace")
            .args(["-e", &format!("{} {{ @ = count(); }}", probes.join(","))])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting bpftrace")?;
        self.running = Some((child, target.pid));
        for function in functions {
            wait_until_probed(target.pid, elf::function_offset(&target.path, function)?, Duration::from_secs(20))
                .with_context(|| format!("bpftrace on {function}"))?;
        }
        Ok(())
    }
}

impl Variant for Bpftrace {
    fn name(&self) -> &'static str {
        "bpftrace count() at entry"
    }

    fn attach(&mut self, target: &Traced, event: Event) -> Result<()> {
        self.attach_all(target, &[event])
    }

    fn detach(&mut self, at_least: u64) -> Result<()> {
        let Some((child, pid)) = self.running.take() else { return Ok(()) };
        signal(&child, libc::SIGINT)?;
        let output = child.wait_with_output()?;
        wait_until_clean(pid, Duration::from_secs(5))?;
        // It prints `@: 12345` when it ends.
        let printed = String::from_utf8_lossy(&output.stdout);
        let count = printed.lines().find_map(|line| line.strip_prefix("@: ")?.trim().parse::<u64>().ok());
        match count {
            Some(count) => ensure!(count >= at_least, "bpftrace counted {count} of {at_least}"),
            None => bail!("bpftrace printed {printed:?} {:?}", String::from_utf8_lossy(&output.stderr)),
        }
        Ok(())
    }
}

impl Drop for Bpftrace {
    fn drop(&mut self) {
        if let Some((mut child, _)) = self.running.take() {
            // It may be gone already, which is just as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
