//! Cost of one goroutine, born and ended, to a program under the agent: alone, as one of 4 and of 24 containers of one
//! image, and with its callers told apart. CPU time over the same untraced in the same round. And what the agent believes
//! it costs.

#![allow(missing_docs, reason = "an executable")]

use anyhow::{Context as _, Result, ensure};
use parkranger_tests::agent::Top;
use parkranger_tests::bench::{Comparison, Options, Samples, interleave, report, toolchain};
use parkranger_tests::containers::Image;
use parkranger_tests::go;
use parkranger_tests::skip;
use parkranger_tests::target::Target;
use serde::Deserialize;

/// Containers that run, and arguments of the agent.
const VARIANTS: [(&str, usize, &[&str]); 5] = [
    ("one container", 1, &[]),
    ("one of 4", 4, &[]),
    ("one of 24", 24, &[]),
    ("one container, births and exits only", 1, &["--fidelity", "lifecycle"]),
    ("the same, callers told apart", 1, &["--fidelity", "lifecycle", "--callers"]),
];

fn main() -> Result<()> {
    let options = Options::from_args()?;
    let Some(go) = toolchain("containers", skip::agent, &options) else { return Ok(()) };
    let (_directory, path) = go.build(go::Program::Bench, go::Variant::Plain)?.private_copy()?;
    let goroutines = if options.quick { 50_000 } else { 2_000_000 };
    let mut believed = vec![Vec::new(); VARIANTS.len()];
    let costs = interleave(options.rounds.min(5), VARIANTS.len(), |_, variant| {
        let (_, containers, args) = VARIANTS[variant];
        let mut image = Image::of(&path)?;
        let mut targets: Vec<Target> =
            (0..containers).map(|_| Target::start_command(&mut image.container()?)).collect::<Result<_>>()?;
        for target in &mut targets {
            spawn(target, 1000)?;
        }
        let untraced = spawn(&mut targets[0], goroutines)?;
        let pids: Vec<String> = targets[1..].iter().map(|target| target.pid().to_string()).collect();
        let all: Vec<&str> = pids.iter().flat_map(|pid| ["--pid", pid.as_str()]).chain(args.iter().copied()).collect();
        let mut top = Top::start_with(targets[0].pid(), &all)?;
        // The agent measures on itself what a hit costs.
        std::thread::sleep(std::time::Duration::from_secs(1));
        let traced = spawn(&mut targets[0], goroutines)?;
        let process =
            top.wait_until("told of the cost", |process| process.cost.is_some() && process.births >= goroutines)?;
        let share = process.cost.context("a cost")?;
        // A share of what the process would use unwatched.
        believed[variant].push(share / (traced / untraced - 1.0));
        top.finish()?;
        Ok(traced - untraced)
    })?;
    let samples = |values: Vec<Vec<f64>>| -> Vec<Samples> {
        VARIANTS
            .iter()
            .zip(values)
            .map(|((name, ..), values)| Samples { variant: (*name).to_owned(), values })
            .collect()
    };
    let comparisons = [
        Comparison::new("CPU time added to one goroutine", "ns", &[VARIANTS[0].0, VARIANTS[3].0], &samples(costs)),
        Comparison::new("Cost believed by the agent, over what it is", "times", &[VARIANTS[0].0], &samples(believed)),
    ];
    report::finish("containers", &format!("1.{}", options.go), &options, &comparisons)
}

/// Answer of the target; see `programs/bench/main.go`.
#[derive(Deserialize)]
struct Cost {
    events: u64,
    cpu_ns: u64,
}

/// CPU time of one goroutine, in ns.
fn spawn(target: &mut Target, goroutines: u64) -> Result<f64> {
    let cost: Cost = target.ask(&format!("spawn {goroutines}"))?;
    ensure!(cost.events == goroutines, "{goroutines} goroutines asked for, {} started", cost.events);
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52 ns")]
    Ok(cost.cpu_ns as f64 / goroutines as f64)
}
