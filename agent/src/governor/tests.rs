//! The governor against processes with rates that real programs have.

use super::*;

/// What a program does in a second of running unwatched, and the CPU time it takes for it.
#[derive(Clone, Copy)]
struct Program {
    cpu_ns: f64,
    births: f64,
    parks: f64,
}

/// Per second: an HTTP server under load (its order of magnitude), `pingpong` and `spawn` of tests/programs/load as
/// measured untraced on a two-CPU machine, and an idle server (its order of magnitude).
const SERVER: Program = Program { cpu_ns: 1.1e9, births: 60.0, parks: 52_000.0 };
const PING_PONG: Program = Program { cpu_ns: 0.99e9, births: 0.0, parks: 4_600_000.0 };
const SPAWNER: Program = Program { cpu_ns: 0.98e9, births: 4_000_000.0, parks: 62_000.0 };
const IDLE: Program = Program { cpu_ns: 0.4e6, births: 0.0, parks: 12.0 };

const COSTS: HitCosts = HitCosts { birth_ns: 640.0, park_ns: 600.0, exit_ns: 590.0 };
/// Time between two readings, as the agent takes them.
const TICK: Duration = Duration::from_millis(250);
const ON_TRIAL: Duration = Duration::from_millis(50);

/// Time, processes and their kernel counters, driven by what the governor decides.
struct World {
    governor: Governor,
    now: Instant,
    processes: Vec<(Reading, Program)>,
    slice_at: BTreeMap<FileId, Instant>,
    /// Cost in ns by process since the beginning.
    spent: Vec<f64>,
    steps: Vec<(Duration, Step)>,
    began: Instant,
}

fn file(number: u64) -> FileId {
    FileId::of(1, number)
}

impl World {
    fn new(budget: Option<Budget>, may_sample: bool, programs: &[(u64, Program)]) -> Self {
        let now = Instant::now();
        let mut governor = Governor::new(budget, Fidelity::Full, may_sample);
        governor.calibrated(COSTS);
        let reading = |number: usize, binary: u64| Reading {
            process: ProcessId::new(u32::try_from(number).unwrap() + 1, 0),
            binary: file(binary),
            cpu_ns: 0,
            hits: Hits::default(),
        };
        let processes: Vec<(Reading, Program)> = programs
            .iter()
            .enumerate()
            .map(|(number, (binary, program))| (reading(number, *binary), *program))
            .collect();
        let spent = vec![0.0; processes.len()];
        Self { governor, now, processes, slice_at: BTreeMap::new(), spent, steps: Vec::new(), began: now }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.look();
        while self.now < end {
            let tick = if self.governor.is_on_trial(self.now) { ON_TRIAL } else { TICK };
            self.now += tick;
            let seconds = tick.as_secs_f64();
            let mut sampled: BTreeMap<FileId, f64> = BTreeMap::new();
            for (reading, _) in &self.processes {
                if let Some(every) = self.governor.slice_every(reading.binary) {
                    let due = self.slice_at.entry(reading.binary).or_insert(self.now);
                    *due = (*due).min(self.now + every);
                    if *due <= self.now {
                        *due = self.now + every;
                        sampled.insert(reading.binary, SLICE.as_secs_f64());
                    }
                } else {
                    self.slice_at.remove(&reading.binary);
                }
            }
            for ((reading, program), spent) in self.processes.iter_mut().zip(&mut self.spent) {
                let fidelity = self.governor.fidelity(reading.binary);
                let window = sampled.get(&reading.binary).copied().unwrap_or(0.0);
                let (of_births, of_parks) = match fidelity {
                    Fidelity::Full | Fidelity::Story => (seconds, seconds),
                    Fidelity::Sampled => (seconds, window),
                    Fidelity::Lifecycle => (seconds, 0.0),
                    Fidelity::Sparse => (window, window),
                    Fidelity::Census => (0.0, 0.0),
                };
                let (births, parks) = (program.births * of_births, program.parks * of_parks);
                let cost = births * (COSTS.birth_ns + COSTS.exit_ns) + parks * COSTS.park_ns;
                reading.hits.births += births as u64;
                reading.hits.exits += births as u64;
                reading.hits.parks += parks as u64;
                reading.cpu_ns += (program.cpu_ns * seconds + cost) as u64;
                *spent += cost;
                if window > 0.0 {
                    let (births, parks) = (births as u64, parks as u64);
                    let used_ns = (program.cpu_ns * window + cost) as u64;
                    let own_part = program.cpu_ns * window / (program.cpu_ns * window + cost);
                    let seen = Seen { births, parks, exits: births, length: SLICE, used_ns, own_part };
                    self.governor.sampled(reading.process, reading.binary, &seen);
                }
            }
            self.look();
        }
    }

    fn look(&mut self) {
        let readings: Vec<Reading> = self.processes.iter().map(|(reading, _)| *reading).collect();
        let at = self.now - self.began;
        self.steps.extend(self.governor.observe(&readings, self.now).into_iter().map(|step| (at, step)));
    }

