//! Holds what was counted in a virtual machine to what its programs counted themselves: `guest CONSOLE:VERSIONS[:KERNEL:METHOD]...`,
//! each the file with what a machine printed (`tests/vm`), the Go versions it ran, separated by commas, and where the
//! kernel is in question what its version begins with and how probes attach there. Prints a table; fails where anything is
//! not as it should be.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use parkranger_tests::{
    agent::{self, CheckReport, Process},
    compare,
    crowd::{Spinning, goroutines, own_goroutines, same_dumps, spinning},
    target::Stats,
};
use serde_json::Value;

/// The cell of what is right.
const EXACT: &str = "exact";
/// Goroutines that sleep in the story, as `kernel.sh` has it.
const SLEEPS: u64 = 30;

fn main() -> Result<ExitCode> {
    let mut wrong = Vec::new();
    println!(
        "{:<26} {:<7} {:>8} {:>7} {:>7} {:>7} {:>5} {:<7} {:<6} {:<11} {:<10} {:<9} {:<8} {:<7} probes",
        "kernel",
        "Go",
        "births",
        "exits",
        "parks",
        "counts",
        "live",
        "census",
        "dumps",
        "budget 1 %",
        "exec",
        "exit",
        "memlock",
        "story"
    );
    for how in std::env::args().skip(1) {
        let fields: Vec<&str> = how.split(':').collect();
        let [file, versions, rest @ ..] = fields.as_slice() else { bail!("what is {how}?") };
        let text = std::fs::read_to_string(file).with_context(|| (*file).to_owned())?;
        let console = Console { text: &text, file };
        let booted = console.line("BOOTED")?.split(' ').next().unwrap_or_default();
        let kernel = match rest {
            [] => None,
            [version, method] => Some(of_kernel(&console, booted, version, method, &mut wrong)),
            _ => bail!("what is {how}?"),
        };
        for version in versions.split(',') {
            let row = of_version(&console, version, &format!("{booted}, Go {version}"), &mut wrong);
            println!("{booted:<26} {version:<7} {row} {}", kernel.as_deref().unwrap_or_default());
        }
    }
    for what in &wrong {
        println!("\n{what}");
    }
    Ok(if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a machine printed.
struct Console<'a> {
    text: &'a str,
    file: &'a str,
}

impl<'a> Console<'a> {
    fn line(&self, what: &str) -> Result<&'a str> {
        let found = self.text.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(' '));
        found.with_context(|| format!("nothing begins with {what} in {}", self.file))
    }

    /// All lines with that before a bar.
    fn lines(&self, what: &str) -> String {
        let lines = self.text.lines().filter_map(|line| line.strip_prefix(what)?.strip_prefix(" |"));
        lines.map(|line| format!("{line}\n")).collect()
    }
}

/// A cell of the table; what is wrong is kept.
fn cell(what: &str, result: Result<String>, wrong: &mut Vec<String>) -> String {
    result.unwrap_or_else(|error| {
        wrong.push(format!("{what}: {error:#}"));
        "WRONG".to_owned()
    })
}

fn of_version(console: &Console, version: &str, what: &str, wrong: &mut Vec<String>) -> String {
    let counted = || {
        let stats: Stats = serde_json::from_str(console.line(&format!("STATS {version}"))?)?;
        Ok((stats, watched(console.line(&format!("TOP {version}"))?)?))
    };
    let (counts, census, [births, exits, parks, live]) = match counted() {
        Ok((stats, process)) => (
            compare::same_counts(&stats, &process).map(|()| EXACT.to_owned()),
            same_goroutines(&stats, &process),
            [process.births, process.exits, process.parks, stats.goroutines],
        ),
        Err(error) => (Err(error), Ok("-".to_owned()), [0; 4]),
    };
    let counts = cell(what, counts, wrong);
    let census = cell(what, census, wrong);
    let dumps = cell(what, dumps(console, version), wrong);
    format!("{births:>8} {exits:>7} {parks:>7} {counts:>7} {live:>5} {census:<7} {dumps:<6}")
}

fn watched(line: &str) -> Result<Process> {
    agent::parse(line)?.processes.into_iter().next().context("nothing was watched")
}

/// The ledger, proved by a census, has as many goroutines as the runtime says.
fn same_goroutines(stats: &Stats, process: &Process) -> Result<String> {
    ensure!(process.baseline, "no census has been believed");
    ensure!(process.audits.drift == 0, "drift: {:?}", process.audits);
    let user = u64::try_from(process.goroutines.user)?;
    ensure!(user == stats.goroutines, "{user} goroutines, {} by the runtime", stats.goroutines);
    Ok(EXACT.to_owned())
}

fn dumps(console: &Console, version: &str) -> Result<String> {
    let dump = |what| console.lines(&format!("DUMP-{what} {version}"));
    let own = own_goroutines(&dump("own"))?;
    ensure!(own.len() > 30, "the program's own dump has {} goroutines", own.len());
    same_dumps(&own, &goroutines(&dump("ours"))?)?;
    let running = spinning(&goroutines(&dump("running"))?)?;
    ensure!(running == Spinning::Seen, "the stack of the running goroutine is not there: {running:?}");
    Ok("same".to_owned())
}

fn of_kernel(console: &Console, booted: &str, version: &str, method: &str, wrong: &mut Vec<String>) -> String {
    let is_sampled = method == "uprobe_multi";
    let is_adopted = method != "perf-event uprobes";
    let attached = cell(booted, attaches(console, booted, version, method), wrong);
    let governed = cell(booted, governed(console, is_sampled), wrong);
    let (exec, exit) = (cell(booted, begun(console, is_adopted), wrong), cell(booted, ended(console), wrong));
    let memory = cell(booted, memory(console, version), wrong);
    let story = cell(booted, story(console, is_adopted), wrong);
    format!("{governed:<11} {exec:<10} {exit:<9} {memory:<8} {story:<7} {attached}")
}

