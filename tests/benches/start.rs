//! How long it takes from the start of the agent to the first correct count on a very large binary, with debug
//! information and stripped, and the memory for it: beside bpftrace, `go tool nm` and `go tool addr2line` on the same
//! file in the same rounds.

#![allow(missing_docs, reason = "an executable")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use parkranger_tests::agent;
use parkranger_tests::bench::variants::Bpftrace;
use parkranger_tests::bench::{Comparison, Options, Samples, interleave, report, toolchain, vast};
use parkranger_tests::go::{Toolchain, Variant};
use parkranger_tests::skip;
use parkranger_tests::target::Target;

const OURS: &str = "parkranger: first correct count";
const OURS_STRIPPED: &str = "parkranger: the same, stripped";
const NM: &str = "go tool nm: all symbols";
const ADDR2LINE: &str = "go tool addr2line: one pc";
const BPFTRACE: &str = "bpftrace: first count";
const LEAST_BYTES: u64 = 100_000_000;

fn main() -> Result<()> {
    let options = Options::from_args()?;
    let Some(go) = toolchain("start", skip::agent, &options) else { return Ok(()) };
    let sources = vast::sources(if options.quick { 4 } else { vast::PACKAGES });
    let whole = go.build_sources("vast", &sources, Variant::Plain)?.path;
    let stripped = go.build_sources("vast", &sources, Variant::Stripped)?.path;
    let [bytes, stripped_bytes] = [&whole, &stripped].map(|path| path.metadata().map(|metadata| metadata.len()));
    let (bytes, stripped_bytes) = (bytes?, stripped_bytes?);
    ensure!(options.quick || bytes >= LEAST_BYTES, "{bytes} bytes are no large binary");
    eprintln!("{} MB with DWARF, {} MB stripped", bytes / 1_000_000, stripped_bytes / 1_000_000);
    let mut targets = [Target::start(&whole)?, Target::start(&stripped)?];

    let mut variants = vec![OURS, OURS_STRIPPED, NM, ADDR2LINE];
    if Bpftrace::is_available() {
        variants.push(BPFTRACE);
    } else {
        skip::skip("bench start: bpftrace", &skip::Missing("bpftrace is not installed".into()));
    }
    let pc = main_pc(&whole)?;
    let mut memory: Vec<Vec<f64>> = vec![Vec::new(); variants.len()];
    let times = interleave(options.rounds, variants.len(), |_, variant| {
        let run = match variants[variant] {
            OURS => ours(&mut targets[0])?,
            OURS_STRIPPED => ours(&mut targets[1])?,
            NM => tool(&go, "nm", &whole, "")?,
            ADDR2LINE => tool(&go, "addr2line", &whole, &format!("{pc:#x}\n"))?,
            _ => bpftrace(&whole)?,
        };
        memory[variant].push(run.peak_mib);
        Ok(run.ms)
    })?;
    let samples = |values: Vec<Vec<f64>>| {
        let pairs = variants.iter().zip(values);
        pairs.map(|(variant, values)| Samples { variant: (*variant).into(), values }).collect::<Vec<_>>()
    };
    let bases = [NM, BPFTRACE];
    let comparisons = [
        Comparison::new("time on a very large binary", "ms", &bases, &samples(times)),
        Comparison::new("peak memory for it", "MiB", &bases, &samples(memory)),
    ];
    report::finish("start", &format!("1.{}", options.go), &options, &comparisons)
}

struct Run {
    ms: f64,
    peak_mib: f64,
}

/// From the start of the agent until it says the number of goroutines that the program's own runtime says.
fn ours(target: &mut Target) -> Result<Run> {
    let expected: i64 = target.ask("count")?;
    let pid = target.pid();
    let mut command = Command::new(agent::binary()?);
    command.args(["top", "--json", "--interval", "50ms", "--pid", &pid.to_string()]);
    run(command, "", |line| {
        let report = agent::parse(line)?;
        Ok(report.process(pid).is_some_and(|process| process.baseline && process.goroutines.user == expected))
    })
}

/// Until it has printed all it has to say.
fn tool(go: &Toolchain, name: &str, file: &Path, input: &str) -> Result<Run> {
    // The tool itself, not the go command that starts it.
    let path = go.tool(&["-n", name])?;
    let mut command = Command::new(path.trim());
    command.arg(file);
    run(command, input, |_| Ok(false))
}

/// Until the first count of births is printed. On a stripped file there is nothing that it could attach to.
fn bpftrace(file: &Path) -> Result<Run> {
    let program = format!(
        "uprobe:{}:\"runtime.newproc1\" {{ @ = count(); }} interval:ms:1 {{ print(@); exit(); }}",
        file.display()
    );
    let mut command = Command::new("bpftrace");
    command.args(["-B", "line", "-e", &program]);
    run(command, "", |line| Ok(line.starts_with("@: ")))
}

/// Runs a command until `done` with a line of its output, or to the end of it, and kills it then.
fn run(mut command: Command, input: &str, done: impl Fn(&str) -> Result<bool>) -> Result<Run> {
    let begin = Instant::now();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().with_context(|| format!("starting {command:?}"))?;
    child.stdin.take().context("stdin")?.write_all(input.as_bytes())?;
    let (pid, over) = (child.id(), Arc::new(AtomicBool::new(false)));
    let watched = Arc::clone(&over);
    let peak = std::thread::spawn(move || {
        let mut peak_kib = 0;
        while !watched.load(Ordering::Relaxed) {
            peak_kib = peak_kib.max(peak_of(pid).unwrap_or_default());
            std::thread::sleep(Duration::from_millis(2));
        }
        peak_kib.max(peak_of(pid).unwrap_or_default())
    });
    let mut lines = 0;
    let mut finished = Ok(false);
    for line in BufReader::new(child.stdout.take().context("stdout")?).lines() {
        lines += 1;
        finished = done(&line?);
        if !matches!(finished, Ok(false)) {
            break;
        }
    }
    let ms = begin.elapsed().as_secs_f64() * 1e3;
    over.store(true, Ordering::Relaxed);
    let peak_kib = peak.join().map_err(|_| anyhow::anyhow!("reading the memory's peak"))?;
    let _ = child.kill();
    child.wait()?;
    finished?;
    ensure!(lines > 0 && peak_kib > 0, "{command:?} said nothing");
    #[allow(clippy::cast_precision_loss, reason = "some thousand KiB")]
    Ok(Run { ms, peak_mib: peak_kib as f64 / 1024.0 })
}

/// The most memory that a process has had, in KiB.
fn peak_of(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.split_whitespace().next()?.parse().ok()
}

fn main_pc(file: &Path) -> Result<u64> {
    let (source, _) = parkranger::host::FileSource::new(Arc::new(std::fs::File::open(file)?))?;
    let binary = parkranger::binary::Binary::parse(Arc::new(source))?;
    let main = binary.functions_named("main.main")?.first().context("main.main")?.entry;
    Ok(main.0)
}
