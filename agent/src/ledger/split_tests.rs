//! The ledger of processes of which not everything is counted.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use parkranger_common::counts::{ProcessId, SiteCounts, SiteKey};

use super::*;

const P: ProcessId = ProcessId(7);
const A: Site = Site { gopc: RuntimeAddr(16), startpc: RuntimeAddr(32) };
const B: Site = Site { gopc: RuntimeAddr(48), startpc: RuntimeAddr(64) };
const WORKER: Site = Site { gopc: RuntimeAddr(80), startpc: RuntimeAddr(96) };
const LIVES: Recording = Recording { lives: Counted::All, parks: Counted::None };
const SLICES: Recording = Recording { lives: Counted::InSlices, parks: Counted::InSlices };

/// A process as it is, and what its ledger is told of it.
struct World {
    ledger: Ledger,
    now: Instant,
    /// Counted by probes.
    counted: BTreeMap<Site, (u64, u64)>,
    alive: BTreeMap<Site, u64>,
    made: u64,
    counts: bool,
    totals: bool,
    last: BTreeMap<Site, (u64, u64)>,
}

impl World {
    fn new(before: &[(Site, u64)]) -> Self {
        let alive: BTreeMap<Site, u64> = before.iter().copied().collect();
        let made = 1000 + alive.values().sum::<u64>();
        let mut world = Self {
            ledger: Ledger::default(),
            now: Instant::now(),
            counted: BTreeMap::new(),
            alive,
            made,
            counts: true,
            totals: true,
            last: BTreeMap::new(),
        };
        world.ledger.record(&[P], LIVES, &Counters::default(), world.now);
        world
    }

    fn counters(&self) -> Counters {
        let site = |(site, (births, exits)): (&Site, &(u64, u64))| {
            let key = SiteKey { process: P, gopc: site.gopc.0, startpc: site.startpc.0 };
            (key, SiteCounts { births: *births, exits: *exits, ..SiteCounts::default() })
        };
        Counters { at: self.now, sites: self.counted.iter().map(site).collect(), ..Counters::default() }
    }

    fn audit(&mut self) {
        let counters = self.counters();
        self.ledger.settle(P, &self.alive, BTreeSet::from([WORKER]), &counters.sites, true);
    }

    fn census(&mut self) {
        self.ledger.observe(P, self.alive.clone(), BTreeSet::from([WORKER]), self.now);
    }

    fn births(&mut self, site: Site, count: u64) {
        *self.alive.entry(site).or_default() += count;
        self.made += count;
        if self.counts {
            self.counted.entry(site).or_default().0 += count;
        }
    }

    fn exits(&mut self, site: Site, count: u64) {
        *self.alive.entry(site).or_default() -= count;
        if self.counts {
            self.counted.entry(site).or_default().1 += count;
        }
    }

    fn step(&mut self, recording: Recording) {
        let counters = self.counters();
        self.ledger.record(&[P], recording, &counters, self.now);
        self.counts = recording.lives == Counted::All;
        self.ledger.forget_baseline(P);
    }

    fn users(&self) -> u64 {
        self.alive.iter().filter(|(site, _)| **site != WORKER).map(|(_, live)| live).sum()
    }

    /// Reads everything and holds it to what must always be true.
    fn look(&mut self) -> ProcessLedger {
        self.now += Duration::from_secs(1);
        if self.totals {
            let users = self.users();
            self.ledger.take_totals(P, GoroutineTotals { made: self.made, users });
        }
        let counters = self.counters();
        self.ledger.apply(&counters);
        let process = self.ledger.process(P).clone();
        for (site, tally) in &process.sites {
            let (births, exits) = self.last.insert(*site, (tally.births, tally.exits)).unwrap_or_default();
            assert!(tally.births >= births && tally.exits >= exits, "{site:?} fell: {births} {exits}, {tally:?}");
            assert!(tally.live() >= 0, "{site:?}: {tally:?}");
        }
        process
    }

    fn live(process: &ProcessLedger) -> i64 {
        process.sites.values().map(Tally::live).sum()
    }

    fn assert_totals(&self, process: &ProcessLedger, births: u64) {
        let all: u64 = self.alive.values().sum();
        assert_eq!((process.totals().0, World::live(process)), (births, all.cast_signed()));
    }
}

#[test]
fn between_two_censuses_the_total_is_of_now_and_the_split_of_the_census() {
    let mut world = World::new(&[(A, 50), (B, 10), (WORKER, 2)]);
    world.audit();
    world.births(A, 400);
    world.exits(A, 380);
    world.births(B, 100);
    let process = world.look();
    world.assert_totals(&process, 500);
    assert!(process.split_at.is_none());
    world.step(SLICES);
    // 2000 more, of which nothing is counted.
    world.births(A, 1500);
    world.exits(A, 1540);
    world.births(B, 500);
    world.exits(B, 500);
    let process = world.look();
    world.assert_totals(&process, 2500);
    assert!(process.baseline && process.totals_are_exact && process.split_at.is_some());
    let (births, exits, _) = process.totals();
    assert_eq!(births - exits, 142 - 62, "those there now, less those from before");
    // The census says how they are split up.
    world.census();
    let process = world.look();
    assert_eq!((process.sites[&A].live(), process.sites[&B].live(), process.sites[&WORKER].live()), (30, 110, 2));
    world.assert_totals(&process, 2500);
}