fn attaches(console: &Console, booted: &str, version: &str, method: &str) -> Result<String> {
    ensure!(booted.starts_with(version), "the kernel is not {version}x");
    let report: CheckReport = serde_json::from_str(console.line("CHECK")?)?;
    ensure!(report.kernel["method"] == method, "{} instead of {method}", report.kernel["method"]);
    let fallback = &report.kernel["fallback"];
    ensure!(fallback.is_null() == (method == "uprobe_multi"), "what is said of {method}: {fallback}");
    Ok(method.to_owned())
}

/// Parks beyond the budget are sampled, as far as that is within it on an emulated machine; or no longer counted at once.
fn governed(console: &Console, is_sampled: bool) -> Result<String> {
    let process = watched(console.line("GOVERNED")?)?;
    let (was_sampled, now) = (process.window_share.is_some(), process.fidelity.as_str());
    ensure!(was_sampled == is_sampled, "sampled: {was_sampled}, it is at {now}");
    ensure!(now == "lifecycle" || is_sampled && now == "sampled", "it is at {now}");
    ensure!(process.fidelity_changes > 0 && process.parks > 0, "no park was counted at first");
    ensure!(process.uncounted.births_exits_seconds == 0.0, "births were given up, too: {:?}", process.uncounted);
    ensure!(process.sites.iter().all(|site| site.approximate), "what is not exact is to be marked");
    Ok(if is_sampled { "sampled" } else { "lifecycle" }.to_owned())
}

/// Whoever begins or becomes a program is there; where the kernel side adopts it, with every birth.
fn begun(console: &Console, is_adopted: bool) -> Result<String> {
    for what in ["BEGUN", "BECAME"] {
        let (process, births) = served(console, what)?;
        let counted = process["births"].as_u64().context("births")?;
        let losses = process["losses"].as_object().context("losses")?;
        ensure!(losses.values().all(|lost| lost == 0), "lost: {losses:?}");
        // The program's own goroutines, and those of the runtime.
        let runtime = counted.saturating_sub(births);
        let is_right =
            if is_adopted { counted >= births && runtime < 20 } else { counted > 0 && counted < births + 20 };
        ensure!(is_right, "{what}: {counted} births counted of {births}");
    }
    Ok(if is_adopted { "adopted" } else { "heard" }.to_owned())
}

fn ended(console: &Console) -> Result<String> {
    for what in ["BEGUN", "BECAME"] {
        ensure!(served(console, what)?.0["ended"] == true, "{what}: its end was not heard");
    }
    let stopped = console.line("STOPPED")?;
    ensure!(stopped == "0", "the daemon ended with {stopped}");
    Ok("heard".to_owned())
}

/// A process that began while the daemon watched, and how many goroutines it started.
fn served(console: &Console, what: &str) -> Result<(Value, u64)> {
    let (pid, births) = console.line(what)?.split_once(' ').context("pid and births")?;
    let (pid, births): (u32, u64) = (pid.parse()?, births.parse()?);
    let all: Value = serde_json::from_str(console.line("SERVED")?)?;
    let processes = all["processes"].as_array().context("processes")?;
    let found = processes.iter().find(|process| process["pid"] == pid);
    Ok((found.with_context(|| format!("{what}: process {pid} was not seen"))?.clone(), births))
}

/// Every sleep is told, and as long as it was; where no story can be told everything is counted, and that is said.
fn story(console: &Console, is_told: bool) -> Result<String> {
    let slept: Value = serde_json::from_str(console.line("SLEPT")?)?;
    let process = watched(console.line("STORY")?)?;
    let said = console.line("STORY-said")?;
    let parks: u64 = process.sites.iter().filter_map(|site| site.waits.get("sleep")).sum();
    ensure!(parks >= SLEEPS, "{parks} sleeps counted");
    if !is_told {
        ensure!(
            process.fidelity == "full" && process.story.is_none(),
            "at {}, without attach cookies",
            process.fidelity
        );
        ensure!(said.contains("a story needs attach cookies"), "it did not say why: {said}");
        return Ok("said".to_owned());
    }
    ensure!(process.fidelity == "story", "at {}: {said}", process.fidelity);
    let site = process.sites.iter().find(|site| site.start_function == "main.waiter").context("no site")?;
    let waited = site.waited.get("sleep").context("no sleep in the story")?;
    ensure!(waited.count == SLEEPS, "{} sleeps told of {SLEEPS}", waited.count);
    let limit = |name: &str| slept[name].as_f64().with_context(|| format!("no {name} in {slept}"));
    let (least, most) = (limit("least_wait_s")?, limit("most_wait_s")?);
    ensure!((least..=most).contains(&waited.seconds), "{} s, and {least} to {most} were slept", waited.seconds);
    Ok("told".to_owned())
}

/// Where maps count as locked memory the agent raises the limit, and says so where it may not; elsewhere none is needed.
fn memory(console: &Console, version: &str) -> Result<String> {
    // Exit status 3: nothing there to watch, but the kernel side is.
    let (raised, kept) = (console.line("MEMORY-raised")?, console.line("MEMORY-kept")?);
    ensure!(raised.starts_with("3 "), "with the limit raised: {raised}");
    if version != "5.10." {
        ensure!(kept.starts_with("3 "), "without locked memory: {kept}");
        return Ok("free".to_owned());
    }
    ensure!(kept.starts_with("1 ") && kept.contains("RLIMIT_MEMLOCK"), "without locked memory: {kept}");
    Ok("raised".to_owned())
}
