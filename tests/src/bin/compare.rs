//! Compares what was printed elsewhere, such as in a virtual machine: `compare STATS TOP`, two files with the answer of
//! the exercise program to `stats` and the last line of `parkranger top --json`.

use anyhow::{Context as _, Result};
use parkranger_tests::{agent, compare, target::Stats};

fn main() -> Result<()> {
    let mut files = std::env::args().skip(1);
    let mut read = |what| std::fs::read_to_string(files.next().context(what)?).context(what);
    let stats: Stats = serde_json::from_str(&read("the file with the stats")?)?;
    let report = agent::parse(read("the file with the last line of top")?.trim())?;
    let process = report.processes.first().context("top watched nothing")?;
    compare::same_counts(&stats, process)?;
    println!(
        "{}: exact, {} births, {} exits, {} parks",
        stats.go_version, process.births, process.exits, process.parks
    );
    Ok(())
}