#[test]
fn what_is_shown_goes_on_when_everything_is_counted_again() {
    let mut world = World::new(&[(A, 50), (WORKER, 2)]);
    world.audit();
    world.births(A, 400);
    world.look();
    world.step(SLICES);
    world.births(A, 1000);
    world.exits(A, 900);
    world.births(B, 30);
    world.census();
    let process = world.look();
    world.assert_totals(&process, 1430);
    world.step(LIVES);
    world.births(B, 5);
    let process = world.look();
    assert!(process.split_at.is_some(), "its baseline is not known yet");
    world.assert_totals(&process, 1435);
    world.audit();
    let process = world.look();
    assert!(process.split_at.is_none() && process.baseline);
    world.assert_totals(&process, 1435);
    world.births(B, 10);
    world.exits(A, 10);
    let process = world.look();
    world.assert_totals(&process, 1445);
    assert_eq!((process.sites[&A].live(), process.sites[&B].live()), (540, 45));
    let (births, exits, _) = process.totals();
    assert_eq!(births - exits, 587 - 52, "births less exits is live less what was there before");
}

#[test]
fn the_raw_counters_of_slices_do_not_move_those_alive() {
    let mut world = World::new(&[(A, 40)]);
    world.totals = false;
    world.audit();
    world.look();
    world.step(SLICES);
    world.census();
    // A slice sees 30 births and none of the exits that went with them.
    world.counted.insert(A, (30, 0));
    let process = world.look();
    assert_eq!(process.sites[&A].live(), 40);
    world.counted.insert(A, (30, 500));
    let process = world.look();
    assert_eq!(process.sites[&A].live(), 40);
    let (births, exits, _) = process.totals();
    assert_eq!(births, exits);
}

#[test]
fn before_anything_is_known_nothing_is_negative() {
    let mut world = World::new(&[(A, 40)]);
    world.exits(A, 30);
    let process = world.look();
    assert!(!process.baseline);
    assert_eq!((process.sites[&A].exits, process.users), (30, Some(10)));
}

#[test]
fn a_process_that_was_never_counted_has_exact_totals_from_the_first_reading_on() {
    let mut world = World::new(&[(A, 40), (WORKER, 1)]);
    world.ledger.record(&[P], Recording::NOTHING, &Counters::default(), world.now);
    world.counts = false;
    world.look();
    world.census();
    let process = world.look();
    assert_eq!((process.totals().0, World::live(&process)), (0, 41));
    world.births(A, 500);
    world.exits(A, 450);
    world.births(B, 50);
    let process = world.look();
    assert_eq!((process.totals(), World::live(&process)), ((550, 450, 0), 141));
}

#[test]
fn c_threads_have_no_births() {
    let c_thread = Site { gopc: RuntimeAddr(0), startpc: RuntimeAddr(0) };
    let mut world = World::new(&[(A, 4), (c_thread, 2)]);
    world.audit();
    world.look();
    world.step(SLICES);
    world.alive.insert(c_thread, 9);
    world.census();
    let process = world.look();
    assert_eq!((process.sites[&c_thread].live(), process.totals().0), (9, 0));
}

#[test]
fn births_that_no_probe_saw_are_told() {
    let mut world = World::new(&[(A, 4)]);
    world.audit();
    world.births(A, 10);
    assert_eq!(world.look().births_unseen, 0);
    world.made += 3;
    assert_eq!(world.look().births_unseen, 3);
}

#[test]
fn nothing_falls_or_is_negative_however_its_fidelity_changes() {
    let mut world = World::new(&[(A, 50), (B, 3), (WORKER, 2)]);
    let mut seed = 12345u32;
    let mut random = |below: u32| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        u64::from((seed >> 8) % below)
    };
    let sites: Vec<Site> = (1..12).map(|n| Site { gopc: RuntimeAddr(n * 1000), startpc: RuntimeAddr(n) }).collect();
    world.audit();
    for round in 0..20_000u32 {
        let site = sites[usize::try_from(random(11)).unwrap()];
        world.births(site, random(40));
        let there = u32::try_from(world.alive.get(&site).copied().unwrap_or(0)).unwrap();
        world.exits(site, random(there + 1));
        match random(50) {
            0 => world.step(SLICES),
            1 => world.step(LIVES),
            2 if !world.counts => world.census(),
            3 if world.counts => world.audit(),
            _ => {}
        }
        let process = world.look();
        if world.totals && process.baseline {
            assert_eq!(World::live(&process), world.alive.values().sum::<u64>().cast_signed(), "round {round}");
        }
        let (births, exits, _) = process.totals();
        if world.totals && process.totals_are_exact {
            let behind = births.abs_diff(world.made - 1055);
            assert_eq!(behind, 0, "round {round}: {births} of {}", world.made - 1055);
        }
        assert_eq!(
            births.cast_signed() - exits.cast_signed(),
            World::live(&process) - process.sites.values().map(|tally| tally.baseline).sum::<i64>()
        );
    }
}
