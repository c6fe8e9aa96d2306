//! `cargo xtask leaks`: precision, recall and calibration of findings on the corpus. `short` takes a part of it for 15
//! seconds; `verbose` prints every finding with its evidence; other words choose services by their names.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use parkranger_tests::go::{Program, Toolchain, Variant};
use parkranger_tests::leaks::{Score, Verdict, calibration, services, watch_all};

fn main() -> Result<ExitCode> {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let mut flag = |name: &str| {
        let before = words.len();
        words.retain(|word| word != name);
        words.len() < before
    };
    let (short, verbose) = (flag("short"), flag("verbose"));
    let go = Toolchain::all().pop().context("no Go toolchain")?;
    let program = go.build(Program::Leaks, Variant::Plain)?.path;
    let mut services = services(&program)?;
    let all = services.len();
    if !words.is_empty() {
        services.retain(|service| words.iter().any(|word| service.name.contains(word.as_str())));
    } else if short {
        services = services.into_iter().step_by(4).collect();
    }
    let seconds: &[u64] = if short { &[15] } else { &[15, 60] };
    let times: Vec<Duration> = seconds.iter().map(|seconds| Duration::from_secs(*seconds)).collect();
    println!("{} of {all} services, watched {seconds:?} s each, go 1.{}", services.len(), go.minor);
    let verdicts = watch_all(&program, &services, &times)?;
    let mut good = true;
    for after in &times {
        let of = |held_out: Option<bool>| -> Vec<&Verdict> {
            let here = verdicts.iter().filter(|verdict| verdict.after == *after);
            here.filter(|verdict| held_out.is_none_or(|held_out| verdict.service.held_out == held_out)).collect()
        };
        println!("\nafter {} s", after.as_secs());
        for verdict in of(None) {
            tell(verdict, verbose);
        }
        by_pattern(&of(None));
        for (what, held_out) in [("weights set on", Some(false)), ("only measured", Some(true)), ("all", None)] {
            let some = of(held_out);
            let score = Score::of(some.iter().copied());
            if some.is_empty() {
                continue;
            }
            println!(
                "{what}: {} services, {} of {} leaks found ({} by name), {} findings right, {} wrong: recall {:.3}, precision {:.3}",
                some.len(),
                score.found,
                score.leaking,
                score.named,
                score.right,
                score.wrong,
                score.recall(),
                score.precision()
            );
            let least = if after.as_secs() >= 60 { 0.9 } else { 0.8 };
            if words.is_empty() && held_out.is_none() {
                good &= score.recall() >= least && score.precision() >= if short { 0.9 } else { 0.95 };
            }
        }
        print!("confidence and how many of it are right:");
        for (tenth, (findings, right)) in calibration(of(None)) {
            print!("  {tenth}0 %+ {right}/{findings}");
        }
        println!();
        print!("the same, only measured:");
        for (tenth, (findings, right)) in calibration(of(Some(true))) {
            print!("  {tenth}0 %+ {right}/{findings}");
        }
        println!();
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn by_pattern(verdicts: &[&Verdict]) {
    let mut patterns: Vec<&str> = verdicts.iter().map(|verdict| verdict.service.pattern.as_str()).collect();
    patterns.sort_unstable();
    patterns.dedup();
    for pattern in patterns {
        let score = Score::of(verdicts.iter().copied().filter(|verdict| verdict.service.pattern == pattern));
        let name = if pattern.is_empty() { "(healthy)" } else { pattern };
        println!(
            "  {name:<18} {:>2} of {:>2} found, {:>2} by name, {:>2} findings right, {:>2} wrong",
            score.found, score.leaking, score.named, score.right, score.wrong
        );
    }
}

/// Findings that are not as they should be; everything where it is asked for.
fn tell(verdict: &Verdict, verbose: bool) {
    let service = &verdict.service;
    let wrong = verdict.shown().any(|finding| !verdict.is_right(finding));
    let missed = !service.pattern.is_empty() && !verdict.shown().any(|finding| verdict.is_right(finding));
    if !(wrong || missed || verbose) {
        return;
    }
    let what = if missed {
        "MISSED"
    } else if wrong {
        "WRONG"
    } else {
        "ok"
    };
    println!("{what} {} ({})", service.name, service.pattern);
    for finding in verdict.findings.iter().take(4) {
        println!(
            "    {:.2} {} {} {} n={} came={} went={} in {} [{}] of {} {}",
            finding.confidence,
            finding.pattern.name(),
            finding.function(),
            finding.location(),
            finding.goroutines,
            finding.arrived,
            finding.departed,
            finding.place.at.short(),
            finding.example.state,
            finding.site.created_at.short(),
            if verdict.is_right(finding) { "right" } else { "" },
        );
        for evidence in &finding.evidence {
            println!("        {:+.1} {}", evidence.weight, evidence.says);
        }
    }
}
