//! The agent's parks are what the kernel itself counts at the same instruction, and each has its reason.

#![allow(missing_docs, reason = "tests")]

use anyhow::{Result, ensure};
use parkranger_tests::agent::{Top, check};
use parkranger_tests::compare::{consistent, rows};
use parkranger_tests::elf::conditional_branch_length;
use parkranger_tests::go::{Program, Toolchain, Variant};
use parkranger_tests::kernel_count::KernelCount;
use parkranger_tests::skip::{Missing, agent, perf_uprobes};
use parkranger_tests::target::Exercise;
use parkranger_tests::{on_every_go, on_pgo_go};

fn agent_and_perf() -> Result<(), Missing> {
    agent().and_then(|()| perf_uprobes())
}

on_every_go!(agent_and_perf: parks_are_the_kernels);
on_pgo_go!(agent_and_perf: parks_of_a_pgo_build_are_the_kernels);
on_every_go!(agent: every_wait_has_its_reason, sleeps_are_exact);

fn parks_are_the_kernels(go: &Toolchain) -> Result<()> {
    as_the_kernel_counts(go, Variant::Plain)
}

fn parks_of_a_pgo_build_are_the_kernels(go: &Toolchain) -> Result<()> {
    as_the_kernel_counts(go, Variant::Pgo)
}

/// The runtime's own goroutines park when they like, so also while the agent attaches or ends; what the kernel counts
/// just before and just after that bounds the agent from both sides, mostly at one and the same number.
fn as_the_kernel_counts(go: &Toolchain, variant: Variant) -> Result<()> {
    let (_directory, path) = go.build(Program::Exercise, variant)?.private_copy()?;
    let mut exercise = Exercise::start(&path)?;
    exercise.names()?;
    let pid = exercise.pid();
    let checked = check(pid)?;
    let probe = checked.probe(pid, "park")?;
    // A conditional branch that is taken is no park: the function starts over on a bigger stack. The agent does not
    // count those; the kernel is asked of the instruction that is reached when the branch is not taken.
    let counted_at = match conditional_branch_length(&path, probe.file_offset)? {
        Some(length) => probe.file_offset + length,
        None => probe.file_offset,
    };
    let mut kernel = KernelCount::open(&path, counted_at)?;

    let before_attach = kernel.read()?;
    let top = Top::start(pid)?;
    let after_attach = kernel.read()?;
    exercise.ping(50_000)?;
    exercise.park(10, 500)?;
    exercise.load_on()?;
    std::thread::sleep(std::time::Duration::from_secs(2));
    let load = exercise.load_off()?;
    ensure!(load.ok, "{}", load.first_failure);
    exercise.settle()?;
    let before_finish = kernel.read()?;
    let agent = top.finish()?;
    let after_finish = kernel.read()?;

    let (least, most) = (before_finish - after_attach, after_finish - before_attach);
    ensure!(least > 50_000, "the kernel counted {least} parks");
    ensure!(
        (least..=most).contains(&agent.parks),
        "{} parks; the kernel counted {least} to {most} at {counted_at:#x}, {} ({})",
        agent.parks,
        probe.function,
        probe.instruction
    );
    consistent(&agent)
}

fn every_wait_has_its_reason(go: &Toolchain) -> Result<()> {
    const N: u64 = 20;
    let mut exercise = Exercise::start(&go.build(Program::Exercise, Variant::Plain)?.path)?;
    let kinds = exercise.names()?.block;
    let top = Top::start(exercise.pid())?;
    let mut blocked = Vec::new();
    for kind in kinds {
        blocked.push((exercise.block(&kind, N)?, kind));
    }
    let agent = top.finish()?;
    for (site, kind) in blocked {
        let rows = rows(&agent, &site.function, &site.start_function);
        let waits: u64 = rows.iter().filter_map(|row| row.waits.get(&site.wait_reason)).sum();
        // A goroutine may have parked before, and while sleeping parks again.
        ensure!(waits >= N, "{kind}: {waits} parks of {N} for {:?}: {rows:?}", site.wait_reason);
        // Whoever allocates may have to wait for the collector in between, which is not the program's doing. Who waits for a
        // condition has locked its mutex before, for which there may have been a queue.
        let of_its_own = |reason: &String| {
            reason == &site.wait_reason
                || reason == "semacquire"
                || reason.starts_with("GC ")
                || (kind == "cond" && reason == "sync.Mutex.Lock")
        };
        ensure!(rows.iter().all(|row| row.waits.keys().all(of_its_own)), "{kind} waits for nothing else: {rows:?}");
        if kind != "sleep" && !kind.starts_with("rwmutex") && kind != "mutex" {
            ensure!(waits == N, "{kind}: {waits} parks, not {N}: {rows:?}");
        }
    }
    consistent(&agent)
}

fn sleeps_are_exact(go: &Toolchain) -> Result<()> {
    let mut exercise = Exercise::start(&go.build(Program::Exercise, Variant::Plain)?.path)?;
    exercise.names()?;
    let top = Top::start(exercise.pid())?;
    let parked = exercise.park(8, 1000)?;
    exercise.settle()?;
    let agent = top.finish()?;
    let rows = rows(&agent, &parked.function, &parked.start_function);
    let waits: u64 = rows.iter().filter_map(|row| row.waits.get(&parked.wait_reason)).sum();
    ensure!(waits == parked.parks, "{waits} parks, not {}: {rows:?}", parked.parks);
    consistent(&agent)
}