    /// What watching process `number` cost while `during` ran, as a share of its own CPU time.
    fn cost(&mut self, number: usize, during: Duration) -> f64 {
        let before = self.spent[number];
        self.run(during);
        (self.spent[number] - before) / (self.processes[number].1.cpu_ns * during.as_secs_f64())
    }

    fn fidelity(&self, binary: u64) -> Fidelity {
        self.governor.fidelity(file(binary))
    }
}

fn one_percent(may_sample: bool, programs: &[(u64, Program)]) -> World {
    World::new(Some(Budget::DEFAULT.with_floor(0.0)), may_sample, programs)
}

#[test]
fn a_budget_is_more_than_nothing_and_at_most_everything() {
    assert_eq!("1".parse(), Ok(Budget::DEFAULT));
    assert_eq!("0.5%".parse(), Ok(Budget { share: 0.005, floor: 0.005 }));
    for wrong in ["0", "-1", "101", "", "off", "NaN", "inf"] {
        assert!(wrong.parse::<Budget>().is_err(), "{wrong}");
    }
}

#[test]
fn an_idle_process_keeps_everything() {
    let mut world = one_percent(true, &[(1, IDLE)]);
    world.run(Duration::from_secs(60));
    assert_eq!((world.fidelity(1), world.steps.len()), (Fidelity::Full, 0));
}

#[test]
fn a_server_has_its_parks_sampled_and_keeps_the_budget() {
    let mut world = one_percent(true, &[(1, SERVER)]);
    world.run(Duration::from_secs(10));
    assert_eq!(world.fidelity(1), Fidelity::Sampled);
    let cost = world.cost(0, Duration::from_secs(60));
    assert!(cost > 0.001 && cost < 0.01, "{cost}");
    assert_eq!(world.steps.len(), 1, "no to and fro: {:?}", world.steps);
}

#[test]
fn extremes_are_within_the_budget_in_ten_seconds() {
    for (program, may_sample, least) in [
        (PING_PONG, true, Fidelity::Sampled),
        (PING_PONG, false, Fidelity::Lifecycle),
        (SPAWNER, true, Fidelity::Sparse),
        (SPAWNER, false, Fidelity::Census),
    ] {
        let mut world = one_percent(may_sample, &[(1, program)]);
        world.run(Duration::from_secs(10));
        let cost = world.cost(0, Duration::from_secs(120));
        assert!(cost < 0.01, "{cost} {:?}", world.steps);
        assert!(world.fidelity(1) >= least, "{:?}", world.steps);
    }
}

#[test]
fn parks_counted_while_their_probes_leave_cost_no_births() {
    let mut world = one_percent(false, &[(1, PING_PONG)]);
    world.run(2 * TICK);
    assert_eq!(world.fidelity(1), Fidelity::Lifecycle, "{:?}", world.steps);
    // Perf-event probes take a while to come off, and are hit meanwhile.
    for _ in 0..4 {
        world.now += TICK;
        let (reading, program) = &mut world.processes[0];
        let parks = program.parks * TICK.as_secs_f64();
        reading.hits.parks += parks as u64;
        reading.cpu_ns += (program.cpu_ns * TICK.as_secs_f64() + parks * COSTS.park_ns) as u64;
        world.look();
    }
    assert_eq!(world.fidelity(1), Fidelity::Lifecycle, "{:?}", world.steps);
}

#[test]
fn a_process_has_its_credit_from_the_first_reading_on() {
    // Births and exits cost 1.2 times the budget: that is over it after ten seconds, not at once.
    let births = 1.2 * 0.01 * 0.4e9 / (COSTS.birth_ns + COSTS.exit_ns);
    let mut world = one_percent(true, &[(1, Program { cpu_ns: 0.4e9, births, parks: 0.0 })]);
    world.run(Duration::from_secs(8));
    assert_eq!((world.fidelity(1), world.steps.len()), (Fidelity::Full, 0));
    world.run(Duration::from_secs(7));
    assert_eq!(world.steps[0].1.to, Fidelity::Sparse);
}

#[test]
fn a_spawn_storm_is_over_within_a_second() {
    let mut world = one_percent(true, &[(1, IDLE)]);
    world.run(Duration::from_secs(30));
    world.processes[0].1 = SPAWNER;
    let begin = world.now - world.began;
    world.run(Duration::from_secs(5));
    let (at, step) = &world.steps[0];
    assert_eq!((step.from, step.to), (Fidelity::Full, Fidelity::Sparse));
    assert!(*at - begin <= Duration::from_secs(1), "{:?}", *at - begin);
}

