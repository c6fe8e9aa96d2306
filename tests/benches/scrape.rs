//! What it takes to make the metrics of a host, 100 processes with 5,000 sites each, beside writing the same bytes.

#![allow(missing_docs, reason = "an executable")]

use std::collections::{BTreeMap, HashMap};
use std::time::{Instant, SystemTime};

use anyhow::{Result, ensure};
use parkranger::address::RuntimeAddr;
use parkranger::export::metrics::{SiteBook, render};
use parkranger::governor::{Fidelity, FidelityReport};
use parkranger::ledger::{Audits, Missing, Site};
use parkranger::snapshot::Snapshot;
use parkranger::snapshot::{ProcessSnapshot, SiteSnapshot};
use parkranger_common::counts::ProcessId;
use parkranger_common::loss::ProcessLoss;
use parkranger_common::story::Spent;
use parkranger_tests::bench::{Comparison, Options, Samples, interleave, report};

const PROCESSES: u32 = 100;
const SITES: u64 = 5_000;
const SERIES: usize = 60;
/// A scrape may take this long.
const MOST_MS: f64 = 100.0;
const LEARN: &str = "getting to know all sites, before anybody asks";
const FIRST: &str = "the first scrape";
const SCRAPE: &str = "a scrape";
const WRITE: &str = "writing the same bytes line by line";

fn main() -> Result<()> {
    let options = Options::from_args()?;
    let snapshots = [snapshot(0), snapshot(1)];
    let numbers = HashMap::new();
    let mut book = SiteBook::new(SERIES);
    let text = render(&snapshots[0], &numbers, &mut book)?;
    let variants = [LEARN, FIRST, SCRAPE, WRITE];
    let mut fresh = SiteBook::new(SERIES);
    let values = interleave(options.rounds, variants.len(), |round, variant| {
        let begin = Instant::now();
        let bytes = match variant {
            0 => {
                fresh = SiteBook::new(SERIES);
                fresh.learn(&snapshots[round % 2]);
                text.len()
            }
            1 => render(&snapshots[round % 2], &numbers, &mut fresh)?.len(),
            2 => render(&snapshots[round % 2], &numbers, &mut book)?.len(),
            _ => {
                let mut copy = String::new();
                for line in text.lines() {
                    copy.push_str(line);
                    copy.push('\n');
                }
                copy.len()
            }
        };
        let took = begin.elapsed().as_secs_f64() * 1e3;
        ensure!(bytes > text.len() / 2 && bytes < text.len() * 2, "{bytes} bytes, {} before", text.len());
        Ok(took)
    })?;
    eprintln!("{PROCESSES} processes, {SITES} sites each: {} lines, {} KiB", text.lines().count(), text.len() >> 10);
    let samples: Vec<Samples> =
        variants.iter().zip(values).map(|(variant, values)| Samples { variant: (*variant).into(), values }).collect();
    let comparison = Comparison::new("time to make the metrics", "ms", &[WRITE], &samples);
    let slow = comparison
        .rows
        .iter()
        .find(|row| [FIRST, SCRAPE].contains(&row.variant.as_str()) && row.median > MOST_MS)
        .map(|row| row.median);
    report::finish("scrape", &format!("1.{}", options.go), &options, &[comparison])?;
    ensure!(slow.is_none(), "a scrape takes {slow:?} ms, more than {MOST_MS}");
    Ok(())
}

/// A host on which things happen between `round`s.
fn snapshot(round: u64) -> Snapshot {
    let processes = (1..=PROCESSES).map(|pid| process(pid, round).into()).collect();
    Snapshot {
        time: SystemTime::now(),
        processes,
        refused: 0,
        binaries: BTreeMap::new(),
        losses: BTreeMap::new(),
        budget: None,
        not_looked_at: BTreeMap::new(),
    }
}

fn process(pid: u32, round: u64) -> ProcessSnapshot {
    let sites: Vec<SiteSnapshot> = (0..SITES).map(|number| site(number, u64::from(pid), round)).collect();
    ProcessSnapshot {
        id: ProcessId::new(pid, 1 << 30),
        pid,
        start_time: 1234,
        exe: format!("/srv/services/service-{}", pid % 20),
        library: None,
        go_version: "go1.27.3".into(),
        layout: "the binary's own DWARF".into(),
        layout_is_older: false,
        baseline: true,
        audits: Audits::default(),
        governed: FidelityReport { fidelity: Fidelity::Full, cost: Some(0.001), cost_of_all: None, steps: 0 },
        missing: Missing::default(),
        totals_are_exact: false,
        split_age: None,
        births_unseen: 0,
        doing_age: None,
        user_is_known: true,
        ended: false,
        stopped: false,
        brief: false,
        births: sites.iter().map(|site| site.births).sum(),
        exits: sites.iter().map(|site| site.exits).sum(),
        parks: sites.iter().map(|site| site.parks).sum(),
        user: sites.iter().map(|site| site.live).sum(),
        system: 0,
        waits: sites.iter().flat_map(|site| site.waits.clone()).fold(BTreeMap::new(), |mut sums, (reason, parks)| {
            *sums.entry(reason).or_default() += parks;
            sums
        }),
        losses: ProcessLoss::ALL.iter().map(|loss| (loss.name(), 0)).collect(),
        stack_bytes: Some(sites.iter().filter_map(|site| site.stack_bytes).sum()),
        sites,
        story: None,
    }
}

fn site(number: u64, pid: u64, round: u64) -> SiteSnapshot {
    // Spread without pattern, the same in every run.
    let spread = (number + 1).wrapping_mul(pid).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 44;
    let births = 1000 + spread * (round + 1);
    let live = spread % 37;
    let parks = births * 2;
    SiteSnapshot {
        id: Site { gopc: RuntimeAddr(0x40_0000 + number * 64), startpc: RuntimeAddr(0x50_0000) },
        function: format!("example.com/service/internal/component{}.(*Worker{number}).Run", number % 40),
        file: format!("/src/example.com/service/internal/component{}/worker.go", number % 40),
        line: 1 + (number % 900) as u32,
        start_function: format!("example.com/service/internal/component{}.(*Worker{number}).Run.func1", number % 40),
        system: false,
        births,
        exits: births - live,
        live: live.cast_signed(),
        parks,
        waits: BTreeMap::from([("chan receive".to_owned(), parks / 2), ("select".to_owned(), parks - parks / 2)]),
        doing: BTreeMap::new(),
        waited_longest: None,
        waited_median: None,
        creation_stack: Vec::new(),
        stack_bytes: Some(live * 2048),
        callers: Vec::new(),
        waited: BTreeMap::new(),
        lived: Spent::default(),
    }
}
