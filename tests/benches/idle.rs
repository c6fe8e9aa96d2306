//! What the agent itself needs while nothing happens: `parkranger serve` beside one idle Go process, and beside a hundred
//! of twenty binaries.

#![allow(missing_docs, reason = "an executable")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use parkranger_tests::bench::{Comparison, Options, Samples, interleave, report, toolchain};
use parkranger_tests::daemon::Daemon;
use parkranger_tests::executable;
use parkranger_tests::go::{Program, Variant};
use parkranger_tests::skip;

const PROCESSES: [usize; 2] = [1, 100];
const BINARIES: usize = 20;

fn main() -> Result<()> {
    let options = Options::from_args()?;
    let Some(go) = toolchain("idle", skip::agent, &options) else { return Ok(()) };
    let program = go.build(Program::Served, Variant::Plain)?;
    let mut memory = vec![Vec::new(); PROCESSES.len()];
    let cpu = interleave(options.rounds.min(3), PROCESSES.len(), |_, variant| {
        let (resident, cpu) = measure(&program.path, PROCESSES[variant], options.quick)?;
        memory[variant].push(resident);
        Ok(cpu)
    })?;
    let comparison = |name: &str, unit: &str, values: Vec<Vec<f64>>| {
        let samples: Vec<Samples> = PROCESSES
            .iter()
            .zip(values)
            .map(|(processes, values)| Samples { variant: format!("{processes} idle processes"), values })
            .collect();
        Comparison::new(name, unit, &["1 idle processes"], &samples)
    };
    let comparisons = [
        comparison("CPU time of parkranger serve", "% of one CPU", cpu),
        comparison("resident memory of parkranger serve", "MiB", memory),
    ];
    report::finish("idle", &format!("1.{}", options.go), &options, &comparisons)
}

/// Memory in MiB and CPU time in per cent of one CPU.
fn measure(program: &Path, processes: usize, quick: bool) -> Result<(f64, f64)> {
    let folder = tempfile::tempdir()?;
    let binaries: Vec<PathBuf> = (0..BINARIES)
        .map(|number| {
            let path = folder.path().join(format!("service-{number}"));
            executable::copy(program, &path)?;
            Ok(path)
        })
        .collect::<Result<_>>()?;
    let _idle: Vec<Idle> =
        (0..processes).map(|number| Idle::start(&binaries[number % BINARIES])).collect::<Result<_>>()?;
    let daemon = Daemon::start_with(&folder.path().join("*"), &["--interval", "5s", "--budget", "1"])?;
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let all = daemon.ok("/api/v1/processes")?.json()?;
        let all = all["processes"].as_array().context("processes")?;
        if all.len() == processes && all.iter().all(|process| process["baseline"] == true) {
            break;
        }
        ensure!(Instant::now() < deadline, "{} of {processes} processes have a baseline", all.len());
        std::thread::sleep(Duration::from_millis(500));
    }
    let (time, before, began) =
        (Duration::from_secs(if quick { 5 } else { 60 }), daemon.cpu_seconds()?, Instant::now());
    std::thread::sleep(time);
    let cpu = (daemon.cpu_seconds()? - before) / began.elapsed().as_secs_f64();
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    let resident = daemon.resident_bytes()? as f64 / f64::from(1 << 20);
    ensure!(daemon.stop()?.success(), "the daemon did not end well");
    Ok((resident, cpu * 100.0))
}

/// A program with a few goroutines that wait, and its input, at whose end it ends.
struct Idle(Child);

impl Idle {
    fn start(path: &Path) -> Result<Self> {
        let child = Command::new(path).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        Ok(Self(child))
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        // It may be gone already, which is just as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
