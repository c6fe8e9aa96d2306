//! Processes that were found, and those that the kernel side adopted.

use parkranger_common::{probe::Event, record::ProcessRecord};

use super::{
    super::{Refusal, Target, choosing::Muted, fidelity::FidelityControl},
    fake::{World, file, site},
};
use crate::{
    governor::{Fidelity, Governor},
    kernel::Count as _,
};

const A: crate::ledger::Site = site(1);

struct Adopting {
    world: World,
    muted: Muted,
    control: FidelityControl,
}

impl Adopting {
    fn new(target: Target) -> Self {
        let world = World::new(target);
        let control = FidelityControl::new(Governor::new(None, Fidelity::Full, true), world.look().now);
        Self { world, muted: Muted::default(), control }
    }

    fn on_host() -> Self {
        Self::new(Target::Host(crate::program::Rules::default()))
    }

    fn scan(&mut self) {
        let found = self.world.found();
        self.world.shared.begin_all(found, &mut self.muted, &mut self.control).unwrap();
    }

    fn take_records(&mut self) {
        for record in self.world.shared.kernel.records().processes {
            if let ProcessRecord::Seen(seen) = record {
                self.world.shared.adopted(&seen, &mut self.muted).unwrap();
            }
        }
    }

    fn births(&mut self, pid: u32) -> u64 {
        let counters = self.world.shared.kernel.counters().unwrap();
        self.world.shared.ledger.apply(&counters);
        self.world.shared.ledger.process(self.world.id(pid)).totals().0
    }
}

#[test]
fn processes_of_one_binary_share_its_probes() {
    let mut adopting = Adopting::on_host();
    for pid in 1..=3 {
        adopting.world.start(pid, file(1), 2, A);
    }
    adopting.scan();
    assert_eq!(adopting.world.placed(file(1)), [Event::Birth, Event::Park, Event::Exit]);
    for pid in 1..=3 {
        adopting.world.come_and_go(pid, A, u64::from(pid));
        assert_eq!(adopting.births(pid), u64::from(pid));
    }
    adopting.scan();
    assert_eq!(adopting.world.shared.processes.len(), 3, "a scan finds nobody twice");
}

#[test]
fn a_process_that_starts_later_is_counted_from_its_first_goroutine_on() {
    let mut adopting = Adopting::on_host();
    adopting.world.start(1, file(1), 2, A);
    adopting.scan();
    adopting.world.start(2, file(1), 5, A);
    adopting.take_records();
    assert_eq!(adopting.births(2), 5);
    assert_eq!(adopting.world.live(2), adopting.world.truth(2));
}

#[test]
fn a_process_that_came_and_went_unseen_keeps_its_counts() {
    let mut adopting = Adopting::on_host();
    adopting.world.start(1, file(1), 2, A);
    adopting.scan();
    adopting.world.start(2, file(1), 5, A);
    adopting.world.end(2);
    adopting.take_records();
    assert_eq!(adopting.births(2), 5);
    let id = adopting.world.id(2);
    assert!(adopting.world.shared.processes[&id].has_ended());
    assert_eq!(adopting.world.is_listed(2), None);
}

#[test]
fn a_process_that_is_not_meant_is_muted_and_not_counted() {
    let mut adopting = Adopting::new(Target::Pids(vec![1]));
    adopting.world.start(1, file(1), 2, A);
    adopting.scan();
    adopting.world.start(2, file(1), 5, A);
    adopting.take_records();
    assert_eq!(adopting.world.is_listed(2), Some(false));
    adopting.world.come_and_go(2, A, 10);
    let counters = adopting.world.shared.kernel.counters().unwrap();
    assert!(counters.sites.iter().all(|(key, _)| key.process.tgid() == 1));
}

#[test]
fn without_room_a_process_is_refused() {
    let mut adopting = Adopting::on_host();
    adopting.world.start(1, file(1), 2, A);
    adopting.world.model().faults.list_is_full = true;
    adopting.scan();
    assert!(adopting.world.shared.processes.is_empty());
    assert!(matches!(adopting.world.look().refused[..], [(1, Refusal::TooMany)]));
}

#[test]
fn without_probes_all_of_a_binary_are_refused() {
    let mut adopting = Adopting::on_host();
    for pid in 1..=2 {
        adopting.world.start(pid, file(1), 2, A);
    }
    adopting.world.start(3, file(2), 2, A);
    adopting.world.model().faults.refuse_probes = true;
    adopting.scan();
    assert!(adopting.world.shared.processes.is_empty());
    let refused = adopting.world.look().refused.len();
    assert_eq!(refused, 3);
    assert_eq!(adopting.world.is_listed(1), None);
}

#[test]
fn a_process_that_ends_while_it_is_looked_at_is_passed_over() {
    let mut adopting = Adopting::on_host();
    adopting.world.start(1, file(1), 2, A);
    let found = adopting.world.found();
    adopting.world.end(1);
    adopting.world.shared.begin_all(found, &mut adopting.muted, &mut adopting.control).unwrap();
    assert!(adopting.world.shared.processes.is_empty());
}

#[test]
fn another_program_of_a_named_pid_is_not_meant() {
    for (target, watched) in [(Target::Pids(vec![1]), 0), (Target::Host(crate::program::Rules::default()), 1)] {
        let mut adopting = Adopting::new(target);
        adopting.world.start(1, file(1), 2, A);
        adopting.world.shared.program_begun(1, &mut adopting.muted, &mut adopting.control).unwrap();
        assert_eq!(adopting.world.shared.processes.len(), watched);
    }
}
