//! What real programs lose by being watched: an HTTP server under load, one that does nothing but hand values over, one
//! that does nothing but start goroutines. Untraced, watched by parkranger as it comes, and by bpftrace, which counts the
//! same three functions at their entries, in turns.

#![allow(missing_docs, reason = "an executable")]

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use parkranger_tests::bench::variants::{Bpftrace, Event, Traced, Variant as _};
use parkranger_tests::bench::{Comparison, Options, Samples, interleave, report, toolchain};
use parkranger_tests::daemon::Daemon;
use parkranger_tests::go::{Program, Variant};
use parkranger_tests::skip;
use parkranger_tests::target::Target;
use serde::Deserialize;

const UNTRACED: &str = "untraced";
const PARKRANGER: &str = "parkranger serve";
const BPFTRACE: &str = "bpftrace count() at 3 entries";
/// What the tests change, as it is when nobody changes it.
const DEFAULTS: [&str; 4] = ["--interval", "5s", "--budget", "1"];
/// Clients of the HTTP server at one time.
const CLIENTS: u32 = 16;

fn main() -> Result<()> {
    let options = Options::from_args()?;
    let Some(go) = toolchain("overhead", skip::perf_uprobes, &options) else { return Ok(()) };
    let mut tools = vec![UNTRACED, PARKRANGER];
    if Bpftrace::is_available() {
        tools.push(BPFTRACE);
    } else {
        skip::skip("bench overhead: bpftrace", &skip::Missing("bpftrace is not installed".into()));
    }
    let program = go.build(Program::Load, Variant::Plain)?;
    // The clients run another inode: probes of the server are not in them.
    let (_server, server) = program.private_copy()?;
    let (_client, client) = program.private_copy()?;
    let mut comparisons = Vec::new();
    for work in [Work::Http, Work::Pingpong, Work::Spawn] {
        comparisons.extend(compare(work, &tools, &server, &client, &options)?);
    }
    report::finish("overhead", &format!("1.{}", options.go), &options, &comparisons)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Http,
    Pingpong,
    Spawn,
}

impl Work {
    fn name(self) -> &'static str {
        match self {
            Work::Http => "HTTP server",
            Work::Pingpong => "handing values over",
            Work::Spawn => "starting goroutines",
        }
    }
}

/// What one turn gave, in the order of [`METRICS`].
type Turn = [f64; 4];
const METRICS: [(&str, &str); 4] =
    [("operations per second", "1/s"), ("CPU time of one", "ns"), ("median time", "us"), ("99th percentile", "us")];

fn compare(
    work: Work,
    tools: &[&'static str],
    server: &Path,
    client: &Path,
    options: &Options,
) -> Result<Vec<Comparison>> {
    let mut turns: Vec<Vec<Turn>> = vec![Vec::new(); tools.len()];
    let mut said = String::new();
    interleave(options.rounds, tools.len(), |_, tool| {
        let mut bench = Bench::start(work, server, client, options.quick)?;
        let mut bpftrace = Bpftrace::default();
        let mut daemon = None;
        let traced = Traced { pid: bench.target.pid(), path: server.to_owned() };
        match tools[tool] {
            PARKRANGER => daemon = Some(Daemon::start_with(server, &DEFAULTS)?),
            BPFTRACE => bpftrace.attach_all(&traced, &Event::COUNTED)?,
            _ => {}
        }
        // The governor has ten seconds to find what it can afford; everybody gets them.
        bench.run(if options.quick { 1000 } else { 10_000 })?;
        let turn = bench.run(if options.quick { 500 } else { 5000 })?;
        if let Some(daemon) = daemon {
            let last = daemon.ok("/api/v1/processes")?.json()?;
            let last = last["processes"].get(0).context("the process is not watched")?;
            said = format!("{}, cost {}", last["fidelity"], last["cost"]);
            ensure!(daemon.stop()?.success(), "the daemon did not end well");
        }
        bpftrace.detach(1)?;
        turns[tool].push(turn);
        Ok(turn[0])
    })?;
    println!("{}: parkranger was at fidelity {said}", work.name());
    let used = if work == Work::Http { METRICS.len() } else { 2 };
    let comparisons = METRICS.iter().take(used).enumerate().map(|(metric, (name, unit))| {
        let samples: Vec<Samples> = tools
            .iter()
            .zip(&turns)
            .map(|(tool, turns)| Samples {
                variant: (*tool).to_owned(),
                values: turns.iter().map(|turn| turn[metric]).collect(),
            })
            .collect();
        Comparison::new(&format!("{}: {name}", work.name()), unit, &[UNTRACED], &samples)
    });
    Ok(comparisons.collect())
}

/// A target at work.
struct Bench {
    work: Work,
    target: Target,
    client: Option<(Target, String)>,
}

#[derive(Deserialize)]
struct Address {
    address: String,
}

#[derive(Deserialize)]
struct Answers {
    requests: u64,
    p50_ns: u64,
    p99_ns: u64,
}

#[derive(Deserialize)]
struct Cpu {
    cpu_ns: u64,
}

#[derive(Deserialize)]
struct Done {
    operations: u64,
    cpu_ns: u64,
    wall_ns: u64,
}

#[derive(Deserialize)]
struct Begun {}

impl Bench {
    fn start(work: Work, server: &Path, client: &Path, quick: bool) -> Result<Self> {
        let mut target = Target::start(server)?;
        let client = match work {
            Work::Http => {
                let Address { address } = target.ask("serve")?;
                Some((Target::start(client)?, address))
            }
            Work::Pingpong | Work::Spawn => None,
        };
        let mut bench = Self { work, target, client };
        bench.run(if quick { 100 } else { 1000 })?;
        Ok(bench)
    }

    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    fn run(&mut self, milliseconds: u64) -> Result<Turn> {
        if let Some((client, address)) = &mut self.client {
            let before: Cpu = self.target.ask("cpu")?;
            let answers: Answers = client.ask(&format!("get {address} {CLIENTS} {milliseconds}"))?;
            let after: Cpu = self.target.ask("cpu")?;
            let requests = answers.requests as f64;
            return Ok([
                requests * 1000.0 / milliseconds as f64,
                (after.cpu_ns - before.cpu_ns) as f64 / requests,
                answers.p50_ns as f64 / 1000.0,
                answers.p99_ns as f64 / 1000.0,
            ]);
        }
        let kind = if self.work == Work::Spawn { "spawn" } else { "pingpong" };
        let _: Begun = self.target.ask(&format!("start {kind}"))?;
        std::thread::sleep(Duration::from_millis(milliseconds));
        let done: Done = self.target.ask("stop")?;
        ensure!(done.operations > 0, "nothing was done");
        let operations = done.operations as f64;
        Ok([operations * 1e9 / done.wall_ns as f64, done.cpu_ns as f64 / operations, 0.0, 0.0])
    }
}
