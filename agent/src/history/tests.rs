//! A clock that is told what time it is, and goroutines that do as they are told.

use std::{sync::Arc, time::Duration};

use super::{
    History, Limits,
    population::{Channel, Kind, KindId, Member, Object, Population},
};
use crate::symbols::Frame;

/// A process that is made up.
#[derive(Default)]
pub(crate) struct Made {
    next: u64,
    pub(crate) alive: Vec<One>,
}

/// One of its goroutines.
#[derive(Clone)]
pub(crate) struct One {
    pub(crate) goid: u64,
    pub(crate) parent: u64,
    pub(crate) kind: Kind,
    pub(crate) mark: u32,
    /// Address of the channel it waits on; 0 for none.
    pub(crate) channel: u64,
    /// Address of a lock that is on its stack; 0 for none.
    pub(crate) holds: u64,
}

pub(crate) fn kind(creator: &str, start: &str, frames: &[&str], state: &str) -> Kind {
    let frame = |(name, line): (&&str, u32)| Frame::named((*name).to_owned(), "/src/x.go".to_owned(), line, false);
    Kind {
        created_by: Some(Frame::named(creator.to_owned(), "/src/x.go".to_owned(), 7, false)),
        start_function: start.to_owned(),
        state: state.to_owned(),
        frames: frames.iter().zip(1..).map(frame).collect(),
        ..Kind::default()
    }
}

pub(crate) fn sender() -> Kind {
    kind("main.handle", "main.handle.func1", &["runtime.gopark", "main.handle.func1"], "chan send")
}

pub(crate) fn worker() -> Kind {
    kind("main.pool", "main.work", &["runtime.gopark", "main.work"], "chan receive")
}

impl Made {
    pub(crate) fn start(&mut self, kind: Kind, channel: u64) -> u64 {
        self.next += 1;
        let goid = self.next;
        let channel = if channel == u64::MAX { 0x1000 + goid * 96 } else { channel };
        self.alive.push(One { goid, parent: 1, kind, mark: 0, channel, holds: 0 });
        goid
    }

    /// Goroutines that came and went between two censuses.
    pub(crate) fn skip(&mut self, count: u64) {
        self.next += count;
    }

    pub(crate) fn end(&mut self, goid: u64) {
        self.alive.retain(|one| one.goid != goid);
    }

    pub(crate) fn at(&self, seconds: u64) -> Arc<Population> {
        let mut population = Population { time: Duration::from_secs(seconds), ..Population::default() };
        for one in &self.alive {
            let known = population.kinds.iter().position(|kind| *kind == one.kind);
            let kind = known.unwrap_or_else(|| {
                population.kinds.push(one.kind.clone());
                population.kinds.len() - 1
            });
            let start = population.links.len() as u32;
            if one.channel != 0 {
                let known = population.objects.iter().position(|object| object.address == one.channel);
                let index = known.unwrap_or_else(|| {
                    let channel = Channel { len: 0, cap: 0, elem_bytes: 8, closed: false };
                    let channel = Some(channel).filter(|_| !one.kind.state.starts_with("sync."));
                    population.objects.push(Object { address: one.channel, waiters: 0, channel });
                    population.objects.len() - 1
                });
                population.objects[index].waiters += 1;
                population.links.push(index as u32);
            }
            population.goroutines.push(Member {
                count: 1,
                goid: one.goid,
                parent_goid: one.parent,
                kind: KindId(kind as u32),
                run_mark: Some(one.mark),
                waited: None,
                stack_bytes: 2048,
                waits_on: (start, population.links.len() as u32),
            });
        }
        for one in self.alive.iter().filter(|one| one.holds != 0) {
            let lock = population.objects.iter().position(|object| object.address == one.holds);
            population.mentions.extend(lock.map(|lock| (one.goid, lock as u32)));
        }
        Arc::new(population)
    }
}

#[test]
fn who_stays_and_who_goes_is_counted_by_site_and_place() {
    let (mut made, mut history) = (Made::default(), History::new(Limits::default()));
    let stays = made.start(sender(), u64::MAX);
    let goes = made.start(sender(), u64::MAX);
    history.observe(made.at(0));
    let moves = made.start(worker(), 1);
    for second in 1..=10 {
        made.alive.iter_mut().filter(|one| one.goid == moves).for_each(|one| one.mark += 1);
        if second == 8 {
            made.end(goes);
        }
        history.observe(made.at(second));
    }
    let members = history.members();
    assert_eq!((members[&stays].since, members[&stays].runs), (Duration::ZERO, 0));
    assert_eq!((members[&moves].since, members[&moves].runs), (Duration::from_secs(10), 9));
    assert!(members[&stays].from_before && !members[&moves].from_before);
    let site = history.sites().find(|(_, site)| &*site.site.created_at.function == "main.handle").unwrap().1;
    assert_eq!((site.births, site.exits), (0, 1));
    // It had rested eight seconds: more than three, less than twelve.
    assert_eq!(site.places[0].departures[1], 1);
    assert_eq!(site.aged_exits[1], 1);
    assert_eq!(site.series.last().map(|point| (point.live, point.unmoved)), Some((1, 1)));
}

#[test]
fn memory_is_bounded_and_says_so() {
    let limits = Limits { goroutines: 100, sites: 4, ..Limits::default() };
    let (mut made, mut history) = (Made::default(), History::new(limits));
    for site in 0..10 {
        let creator = format!("main.site{site}");
        for _ in 0..100 {
            made.start(kind(&creator, "main.f", &["main.f"], "select"), 0);
        }
    }
    history.observe(made.at(0));
    history.observe(made.at(1));
    assert!(history.members().len() <= 100, "{}", history.members().len());
    assert!(history.stride() >= 4);
    assert!(history.sites().count() <= 4);
    assert!(history.unplaced() > 0);
}

#[test]
fn room_is_made_for_new_sites_by_those_that_are_empty() {
    let (mut made, mut history) = (Made::default(), History::new(Limits { sites: 2, ..Limits::default() }));
    for second in 0..20 {
        let goid = made.start(kind(&format!("main.f{second}"), "main.g", &["main.g"], "select"), 0);
        history.observe(made.at(second));
        made.end(goid);
        assert_eq!(history.unplaced(), 0, "at {second}");
    }
}
