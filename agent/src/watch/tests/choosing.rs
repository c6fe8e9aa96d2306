//! Another choice while the watch goes on.

use super::{
    super::{Target, choosing::Muted, fidelity::FidelityControl},
    fake::{World, file, site},
};
use crate::{
    governor::{Fidelity, Governor},
    kernel::Count as _,
};

const A: crate::ledger::Site = site(1);

fn two_processes() -> (World, Muted) {
    let mut world = World::whole_host();
    let mut control = FidelityControl::new(Governor::new(None, Fidelity::Full, true), world.look().now);
    world.start(1, file(1), 2, A);
    world.start(2, file(2), 2, A);
    let mut muted = Muted::default();
    let found = world.found();
    world.shared.begin_all(found, &mut muted, &mut control).unwrap();
    (world, muted)
}

#[test]
fn who_is_left_out_is_dropped_with_all_counts() {
    let (mut world, mut muted) = two_processes();
    world.come_and_go(1, A, 5);
    world.come_and_go(2, A, 5);
    let gone = world.shared.leave_out(&Target::Pids(vec![2]), &mut muted).unwrap();
    assert_eq!(gone.iter().map(|id| id.tgid()).collect::<Vec<_>>(), [1]);
    world.come_and_go(1, A, 5);
    let counters = world.shared.kernel.counters().unwrap();
    assert!(counters.sites.iter().all(|(key, _)| key.process.tgid() == 2));
    assert_eq!(world.is_listed(1), Some(false));
}

#[test]
fn who_has_ended_is_not_left_out() {
    let (mut world, mut muted) = two_processes();
    world.end(1);
    assert!(world.shared.leave_out(&Target::Pids(vec![2]), &mut muted).unwrap().is_empty());
}

#[test]
fn who_is_meant_again_is_listed_again() {
    let (mut world, mut muted) = two_processes();
    world.shared.leave_out(&Target::Pids(vec![2]), &mut muted).unwrap();
    let mut control = FidelityControl::new(Governor::new(None, Fidelity::Full, true), world.look().now);
    let found = world.found();
    world.shared.begin_all(found, &mut muted, &mut control).unwrap();
    assert_eq!(world.is_listed(1), Some(true));
    assert_eq!(world.shared.processes.len(), 2);
}

#[test]
fn who_is_muted_and_gone_leaves_the_list() {
    let (mut world, mut muted) = two_processes();
    world.shared.leave_out(&Target::Pids(vec![2]), &mut muted).unwrap();
    let present = std::iter::once(world.shared.processes[&world.id(2)].identity).collect();
    muted.keep(&present, &mut world.shared.kernel).unwrap();
    assert_eq!(world.is_listed(1), None);
}

#[test]
fn a_muted_process_that_becomes_another_program_leaves_the_list() {
    let (mut world, mut muted) = two_processes();
    let id = world.id(1);
    world.shared.leave_out(&Target::Host(crate::program::Rules::default()), &mut muted).unwrap();
    muted.became_another(id, &mut world.shared.kernel).unwrap();
    assert_eq!(world.is_listed(1), Some(true), "it was never muted");
    world.shared.leave_out(&Target::Pids(vec![2]), &mut muted).unwrap();
    muted.became_another(id, &mut world.shared.kernel).unwrap();
    assert_eq!(world.is_listed(1), None);
}
