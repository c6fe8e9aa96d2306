//! Results for people and for machines.

use std::fmt::Write;

use anyhow::{Context, Result};
use serde::Serialize;

use super::{Comparison, Options};

/// The machine and the run, beside every result that is kept.
#[derive(Debug, Serialize)]
struct Run<'a> {
    schema: u32,
    benchmark: &'a str,
    rounds: usize,
    quick: bool,
    kernel: String,
    cpu: String,
    cpus: usize,
    threads_per_core: usize,
    go: &'a str,
    comparisons: &'a [Comparison],
}

/// Prints the comparisons as tables, and writes the JSON file where one is asked for.
///
/// # Errors
/// When the file cannot be written.
pub fn finish(benchmark: &str, go: &str, options: &Options, comparisons: &[Comparison]) -> Result<()> {
    println!(
        "{benchmark}: {}, {} CPUs, {} threads per core, Linux {}, Go {go}, {} rounds\n",
        cpu_model()?,
        std::thread::available_parallelism()?,
        threads_per_core(),
        std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim(),
        options.rounds,
    );
    for comparison in comparisons {
        println!("{}", table(comparison));
    }
    let Some(path) = &options.json else { return Ok(()) };
    let run = Run {
        schema: 1,
        benchmark,
        rounds: options.rounds,
        quick: options.quick,
        kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        cpu: cpu_model()?,
        cpus: std::thread::available_parallelism()?.get(),
        threads_per_core: threads_per_core(),
        go,
        comparisons,
    };
    std::fs::write(path, serde_json::to_string_pretty(&run)? + "\n").with_context(|| path.display().to_string())
}

/// One comparison as text.
fn table(comparison: &Comparison) -> String {
    let width = comparison.rows.iter().map(|row| row.variant.len()).max().unwrap_or(0).max(8);
    let mut text = format!("{} [{}]\n", comparison.name, comparison.unit);
    // Writing to a String cannot fail.
    let _ = write!(text, "  {:width$} {:>10} {:>21} {:>21}", "", "median", "quartiles", "min .. max");
    for number in 1..=comparison.bases.len() {
        let _ = write!(text, " {:>9}", format!("ratio {number}"));
    }
    text.push('\n');
    for row in &comparison.rows {
        let quartiles = format!("{:.1} .. {:.1}", row.q1, row.q3);
        let range = format!("{:.1} .. {:.1}", row.min, row.max);
        let _ = write!(text, "  {:width$} {:>10.1} {quartiles:>21} {range:>21}", row.variant, row.median);
        for ratio in &row.ratios {
            let _ = write!(text, " {:>9}", ratio.map_or_else(|| "-".into(), |ratio| format!("{ratio:.3}")));
        }
        text.push('\n');
    }
    for (number, base) in comparison.bases.iter().enumerate() {
        let _ = writeln!(text, "  ratio {}: to {base}", number + 1);
    }
    text
}

/// Threads that share a core, as the kernel (which a hypervisor may deceive) says; 1 where it does not say.
fn threads_per_core() -> usize {
    let siblings = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list");
    let count = |list: &str| {
        list.trim()
            .split(',')
            .map(|range| {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                let (first, last) = (first.parse::<usize>().unwrap_or(0), last.parse::<usize>().unwrap_or(0));
                last.saturating_sub(first) + 1
            })
            .sum()
    };
    siblings.map_or(1, |list| count(&list))
}

fn cpu_model() -> Result<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    Ok(model.map_or_else(|| "unknown".into(), |(_, model)| model.to_owned()))
}
