//! Audits under losses, delays and reordering.

use std::time::Duration;

use super::{
    super::{audits::Auditor, choosing::Muted, fidelity::FidelityControl},
    fake::{FakeCensus, World, file, site},
};
use crate::{
    governor::{Fidelity, Governor},
    kernel::Count as _,
    ledger::Audits,
};

const PID: u32 = 7;
const A: crate::ledger::Site = site(1);
const B: crate::ledger::Site = site(2);
const STEP: Duration = Duration::from_millis(2);
const EVERY: Duration = Duration::from_secs(60);

struct Audited {
    world: World,
    auditor: Auditor<FakeCensus>,
    fidelity: FidelityControl,
}

impl Audited {
    /// A process with so many goroutines of site A from before the attach.
    fn new(before: u64, fidelity: Fidelity) -> Self {
        let mut world = World::whole_host();
        world.start(PID, file(1), before, A);
        let mut fidelity = FidelityControl::new(Governor::new(None, fidelity, true), world.look().now);
        let found = world.found();
        world.shared.begin_all(found, &mut Muted::default(), &mut fidelity).unwrap();
        Self { world, auditor: Auditor::new(EVERY), fidelity }
    }

    fn step(&mut self) {
        self.world.wait(STEP);
        let records = self.world.shared.kernel.records();
        self.auditor.take_lives(records.lives);
        self.auditor.step(&mut self.world.shared).unwrap();
    }

    fn audits(&mut self) -> Audits {
        let id = self.world.id(PID);
        self.world.shared.ledger.audits(id)
    }

    /// Steps on while goroutines come and go, until an audit was settled.
    fn until_settled(&mut self, settled: u64) {
        for _ in 0..5_000 {
            self.step();
            if self.audits().settled >= settled {
                return;
            }
            let goid = self.world.birth(PID, B);
            self.world.come_and_go(PID, A, 3);
            self.step();
            self.world.exit(PID, goid);
        }
        panic!("not settled: {:?}", self.audits());
    }

    fn assert_exact(&mut self) {
        assert_eq!(self.world.live(PID), self.world.truth(PID));
    }
}

#[test]
fn the_baseline_of_a_quiet_process_takes_one_audit() {
    let mut audited = Audited::new(40, Fidelity::Full);
    for _ in 0..20 {
        audited.step();
    }
    assert_eq!(audited.audits(), Audits { settled: 1, repeated: 0, drift: 0 });
    assert!(audited.world.shared.have_baselines());
    audited.assert_exact();
}

#[test]
fn the_baseline_of_a_busy_process_is_confirmed_and_exact() {
    let mut audited = Audited::new(40, Fidelity::Full);
    audited.until_settled(1);
    audited.assert_exact();
    assert_eq!(audited.audits().drift, 0);
    assert!(audited.audits().repeated >= 1, "one audit of a busy process says little");
}

#[test]
fn audits_go_on_and_find_no_drift() {
    let mut audited = Audited::new(5, Fidelity::Full);
    audited.until_settled(1);
    for settled in 2..6 {
        audited.world.wait(EVERY);
        audited.world.model().processes.get_mut(&PID).unwrap().cpu_ns += 1 << 30;
        audited.until_settled(settled);
        audited.assert_exact();
    }
    assert_eq!(audited.audits().drift, 0);
}

#[test]
fn lost_records_repeat_the_audit_and_count_nothing_wrong() {
    let mut audited = Audited::new(40, Fidelity::Full);
    audited.world.model().faults.lose = 25;
    audited.until_settled(1);
    assert!(audited.audits().repeated >= 2, "{:?}", audited.audits());
    audited.assert_exact();
}

#[test]
fn late_records_are_waited_for_or_repeat_the_audit() {
    for delay in [1, 2, 5] {
        let mut audited = Audited::new(40, Fidelity::Full);
        audited.world.model().faults.delay = delay;
        let mut settled = false;
        for _ in 0..400 {
            audited.step();
            audited.world.come_and_go(PID, A, 1);
            if audited.audits().settled > 0 {
                settled = true;
                break;
            }
        }
        if !settled {
            // It never says what it does not know.
            assert!(!audited.world.shared.have_baselines());
            audited.world.model().faults.delay = 0;
            audited.until_settled(1);
        }
        audited.assert_exact();
    }
}

