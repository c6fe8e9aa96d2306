//! The default mode under load, from the attach on: audits, steps of fidelity, slices, censuses and totals together.

use std::{collections::BTreeMap, time::Duration};

use super::{
    super::{audits::Auditor, choosing::Muted, fidelity::FidelityControl},
    fake::{FakeCensus, World, file, site},
};
use crate::{
    governor::{Budget, Fidelity, Governor},
    kernel::{Count as _, HitCosts},
    ledger::{ProcessLedger, Site, Tally},
    program::GoroutineTotals,
};

const PID: u32 = 7;
const REST: Site = site(1);
const CONNECTION: Site = site(2);
const STEP: Duration = Duration::from_millis(10);

struct Server {
    world: World,
    auditor: Auditor<FakeCensus>,
    control: FidelityControl,
    connections: Vec<u64>,
    made_before: u64,
    made: u64,
    last: BTreeMap<Site, (u64, u64)>,
}

impl Server {
    fn new() -> Self {
        let mut world = World::whole_host();
        world.start(PID, file(1), 40, REST);
        let mut governor = Governor::new(Some(Budget::DEFAULT), Fidelity::Full, true);
        governor.calibrated(HitCosts { birth_ns: 640.0, park_ns: 600.0, exit_ns: 590.0 });
        let mut control = FidelityControl::new(governor, world.look().now);
        let found = world.found();
        world.shared.begin_all(found, &mut Muted::default(), &mut control).unwrap();
        let auditor = Auditor::new(Duration::from_secs(60));
        Self { world, auditor, control, connections: Vec::new(), made_before: 40, made: 40, last: BTreeMap::new() }
    }

    /// Goes on for so long: in each step so many connections come, and the older ones go.
    fn run(&mut self, time: Duration, connections: usize) {
        for step in 0..time.as_millis() / STEP.as_millis() {
            for _ in 0..connections {
                self.connections.push(self.world.birth(PID, CONNECTION));
                self.made += 1;
            }
            let stay = connections * 2 + usize::try_from(step % 7).unwrap();
            while self.connections.len() > stay {
                let goid = self.connections.remove(0);
                self.world.exit(PID, goid);
            }
            self.world.wait(STEP);
            let records = self.world.shared.kernel.records();
            self.auditor.take_lives(records.lives);
            self.auditor.step(&mut self.world.shared).unwrap();
            let now = self.world.look().now;
            for id in self.control.govern(&mut self.world.shared).unwrap() {
                self.auditor.again(id, now);
            }
            if step % 50 == 0 {
                self.look();
            }
        }
    }

    /// Takes a snapshot and holds it to the truth.
    fn look(&mut self) -> ProcessLedger {
        let id = self.world.id(PID);
        let users = u64::try_from(self.world.truth(PID).values().sum::<i64>()).unwrap();
        self.world.shared.ledger.take_totals(id, GoroutineTotals { made: self.made, users });
        let counters = self.world.shared.kernel.counters().unwrap();
        self.world.shared.ledger.apply(&counters);
        let process = self.world.shared.ledger.process(id).clone();
        for (site, tally) in &process.sites {
            let (births, exits) = self.last.insert(*site, (tally.births, tally.exits)).unwrap_or_default();
            assert!(tally.births >= births && tally.exits >= exits && tally.live() >= 0, "{site:?} {tally:?}");
        }
        if process.baseline {
            let live: i64 = process.sites.values().map(Tally::live).sum();
            assert_eq!(live, users.cast_signed(), "{:?}", process.split_at);
            let (births, exits, _) = process.totals();
            assert_eq!(births, self.made - self.made_before);
            assert_eq!(births.cast_signed() - exits.cast_signed(), live - 40, "less what was there before");
        }
        process
    }

    fn fidelity(&self) -> Fidelity {
        self.control.governor.fidelity(file(1))
    }
}

#[test]
fn totals_are_exact_and_nothing_is_negative_through_a_storm_and_after_it() {
    let mut server = Server::new();
    server.run(Duration::from_secs(2), 1);
    let process = server.look();
    assert!(process.baseline && process.split_at.is_none());
    server.run(Duration::from_secs(40), 300);
    assert_eq!(server.fidelity(), Fidelity::Sparse);
    let process = server.look();
    assert!(process.split_at.is_some() && process.totals_are_exact);
    let estimated = process.sites[&CONNECTION].births;
    assert!(estimated.abs_diff(server.made - 40) * 100 < server.made, "{estimated} of {}", server.made);
    server.run(Duration::from_secs(200), 0);
    assert_eq!(server.fidelity(), Fidelity::Full);
    let process = server.look();
    assert!(process.split_at.is_none() && process.baseline, "all is counted again");
    assert_eq!(server.world.live(PID), server.world.truth(PID), "by site, too");
}