#[test]
fn what_was_given_up_comes_back_step_by_step_and_stays() {
    use Fidelity::{Census, Full, Lifecycle, Sampled, Sparse};
    for (may_sample, least, up) in [(true, Sparse, &[Sampled, Full][..]), (false, Census, &[Lifecycle, Full])] {
        let mut world = one_percent(may_sample, &[(1, SPAWNER)]);
        world.run(Duration::from_secs(3));
        assert_eq!(world.fidelity(1), least);
        world.processes[0].1 = IDLE;
        world.steps.clear();
        world.run(Duration::from_secs(300));
        let way: Vec<Fidelity> = world.steps.iter().map(|(_, step)| step.to).collect();
        assert_eq!(way, up);
    }
}

#[test]
fn who_becomes_idle_is_not_held_to_what_few_windows_saw() {
    for (budget, soon) in [("20", 20), ("1", 60)] {
        for program in [SPAWNER, PING_PONG] {
            let mut world = World::new(Some(budget.parse::<Budget>().unwrap().with_floor(0.0)), true, &[(1, program)]);
            world.run(Duration::from_secs(120));
            assert!(world.fidelity(1) < Fidelity::Full, "{:?}", world.steps);
            world.processes[0].1 = Program { cpu_ns: 0.0, births: 0.0, parks: 0.0 };
            world.run(Duration::from_secs(soon));
            assert_eq!(world.fidelity(1), Fidelity::Full, "at {budget} %: {:?}", world.steps);
        }
    }
}

#[test]
fn trying_in_vain_becomes_rare() {
    let mut world = one_percent(false, &[(1, SPAWNER)]);
    world.run(Duration::from_secs(600));
    let tries = world.steps.iter().filter(|(_, step)| step.to == Fidelity::Lifecycle).count();
    assert!((2..=8).contains(&tries), "{tries} tries in ten minutes");
}

#[test]
fn the_dearest_process_decides_for_its_binary_alone() {
    let mut world = one_percent(true, &[(1, IDLE), (1, SERVER), (2, IDLE)]);
    world.run(Duration::from_secs(10));
    assert_eq!((world.fidelity(1), world.fidelity(2)), (Fidelity::Sampled, Fidelity::Full));
    assert_eq!(world.steps[0].1.because_of, Some(world.processes[1].0.process));
}

#[test]
fn without_a_budget_everything_is_recorded() {
    let mut world = World::new(None, true, &[(1, SPAWNER)]);
    world.run(Duration::from_secs(20));
    assert_eq!(world.fidelity(1), Fidelity::Full);
    let cost = world.governor.report(world.processes[0].0.process, file(1)).cost.unwrap();
    assert!(cost > 1.0, "and what it costs is known: {cost}");
}

#[test]
fn what_the_user_chose_stays_until_it_is_given_back() {
    let mut world = one_percent(true, &[(1, SERVER)]);
    let step = world.governor.pin(file(1), Some(Fidelity::Lifecycle), world.now).unwrap();
    assert_eq!((step.from, step.to, step.because_of), (Fidelity::Full, Fidelity::Lifecycle, None));
    world.run(Duration::from_secs(60));
    assert_eq!(world.fidelity(1), Fidelity::Lifecycle);
    assert_eq!(world.governor.pin(file(1), None, world.now), None);
    world.run(Duration::from_secs(60));
    assert_eq!(world.fidelity(1), Fidelity::Sampled);
}

/// 300 births and 1,000 parks per second, for 2 % of one core: as an HTTP server under light load.
const LIGHT: Program = Program { cpu_ns: 2.0e7, births: 300.0, parks: 1_000.0 };

#[test]
fn a_service_under_light_load_is_counted_in_full() {
    let budget = |floor| Some(Budget::DEFAULT.with_floor(floor));
    let mut world = World::new(budget(0.0), true, &[(1, LIGHT)]);
    world.run(Duration::from_secs(60));
    assert_eq!(world.fidelity(1), Fidelity::Sparse, "by its own CPU time alone");
    let mut world = World::new(Some(Budget::DEFAULT), true, &[(1, LIGHT)]);
    world.run(Duration::from_secs(60));
    assert_eq!((world.fidelity(1), world.steps.len()), (Fidelity::Full, 0));
}

#[test]
fn the_floor_is_kept_too() {
    // 20,000 parks per second of a process that hardly does anything else: 1.2 % of a core.
    let mut world =
        World::new(Some(Budget::DEFAULT), true, &[(1, Program { cpu_ns: 4.0e7, births: 100.0, parks: 20_000.0 })]);
    world.run(Duration::from_secs(20));
    assert_eq!(world.fidelity(1), Fidelity::Sampled);
    let share_of_core = world.cost(0, Duration::from_secs(60)) * 0.04;
    assert!(share_of_core <= 0.005, "{share_of_core}");
}

#[test]
fn what_counting_everything_would_cost_is_predicted() {
    let mut world = one_percent(true, &[(1, SERVER)]);
    world.run(Duration::from_secs(60));
    let report = world.governor.report(world.processes[0].0.process, file(1));
    let (predicted, all) = (report.cost_of_all.unwrap(), SERVER.parks * COSTS.park_ns / SERVER.cpu_ns);
    assert!(predicted > all * 0.8 && predicted < all * 1.3, "{predicted} of {all}");
}
