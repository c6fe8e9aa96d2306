//! The harness itself, without the agent: a test target that miscounts would blame the agent for it.

#![allow(missing_docs, reason = "tests")]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use parkranger_tests::breakpoints::{INT3, changed_offsets, live_byte, wait_until_clean, wait_until_probed};
use parkranger_tests::elf::function_offset;
use parkranger_tests::go::{Program, Toolchain, Variant};
use parkranger_tests::kernel_count::KernelCount;
use parkranger_tests::skip::{Missing, perf_uprobes};
use parkranger_tests::target::Exercise;
use parkranger_tests::{on_every_go, on_pgo_go};

fn nothing() -> Result<(), Missing> {
    Ok(())
}

on_every_go!(nothing: tallies_are_what_was_asked_for, waits_are_what_they_should_be, load_checks_itself, variants_run);
on_every_go!(perf_uprobes: the_kernel_counts_every_birth, probes_show_and_go);
on_pgo_go!(perf_uprobes: gopark_sees_few_parks_of_a_pgo_build);

fn tallies_are_what_was_asked_for(go: &Toolchain) -> Result<()> {
    let mut exercise = Exercise::start(&go.build(Program::Exercise, Variant::Plain)?.path)?;
    let names = exercise.names()?.spawn;
    ensure!(names.contains(&"coroutine".to_owned()) == (go.minor >= 23), "coroutines: {names:?}");
    for name in &names {
        exercise.spawn(name, 1234)?;
    }
    exercise.park(3, 50)?;
    exercise.million()?;
    exercise.settle()?;
    let stats = exercise.stats()?;
    ensure!(stats.goroutines == 1, "only main is left: {stats:?}");
    ensure!(stats.go_version.starts_with(&format!("go1.{}", go.minor)), "{}", stats.go_version);
    for tally in &stats.sites {
        ensure!(tally.births == tally.exits && tally.line.is_some(), "{tally:?}");
    }
    let births = |site: &str| stats.sites.iter().filter(|t| t.site == site).map(|t| t.births).sum::<u64>();
    for (site, expected) in [
        ("plain", 1234 + 300_000),
        ("arguments", 1234 + 300_000),
        ("closure", 1234 + 300_000),
        ("grow", 1234 + 60_000),
        ("depth", 2 * (1234 + 20_000)),
        ("two-starts", 1234),
        ("park", 3),
        ("driver", 2),
    ] {
        ensure!(births(site) == expected, "{site}: {} births, not {expected}", births(site));
    }
    Ok(())
}

fn waits_are_what_they_should_be(go: &Toolchain) -> Result<()> {
    let mut exercise = Exercise::start(&go.build(Program::Exercise, Variant::Plain)?.path)?;
    // sync.Mutex and sync.RWMutex have reasons of their own since Go 1.20, sync.WaitGroup since Go 1.24.
    let since = |minor: u32, reason: &'static str| if go.minor >= minor { reason } else { "semacquire" };
    let expected = [
        ("accept", "IO wait"),
        ("chan-receive", "chan receive"),
        ("chan-receive-nil", "chan receive (nil chan)"),
        ("chan-send", "chan send"),
        ("chan-send-nil", "chan send (nil chan)"),
        ("cond", "sync.Cond.Wait"),
        ("mutex", since(20, "sync.Mutex.Lock")),
        ("pipe-read", "IO wait"),
        ("rwmutex-read", since(20, "sync.RWMutex.RLock")),
        ("rwmutex-write", since(20, "sync.RWMutex.Lock")),
        ("select", "select"),
        ("select-empty", "select (no cases)"),
        ("sleep", "sleep"),
        ("wait-group", since(24, "sync.WaitGroup.Wait")),
    ];
    ensure!(exercise.names()?.block == expected.map(|(kind, _)| kind), "a kind without an expectation");
    for (kind, reason) in expected {
        exercise.block(kind, 3)?;
        let blocked = exercise.block(kind, 2)?;
        ensure!(blocked.blocked == 5 && blocked.wait_reason == reason, "{kind}: {blocked:?}");
    }
    exercise.settle()?;
    ensure!(exercise.stats()?.goroutines == 1 + 14 * 5, "all are there");
    exercise.release()?;
    exercise.settle()?;
    ensure!(exercise.stats()?.goroutines == 1 + 3 * 5, "three kinds are for ever");
    // What was released can be blocked again.
    ensure!(exercise.block("mutex", 2)?.blocked == 2, "mutex once more");
    exercise.release()?;
    exercise.settle()
}

