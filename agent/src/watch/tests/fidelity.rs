//! Steps of fidelity, slices of sampling, stories.

use std::time::Duration;

use parkranger_common::probe::Event;

use super::{
    super::{choosing::Muted, fidelity::FidelityControl, stories::Pinned},
    fake::{World, file, site},
};
use crate::{
    governor::{Budget, Fidelity, Governor},
    kernel::HitCosts,
};

const PID: u32 = 7;
const A: crate::ledger::Site = site(1);
const COSTS: HitCosts = HitCosts { birth_ns: 640.0, park_ns: 600.0, exit_ns: 590.0 };
const STEP: Duration = Duration::from_millis(10);

struct Governed {
    world: World,
    control: FidelityControl,
    forgotten: usize,
}

impl Governed {
    fn new(budget: Option<Budget>, fidelity: Fidelity) -> Self {
        let mut world = World::whole_host();
        world.start(PID, file(1), 3, A);
        let mut governor = Governor::new(budget, fidelity, true);
        governor.calibrated(COSTS);
        let mut control = FidelityControl::new(governor, world.look().now);
        let found = world.found();
        world.shared.begin_all(found, &mut Muted::default(), &mut control).unwrap();
        Self { world, control, forgotten: 0 }
    }

    /// Goes on for so long, with so many events per step.
    fn run(&mut self, time: Duration, births: u64, parks: u64) {
        for _ in 0..time.as_millis() / STEP.as_millis() {
            self.world.come_and_go(PID, A, births);
            self.world.park(PID, A, parks);
            self.world.wait(STEP);
            self.forgotten += self.control.govern(&mut self.world.shared).unwrap().len();
        }
    }

    fn fidelity(&self) -> Fidelity {
        self.control.governor.fidelity(file(1))
    }
}

#[test]
fn everything_is_placed_and_an_idle_process_keeps_it() {
    let mut governed = Governed::new(Some(Budget::DEFAULT), Fidelity::Full);
    assert_eq!(governed.world.placed(file(1)), [Event::Birth, Event::Park, Event::Exit]);
    governed.run(Duration::from_secs(30), 0, 1);
    assert_eq!((governed.fidelity(), governed.forgotten), (Fidelity::Full, 0));
    assert_eq!(governed.world.placed(file(1)), [Event::Birth, Event::Park, Event::Exit]);
}

#[test]
fn parks_beyond_the_budget_are_counted_in_slices() {
    let mut governed = Governed::new(Some(Budget::DEFAULT), Fidelity::Full);
    governed.run(Duration::from_secs(6), 0, 500);
    assert_eq!(governed.fidelity(), Fidelity::Sampled);
    let (mut open, mut all) = (0, 0);
    for _ in 0..1000 {
        governed.run(STEP, 0, 500);
        let placed = governed.world.placed(file(1));
        assert!(placed.contains(&Event::Birth) && placed.contains(&Event::Exit), "{placed:?}");
        open += u32::from(placed.contains(&Event::Park));
        all += 1;
    }
    assert!(open > 0 && open * 5 < all, "{open} of {all} steps");
    assert_eq!(governed.forgotten, 0, "births and exits were all counted");
}

#[test]
fn a_spawn_storm_is_sampled_and_its_baseline_is_forgotten() {
    let mut governed = Governed::new(Some(Budget::DEFAULT), Fidelity::Full);
    governed.run(Duration::from_secs(6), 300, 0);
    assert_eq!((governed.fidelity(), governed.forgotten), (Fidelity::Sparse, 1));
    let mut placed = Vec::new();
    for _ in 0..500 {
        governed.run(STEP, 300, 0);
        placed.push(governed.world.placed(file(1)).len());
    }
    assert!(placed.contains(&0) && placed.contains(&3), "all in slices, nothing between them");
}

