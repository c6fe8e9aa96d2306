//! `cargo xtask others [short]`: other people's programs under watch: the tests of Go's standard library, and a build of all
//! of it, every process of the host watched at full fidelity.

use std::{
    collections::BTreeSet,
    io::Write as _,
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use parkranger_tests::{agent, daemon::Daemon, go::Toolchain, kernel_count::KernelCount, others::Suite};
use serde_json::Value;

const PACKAGES: [&str; 5] = ["sync", "context", "time", "net/http", "runtime"];
const SHORT: usize = 3;

fn main() -> Result<ExitCode> {
    let short = std::env::args().any(|arg| arg == "short");
    let toolchains = Toolchain::all();
    let newest = toolchains.last().context("no Go toolchain")?.clone();
    let (toolchains, packages, rounds) =
        if short { (vec![newest.clone()], &PACKAGES[..SHORT], 1) } else { (toolchains, &PACKAGES[..], 2) };
    let mut same = true;
    for go in &toolchains {
        for package in packages {
            let comparison = Suite::build(go, package)?.compare(format!("Go 1.{} {package}", go.minor), rounds)?;
            println!("{comparison}");
            same &= comparison.is_same();
        }
    }
    if !short {
        println!("{}", build_of_std(&newest)?);
    }
    Ok(if same { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `go build -a std` while the agent watches every process there is. Each compiler must be seen, and all their goroutines
/// counted: as many births as the kernel's own counter has at the same instruction.
fn build_of_std(go: &Toolchain) -> Result<String> {
    let goroot = go.goroot()?;
    let compiler = Path::new(go.tool(&["-n", "compile"])?.trim()).to_owned();
    let scratch = tempfile::tempdir()?;
    // A compiler that waits for its source: it makes the binary known, so that nothing of the others is missed.
    let mut waiting = Command::new(&compiler)
        .args(["-p", "waiting", "-o", "/dev/null", "/dev/stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let daemon = Daemon::start_with(Path::new("/**"), &["--keep-ended", "30m", "--interval", "500ms"])?;
    daemon.wait_until(waiting.id(), "watched", |process| process["baseline"] == true)?;
    let birth = agent::check(waiting.id())?.probe(waiting.id(), "birth")?.file_offset;
    let mut count = KernelCount::open(&compiler, birth)?;
    let before = births(&daemon, waiting.id())?;
    let began = Instant::now();
    let output = Command::new(goroot.join("bin/go"))
        .args(["build", "-a", "-x", "std"])
        .current_dir("/")
        .env("GOROOT", &goroot)
        .env("GOTOOLCHAIN", "local")
        .env("GOPROXY", "off")
        .env("GOFLAGS", "")
        .env("GOCACHE", scratch.path())
        .output()?;
    let seconds = began.elapsed().as_secs_f64();
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "go build -a std: {said}");
    let compiler = compiler.to_str().context("path")?;
    let compiled = said.lines().filter(|line| line.contains(compiler) && line.contains(" -o ")).count();
    drop(waiting.stdin.take().map(|mut stdin| stdin.write_all(b"package waiting\n")));
    waiting.wait()?;
    daemon.wait_until(waiting.id(), "ended", |process| process["ended"] == true)?;
    let counted = count.read()?;
    let all = daemon.ok("/api/v1/processes")?.json()?;
    let processes = all["processes"].as_array().context("processes")?;
    let number = |process: &Value, field: &str| process[field].as_u64().with_context(|| format!("{field}: {process}"));
    let compilers: Vec<&Value> = processes.iter().filter(|process| process["exe"] == compiler).collect();
    let mut births = 0;
    for process in &compilers {
        ensure!(process["ended"] == true && process["baseline"] == true, "not seen to its end: {process}");
        ensure!(process["audits"]["drift"] == 0 && process["uncounted"]["births_exits_seconds"] == 0.0, "{process}");
        let losses = process["losses"].as_object().context("losses")?;
        ensure!(losses.values().all(|lost| lost == 0), "lost: {process}");
        ensure!(process["goroutines"]["live"].as_i64().is_some_and(|live| live >= 0), "fewer than none: {process}");
        births += number(process, "births")?;
    }
    ensure!(compilers.len() > compiled, "{} compilers seen, {compiled} ran", compilers.len());
    ensure!(births - before == counted, "{} births of compilers, {counted} by the kernel's counter", births - before);
    let exes: BTreeSet<&str> = processes.iter().filter_map(|process| process["exe"].as_str()).collect();
    let losses = &all["losses"];
    ensure!(losses.as_object().is_none_or(|losses| losses.values().all(|lost| lost == 0)), "lost: {losses}");
    ensure!(daemon.stop()?.success(), "the daemon did not end well");
    Ok(format!(
        "Go 1.{} go build -a std: {compiled} compilations in {seconds:.0} s, {} compilers among {} processes of {} programs \
         seen, {counted} births of compilers counted, as many as by the kernel's own counter",
        go.minor,
        compilers.len(),
        processes.len(),
        exes.len(),
    ))
}

fn births(daemon: &Daemon, pid: u32) -> Result<u64> {
    let process = daemon.wait_until(pid, "there", |_| true)?;
    process["births"].as_u64().context("births")
}
