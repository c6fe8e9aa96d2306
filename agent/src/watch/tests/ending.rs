//! Processes that ended, and binaries that nobody runs any more.

use std::time::Duration;

use parkranger_common::counts::ProcessId;

use super::{
    super::{choosing::Muted, fidelity::FidelityControl},
    fake::{World, file, site},
};
use crate::{
    governor::{Fidelity, Governor},
    kernel::Count as _,
    snapshot::testing,
};

const A: crate::ledger::Site = site(1);
const KEEP: Duration = Duration::from_secs(60);

fn watched(pids: &[u32]) -> World {
    let mut world = World::whole_host();
    let mut control = FidelityControl::new(Governor::new(None, Fidelity::Full, true), world.look().now);
    for pid in pids {
        world.start(*pid, file(1), 2, A);
    }
    let found = world.found();
    world.shared.begin_all(found, &mut Muted::default(), &mut control).unwrap();
    world
}

fn close(world: &mut World) -> usize {
    close_as(world, false)
}

fn close_as(world: &mut World, brief: bool) -> usize {
    world.shared.check_on_processes().unwrap();
    let counters = world.shared.kernel.counters().unwrap();
    world.shared.ledger.apply(&counters);
    let last = |shared: &super::super::shared::Shared<_, _>, id, _: &_| {
        let births = shared.ledger.process(id).totals().0;
        let last = testing::process(&[(1, 0, births)]);
        Some(std::sync::Arc::new(crate::snapshot::ProcessSnapshot { brief, ..last }))
    };
    world.shared.close_ended(last).unwrap().len()
}

#[test]
fn the_last_counts_are_kept_and_leave_the_kernel() {
    let mut world = watched(&[1, 2]);
    world.come_and_go(1, A, 7);
    world.end(1);
    let id = world.id(1);
    assert_eq!(close(&mut world), 1);
    assert_eq!(world.shared.processes[&id].last.as_ref().unwrap().births, 7);
    let counters = world.shared.kernel.counters().unwrap();
    assert!(counters.sites.iter().all(|(key, _)| key.process != id));
    assert_eq!(world.is_listed(1), None);
    assert_eq!(close(&mut world), 0, "once");
}

#[test]
fn who_ended_is_dropped_some_time_later() {
    let mut world = watched(&[1, 2]);
    world.end(1);
    close(&mut world);
    world.wait(KEEP / 2);
    assert!(world.shared.drop_ended(KEEP).is_empty());
    world.wait(KEEP);
    assert_eq!(world.shared.drop_ended(KEEP).len(), 1);
    assert_eq!(world.shared.processes.len(), 1);
}

#[test]
fn those_that_come_and_go_are_not_kept_one_by_one() {
    let mut world = watched(&[1, 2, 3]);
    world.end(1);
    close_as(&mut world, true);
    world.end(2);
    close_as(&mut world, false);
    world.wait(Duration::from_secs(3));
    let gone: Vec<u32> = world.shared.drop_ended(KEEP).into_iter().map(ProcessId::tgid).collect();
    assert_eq!(gone, [1]);
}

#[test]
fn of_too_many_that_ended_the_oldest_go() {
    let pids: Vec<u32> = (1..=1003).collect();
    let mut world = watched(&pids);
    for pid in pids {
        world.end(pid);
        if pid == 3 {
            close(&mut world);
            world.wait(Duration::from_secs(1));
        }
    }
    close(&mut world);
    let gone: Vec<u32> = world.shared.drop_ended(KEEP).into_iter().map(ProcessId::tgid).collect();
    assert_eq!(gone, [1, 2, 3]);
}

#[test]
fn a_reused_pid_is_another_process() {
    let mut world = watched(&[1]);
    world.come_and_go(1, A, 7);
    let first = world.id(1);
    world.end(1);
    close(&mut world);
    world.start(1, file(2), 0, A);
    world.shared.check_on_processes().unwrap();
    assert!(world.shared.processes[&first].has_ended());
}

#[test]
fn a_binary_that_nobody_runs_loses_its_probes_later() {
    let mut world = watched(&[1]);
    world.end(1);
    close(&mut world);
    assert!(world.shared.drop_unused().is_empty(), "its names are still shown");
    world.wait(KEEP * 2);
    world.shared.drop_ended(KEEP);
    assert!(world.shared.drop_unused().is_empty());
    world.wait(Duration::from_secs(301));
    assert_eq!(world.shared.drop_unused(), [file(1)]);
    assert!(world.placed(file(1)).is_empty());
}