#[test]
fn estimates_of_sampled_parks_are_near_the_truth() {
    let mut governed = Governed::new(Some(Budget::DEFAULT), Fidelity::Full);
    governed.run(Duration::from_secs(60), 0, 500);
    let counters = crate::kernel::Count::counters(&governed.world.shared.kernel).unwrap();
    governed.world.shared.ledger.apply(&counters);
    let id = governed.world.id(PID);
    let parks = governed.world.shared.ledger.process(id).totals().2;
    assert!((2_000_000..4_500_000).contains(&parks), "{parks} of 3 000 000");
}

#[test]
fn what_is_pinned_stays() {
    let mut governed = Governed::new(Some(Budget::DEFAULT), Fidelity::Full);
    let time = Duration::ZERO;
    let pin = |governed: &mut Governed, pid, fidelity| {
        governed.control.pin(&mut governed.world.shared, pid, fidelity, time).unwrap()
    };
    assert_eq!(pin(&mut governed, 99, Some(Fidelity::Census)).0, Pinned::NotWatched);
    let (pinned, forgotten) = pin(&mut governed, PID, Some(Fidelity::Census));
    assert_eq!((pinned, forgotten.len()), (Pinned::Done, 1));
    assert_eq!(governed.world.placed(file(1)), []);
    governed.run(Duration::from_secs(30), 0, 0);
    assert_eq!(governed.fidelity(), Fidelity::Census);
    pin(&mut governed, PID, Some(Fidelity::Lifecycle));
    assert_eq!(governed.world.placed(file(1)), [Event::Birth, Event::Exit]);
    pin(&mut governed, PID, None);
    governed.run(Duration::from_secs(60), 0, 0);
    assert_eq!(governed.fidelity(), Fidelity::Full);
}

#[test]
fn a_story_ends_at_its_time_and_is_followed_by_what_was_before() {
    let mut governed = Governed::new(Some(Budget::DEFAULT), Fidelity::Full);
    let shared = &mut governed.world.shared;
    let (pinned, _) = governed.control.pin(shared, PID, Some(Fidelity::Story), Duration::from_secs(5)).unwrap();
    assert_eq!(pinned, Pinned::Done);
    let id = governed.world.id(PID);
    assert!(governed.world.look().stories.contains(&id));
    governed.run(Duration::from_secs(4), 0, 1);
    assert_eq!(governed.fidelity(), Fidelity::Story);
    let now = governed.world.look().now;
    let telling = governed.control.time_boxes.telling(&governed.world.shared.processes[&id], now).unwrap();
    assert!(telling.ends_in.unwrap() <= Duration::from_secs(1));
    governed.run(Duration::from_secs(2), 0, 1);
    assert_eq!(governed.fidelity(), Fidelity::Full);
    assert!(governed.world.look().stories.is_empty());
    let now = governed.world.look().now;
    let telling = governed.control.time_boxes.telling(&governed.world.shared.processes[&id], now).unwrap();
    assert!(telling.ends_in.is_none() && telling.told >= Duration::from_secs(5));
}

#[test]
fn idle_processes_cost_no_reads_of_the_counters() {
    let mut governed = Governed::new(Some(Budget::DEFAULT), Fidelity::Full);
    governed.run(Duration::from_secs(20), 0, 0);
    let reads = governed.world.look().whole_reads;
    assert!(reads <= 6, "{reads} in 20 s");
}

#[test]
fn probes_that_cannot_be_placed_for_a_slice_are_tried_again() {
    let mut governed = Governed::new(Some(Budget::DEFAULT), Fidelity::Full);
    governed.run(Duration::from_secs(6), 300, 0);
    assert_eq!(governed.fidelity(), Fidelity::Sparse);
    governed.world.model().faults.refuse_probes = true;
    governed.run(Duration::from_secs(30), 300, 0);
    assert_eq!(governed.world.placed(file(1)), []);
    governed.world.model().faults.refuse_probes = false;
    let mut came = false;
    for _ in 0..4000 {
        governed.run(STEP, 300, 0);
        came |= !governed.world.placed(file(1)).is_empty();
    }
    assert!(came);
}
