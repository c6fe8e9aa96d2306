//! Whether the counts stay exact: ten minutes of goroutines that come and go as fast as they can, audited all the time.
//! Fails where an audit finds a goroutine that the counts do not have, or the end another number than the program.

#![allow(missing_docs, reason = "an executable")]

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use parkranger_tests::agent::{Process, Top};
use parkranger_tests::bench::{Options, toolchain};
use parkranger_tests::crowd::Crowd;
use parkranger_tests::go::{Program, Variant};
use parkranger_tests::skip;

const LONG: Duration = Duration::from_secs(600);
const QUICK: Duration = Duration::from_secs(10);
/// Between two audits.
const AUDIT_EVERY: &str = "500ms";

fn main() -> Result<()> {
    let options = Options::from_args()?;
    let Some(go) = toolchain("drift", skip::agent, &options) else { return Ok(()) };
    let length = if options.quick { QUICK } else { LONG };
    let mut crowd = Crowd::start(&go.build(Program::Crowd, Variant::Stripped)?.path)?;
    crowd.gather()?;
    crowd.churn(true)?;
    let begin = Instant::now();
    let mut top = Top::start_with(crowd.pid(), &["--audit-every", AUDIT_EVERY])?;
    let mut next = Duration::ZERO;
    let mut first = None;
    while begin.elapsed() < length {
        let process = top.wait_until("counting", |_| true)?;
        if begin.elapsed() >= next {
            report(begin, &process);
            next += length / 10;
        }
        ensure!(process.audits.drift == 0, "an audit found other goroutines than were counted: {:?}", process.audits);
        first.get_or_insert((begin.elapsed(), process.births));
    }
    let last = top.wait_until("counting", |_| true)?;
    let seconds = begin.elapsed();
    crowd.churn(false)?;
    let settled = last.audits.settled;
    top.wait_until("audited at rest", |process| process.audits.settled > settled)?;
    let count = crowd.count()?;
    let process = top.finish()?;
    report(begin, &process);
    if let Some((since, births)) = first {
        let rate = (last.births - births) as f64 / (seconds - since).as_secs_f64();
        println!(
            "{rate:.0} births per second, as many exits; at rest {} goroutines, by NumGoroutine {count}",
            process.goroutines.user
        );
    }
    ensure!(process.goroutines.user as u64 == count, "{:?}, NumGoroutine is {count}", process.goroutines);
    ensure!(process.audits.drift == 0 && process.losses.values().all(|lost| *lost == 0), "{process:?}");
    Ok(())
}

fn report(begin: Instant, process: &Process) {
    let audits = &process.audits;
    println!(
        "{:>4} s: {} births, {} exits, {} live; {} audits settled, {} repeated, drift {}",
        begin.elapsed().as_secs(),
        process.births,
        process.exits,
        process.goroutines.live,
        audits.settled,
        audits.repeated,
        audits.drift
    );
}