#[test]
fn exits_that_overtake_births_change_nothing() {
    let mut audited = Audited::new(40, Fidelity::Full);
    audited.world.model().faults.reorder = true;
    audited.until_settled(1);
    audited.assert_exact();
}

#[test]
fn an_incomplete_census_is_repeated() {
    let mut audited = Audited::new(40, Fidelity::Full);
    audited.world.model().faults.incomplete = true;
    audited.until_settled(1);
    assert!(audited.audits().repeated >= 1);
    audited.assert_exact();
}

#[test]
fn a_process_that_holds_back_its_memory_has_no_baseline_and_stops_nobody() {
    let mut audited = Audited::new(40, Fidelity::Full);
    audited.world.model().faults.hang = true;
    for _ in 0..20 {
        audited.step();
    }
    assert!(audited.auditor.is_open());
    audited.world.wait(Duration::from_secs(31));
    audited.step();
    let id = audited.world.id(PID);
    assert!(audited.world.shared.processes[&id].no_census && !audited.auditor.is_open());
    audited.world.model().faults.hang = false;
    audited.world.start(8, file(2), 3, A);
    let found = audited.world.found();
    audited.world.shared.begin_all(found, &mut Muted::default(), &mut audited.fidelity).unwrap();
    for _ in 0..20 {
        audited.step();
    }
    assert_eq!(audited.world.live(8), audited.world.truth(8));
}

#[test]
fn a_thread_without_a_processor_spoils_the_audit() {
    let mut audited = Audited::new(40, Fidelity::Full);
    audited.world.model().processes.get_mut(&PID).unwrap().thread.sleeps = false;
    for _ in 0..300 {
        audited.step();
    }
    assert_eq!(audited.audits().settled, 0);
    assert!(audited.audits().repeated >= 1);
    audited.world.model().processes.get_mut(&PID).unwrap().thread.ran_ns = 1 << 30;
    audited.world.wait(Duration::from_secs(20));
    audited.world.model().processes.get_mut(&PID).unwrap().thread.sleeps = true;
    audited.until_settled(1);
    audited.assert_exact();
}

#[test]
fn a_process_that_ends_in_its_audit_closes_it() {
    let mut audited = Audited::new(40, Fidelity::Full);
    audited.step();
    assert!(audited.auditor.is_open());
    audited.world.end(PID);
    audited.world.shared.check_on_processes().unwrap();
    audited.step();
    assert!(!audited.auditor.is_open());
    audited.step();
    assert!(!audited.auditor.is_open(), "and no other is opened");
}

#[test]
fn what_is_said_again_voids_the_open_audit() {
    let mut audited = Audited::new(40, Fidelity::Full);
    audited.step();
    let (id, now) = (audited.world.id(PID), audited.world.look().now);
    audited.auditor.again(id, now);
    audited.step();
    assert!(!audited.auditor.is_open());
    audited.until_settled(1);
    audited.assert_exact();
}

#[test]
fn without_probes_a_census_is_all_there_is() {
    let mut audited = Audited::new(40, Fidelity::Census);
    for _ in 0..20 {
        audited.step();
    }
    audited.assert_exact();
    audited.world.come_and_go(PID, B, 9);
    let goid = audited.world.birth(PID, B);
    audited.world.wait(Duration::from_secs(6));
    for _ in 0..20 {
        audited.step();
    }
    audited.assert_exact();
    audited.world.exit(PID, goid);
    assert_eq!(audited.audits().settled, 0, "nothing is held to anything");
}

#[test]
fn a_process_without_breakpoints_is_left_to_censuses() {
    let mut audited = Audited::new(40, Fidelity::Full);
    audited.world.model().breakpoints_missing = 3;
    for _ in 0..40 {
        audited.step();
    }
    let id = audited.world.id(PID);
    assert!(audited.world.shared.processes[&id].is_unprobed());
    audited.assert_exact();
    let missing = audited.world.shared.ledger.process(id).missing;
    assert!(!missing.has_all_lives());
}

#[test]
fn an_idle_process_is_not_audited_again() {
    let mut audited = Audited::new(40, Fidelity::Full);
    for _ in 0..20 {
        audited.step();
    }
    audited.world.wait(EVERY * 2);
    audited.step();
    assert!(!audited.auditor.is_open());
    audited.world.model().processes.get_mut(&PID).unwrap().cpu_ns += 2_000_000;
    audited.world.wait(EVERY);
    audited.step();
    assert!(audited.auditor.is_open());
}
