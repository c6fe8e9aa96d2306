//! What it takes to read all goroutines of a process, and what it does to the process meanwhile: from outside, and by the
//! process's own goroutine profile.

#![allow(missing_docs, reason = "an executable")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use parkranger::census::Detail;
use parkranger_tests::bench::{Comparison, Options, Samples, interleave, report, toolchain};
use parkranger_tests::crowd::{Crowd, OwnProfile};
use parkranger_tests::go;
use parkranger_tests::skip;
use parkranger_tests::subject::Subject;
use serde::Deserialize;

const STATES: &str = "census, sites and states";
const STACKS: &str = "census, full stacks";
const OWN_1: &str = "own profile, debug=1";
const OWN_2: &str = "own profile, debug=2";
const NOTHING: &str = "nothing";
/// A thread that copies memory of its own: what any other program on the machine does to the process.
const OTHERS: &str = "another program copies memory";

/// One census, everything that a first one needs included, and how many goroutines it found.
fn census(subject: &Subject, stacks: bool) -> Result<usize> {
    let memory = subject.memory()?;
    let census = subject.runtime(&memory)?.census(&memory, Detail { stacks, labels: stacks, waits: false })?;
    ensure!(census.unsettled.is_complete(), "{:?}", census.unsettled);
    Ok(census.users())
}

fn main() -> Result<()> {
    let options = Options::from_args()?;
    let Some(go) = toolchain("census", skip::root, &options) else { return Ok(()) };
    let n = if options.quick { 20_000 } else { 1_000_000 };
    let program = go.build(go::Program::Crowd, go::Variant::Plain)?.path;
    let mut crowd = Crowd::start(&program)?;
    crowd.many(n, 4)?;
    let subject = Subject::of(&program, crowd.pid())?;
    // A minute and more of standstill for a million goroutines: once is enough.
    let own_2 = crowd.own_profile(2)?;
    let comparisons =
        [times(&subject, &mut crowd, n, &options, own_2)?, delays(&subject, &mut crowd, n, &options, own_2)?];
    eprintln!("{n} goroutines; most memory this process had: {} KiB", peak_kib()?);
    report::finish("census", &format!("1.{}", options.go), &options, &comparisons)
}

#[allow(clippy::cast_precision_loss, reason = "milliseconds of a benchmark")]
fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

/// How long it takes until all goroutines are known.
fn times(subject: &Subject, crowd: &mut Crowd, n: u64, options: &Options, own_2: OwnProfile) -> Result<Comparison> {
    let variants = [STATES, STACKS, OWN_1, OWN_2];
    let values = interleave(options.rounds, variants.len(), |_, variant| {
        let begin = Instant::now();
        match variant {
            0 | 1 => {
                let found = census(subject, variant == 1)?;
                ensure!(found as u64 == n + 1, "{found} goroutines of {n} and main");
                Ok(begin.elapsed().as_secs_f64() * 1e3)
            }
            2 => Ok(ms(crowd.own_profile(1)?.took_ns)),
            _ => Ok(ms(own_2.took_ns)),
        }
    })?;
    Ok(Comparison::new(&format!("time to read {n} goroutines"), "ms", &[OWN_1], &samples(&variants, values)))
}

/// By how much a goroutine that sleeps 200 µs again and again is late at worst meanwhile.
fn delays(subject: &Subject, crowd: &mut Crowd, n: u64, options: &Options, own_2: OwnProfile) -> Result<Comparison> {
    #[derive(Deserialize)]
    struct Delay {
        worst_ns: u64,
    }
    let variants = [NOTHING, OTHERS, STATES, STACKS, OWN_1, OWN_2];
    let values = interleave(options.rounds, variants.len(), |_, variant| {
        let mut beside = |what: &(dyn Fn() -> Result<()> + Sync)| {
            let over = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let other = scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        what()?;
                    }
                    anyhow::Ok(())
                });
                let delay = crowd.ask::<Delay>("latency 2");
                over.store(true, Ordering::Relaxed);
                other.join().map_err(|_| anyhow::anyhow!("the other thread panicked"))??;
                Ok(ms(delay?.worst_ns))
            })
        };
        match variants[variant] {
            NOTHING => Ok(ms(crowd.ask::<Delay>("latency 2")?.worst_ns)),
            OTHERS => {
                let from = vec![1_u8; 32 << 20];
                beside(&|| {
                    std::hint::black_box(from.clone());
                    Ok(())
                })
            }
            STATES => beside(&|| census(subject, false).map(drop)),
            STACKS => beside(&|| census(subject, true).map(drop)),
            OWN_1 => Ok(ms(crowd.own_profile(1)?.worst_ns)),
            _ => Ok(ms(own_2.worst_ns)),
        }
    })?;
    let name = format!("worst delay of a goroutine while {n} are read");
    Ok(Comparison::new(&name, "ms", &[NOTHING, OTHERS], &samples(&variants, values)))
}

fn samples(variants: &[&str], values: Vec<Vec<f64>>) -> Vec<Samples> {
    let both = variants.iter().zip(values);
    both.map(|(variant, values)| Samples { variant: (*variant).into(), values }).collect()
}

fn peak_kib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}
