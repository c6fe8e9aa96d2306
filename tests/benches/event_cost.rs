//! What one birth, park or exit costs the target when it is counted, and when a story is told: CPU time added per event
//! over the same events untraced in the same round.

#![allow(missing_docs, reason = "an executable")]

use anyhow::{Result, ensure};
use parkranger_tests::bench::own::{Own, Program};
use parkranger_tests::bench::raw::{EMPTY, Part, Raw};
use parkranger_tests::bench::variants::{Bpftrace, Event, Traced, Untraced, Variant};
use parkranger_tests::bench::{Comparison, Options, Samples, interleave, report, toolchain};
use parkranger_tests::go;
use parkranger_tests::skip;
use parkranger_tests::target::Target;
use serde::Deserialize;

/// Ratios are to these variants: what any program at the same instruction costs, and what the usual tool costs.
const BASES: [&str; 2] = [EMPTY, "bpftrace count() at entry"];

/// Parts of counting one event: which process, what the goroutine is, where its count is.
const PARTS: [Part; 5] = [Part::Cookie, Part::Tgid, Part::Read(24), Part::Hash(8), Part::PerCpuHash(32)];

fn main() -> Result<()> {
    let options = Options::from_args()?;
    let Some(go) = toolchain("event_cost", skip::perf_uprobes, &options) else { return Ok(()) };
    let (_directory, path) = go.build(go::Program::Bench, go::Variant::Plain)?.private_copy()?;
    let mut comparisons = Vec::new();
    for event in Event::COUNTED {
        comparisons.push(compare(event, &path, &options)?);
    }
    report::finish("event_cost", &format!("1.{}", options.go), &options, &comparisons)
}

/// Every variant, the floor first.
fn variants() -> Result<Vec<Box<dyn Variant>>> {
    let mut variants: Vec<Box<dyn Variant>> = vec![
        Box::new(Untraced),
        Box::new(Raw::empty()),
        Box::new(Raw::of("empty + attach cookie, tgid", &[Part::Cookie, Part::Tgid])),
        Box::new(Raw::of("empty + read of 24 bytes", &[Part::Read(24)])),
        Box::new(Raw::of("empty + the same, 64 bytes of stack", &[Part::ReadDeep])),
        Box::new(Raw::of("empty + hash look-up, key of 8", &[Part::Hash(8)])),
        Box::new(Raw::of("empty + per-CPU hash look-up, key of 32", &[Part::PerCpuHash(32)])),
        Box::new(Raw::of("empty + all of these but the deep read", &PARTS)),
        Box::new(Own::new(Program::Counting)?),
        Box::new(Own::new(Program::Story)?),
        Box::new(Own::new(Program::Callers)?),
    ];
    if Bpftrace::is_available() {
        variants.push(Box::<Bpftrace>::default());
    } else {
        skip::skip("bench event_cost: bpftrace", &skip::Missing("bpftrace is not installed".into()));
    }
    Ok(variants)
}

fn compare(event: Event, path: &std::path::Path, options: &Options) -> Result<Comparison> {
    let events = if options.quick { 20_000 } else { 200_000 };
    let mut target = Target::start(path)?;
    let traced = Traced { pid: target.pid(), path: path.to_owned() };
    run(&mut target, event, events)?; // memory for the goroutines, pages of code
    let mut variants = variants()?;
    let count = variants.len();
    let samples = interleave(options.rounds, count, |_, variant| {
        let variant = &mut variants[variant];
        variant.attach(&traced, event)?;
        run(&mut target, event, events / 20)?;
        let cost = run(&mut target, event, events)?;
        variant.detach(events + events / 20)?;
        Ok(cost)
    })?;
    let floor = samples[0].clone();
    let samples: Vec<Samples> = variants
        .iter()
        .zip(samples)
        .map(|(variant, values)| Samples {
            variant: variant.name().to_owned(),
            values: values.iter().zip(&floor).map(|(value, floor)| value - floor).collect(),
        })
        .collect();
    Ok(Comparison::new(&format!("CPU time added to one {}", event.name()), "ns", &BASES, &samples))
}

/// What the target answers; see `programs/bench/main.go`.
#[derive(Deserialize)]
struct Cost {
    events: u64,
    cpu_ns: u64,
}

/// CPU time per event, in ns.
fn run(target: &mut Target, event: Event, events: u64) -> Result<f64> {
    let command = if event == Event::Park { "park" } else { "spawn" };
    let cost: Cost = target.ask(&format!("{command} {events}"))?;
    ensure!(cost.events == events, "{events} events asked for, {} done", cost.events);
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52 ns")]
    Ok(cost.cpu_ns as f64 / events as f64)
}