fn load_checks_itself(go: &Toolchain) -> Result<()> {
    let mut exercise = Exercise::start(&go.build(Program::Exercise, Variant::Plain)?.path)?;
    exercise.load_on()?;
    std::thread::sleep(Duration::from_millis(500));
    let before = exercise.check()?.operations;
    std::thread::sleep(Duration::from_millis(500));
    let check = exercise.load_off()?;
    ensure!(check.ok && before > 0 && check.operations > before, "{check:?} after {before}");
    exercise.settle()?;
    ensure!(exercise.stats()?.goroutines == 1, "the load has ended");
    Ok(())
}

/// The exercise program reports an error where names, files or lines are not what it declares.
fn variants_run(go: &Toolchain) -> Result<()> {
    let mut variants = vec![Variant::Stripped, Variant::Pie, Variant::TrimPath];
    if go.minor >= 21 {
        variants.push(Variant::Pgo);
    }
    for variant in variants {
        let mut exercise = Exercise::start(&go.build(Program::Exercise, variant)?.path)?;
        for name in exercise.names()?.spawn {
            exercise.spawn(&name, 10)?;
        }
        exercise.settle()?;
        exercise.stats().with_context(|| format!("{variant:?}"))?;
    }
    Ok(())
}

/// newproc1 runs on the scheduler's stack, which never grows: even its entry is reached once per birth.
fn the_kernel_counts_every_birth(go: &Toolchain) -> Result<()> {
    let (_directory, path) = go.build(Program::Exercise, Variant::Plain)?.private_copy()?;
    let mut exercise = Exercise::start(&path)?;
    exercise.spawn("plain", 1000)?; // the runtime's own first goroutines are born
    exercise.settle()?;
    let mut count = KernelCount::open(&path, function_offset(&path, "runtime.newproc1")?)?;
    exercise.spawn("arguments", 20_000)?;
    exercise.spawn("depth", 500)?;
    exercise.settle()?;
    let counted = count.read()?;
    // A collection may start a worker per processor.
    ensure!((21_000..21_010).contains(&counted), "{counted} births of 21000");
    Ok(())
}

fn probes_show_and_go(go: &Toolchain) -> Result<()> {
    for variant in [Variant::Plain, Variant::Pie] {
        let (_directory, path) = go.build(Program::Exercise, variant)?.private_copy()?;
        let exercise = Exercise::start(&path)?;
        let pid = exercise.pid();
        ensure!(changed_offsets(pid)?.is_empty(), "untouched");
        let offset = function_offset(&path, "runtime.newproc1")?;
        let count = KernelCount::open(&path, offset)?;
        wait_until_probed(pid, offset, Duration::from_secs(1))?;
        ensure!(changed_offsets(pid)? == [offset] && live_byte(pid, offset)? == INT3, "one breakpoint");
        drop(count);
        wait_until_clean(pid, Duration::from_secs(5))?;
    }
    Ok(())
}

/// Otherwise the PGO build would test nothing.
fn gopark_sees_few_parks_of_a_pgo_build(go: &Toolchain) -> Result<()> {
    let (_directory, path) = go.build(Program::Exercise, Variant::Pgo)?.private_copy()?;
    let mut exercise = Exercise::start(&path)?;
    let mut gopark = KernelCount::open(&path, function_offset(&path, "runtime.gopark")?)?;
    let mut park_m = KernelCount::open(&path, function_offset(&path, "runtime.park_m")?)?;
    exercise.ping(5000)?;
    let (gopark, park_m) = (gopark.read()?, park_m.read()?);
    ensure!(park_m >= 5000 && gopark < park_m / 10, "gopark {gopark}, park_m {park_m}");
    Ok(())
}
