//! One census in words, for history, findings and comparisons.

use std::{collections::HashMap, time::Duration};

use crate::dump::{Dump, names};
use crate::{
    census::{CallSite, OriginId, StackId, Status},
    history::population::{Kind, KindId, Kinds, Member, Object, Population},
    symbols::Frame,
};

/// The goroutines of a dump that are selected. `time` is when, in a clock that never goes back.
#[must_use]
pub fn population(dump: &Dump<'_>, main_module: &str, time: Duration) -> Population {
    let census = dump.census;
    let mut kinds = Kinds::default();
    let mut known: HashMap<(OriginId, Option<StackId>, Status, Option<u8>), KindId> = HashMap::new();
    let mut stacks: HashMap<StackId, Vec<Frame>> = HashMap::new();
    let mut objects: Vec<Object> = Vec::new();
    let mut by_address: HashMap<u64, u32> = HashMap::new();
    let mut links: Vec<u32> = Vec::new();
    let mut goroutines = Vec::with_capacity(dump.selected.len());
    for goroutine in dump.goroutines() {
        let key = (goroutine.origin, goroutine.stack, goroutine.status, goroutine.wait_reason);
        let kind = *known.entry(key).or_insert_with(|| {
            let origin = census.origin(goroutine);
            let creation = dump.names.creation(origin.gopc);
            let frames = goroutine
                .stack
                .map(|stack| stacks.entry(stack).or_insert_with(|| frames(dump, census.stacks.calls(stack))).clone());
            kinds.intern(Kind {
                created_by: creation.frames.last().filter(|_| goroutine.goid != 1).cloned(),
                start_function: dump.names.start(origin.startpc),
                state: dump.state(goroutine).into_owned(),
                frames: frames.unwrap_or_default(),
                system: census.is_system(goroutine),
                labels: Vec::new(),
            })
        });
        let start = u32::try_from(links.len()).unwrap_or(u32::MAX);
        for object in census.wait_objects.of(goroutine.waits) {
            let index = *by_address.entry(object.address.0).or_insert_with(|| {
                let (address, waiters, channel) = (object.address.0, object.waiters, object.channel);
                objects.push(Object { address, waiters, channel });
                u32::try_from(objects.len() - 1).unwrap_or(u32::MAX)
            });
            links.push(index);
        }
        goroutines.push(Member {
            count: 1,
            goid: goroutine.goid,
            parent_goid: goroutine.parent_goid,
            kind,
            run_mark: Some(goroutine.run_mark),
            waited: census.waited(goroutine).filter(|_| goroutine.status == Status::Waiting),
            stack_bytes: goroutine.stack_bytes,
            waits_on: (start, u32::try_from(links.len()).unwrap_or(u32::MAX)),
        });
    }
    let mentions = census.mentions.iter().filter_map(|one| Some((one.goid, *by_address.get(&one.lock.0)?))).collect();
    let ended = census.ended.clone();
    Population {
        time,
        main_module: main_module.into(),
        goroutines,
        ended,
        kinds: kinds.into_kinds(),
        objects,
        mentions,
        links,
    }
}

/// The calls of a stack as the source has them.
fn frames(dump: &Dump<'_>, calls: &[CallSite]) -> Vec<Frame> {
    let mut callee: Option<String> = None;
    let mut frames = Vec::new();
    for call in calls {
        let place = dump.names.place(*call);
        for frame in &place.frames {
            let between = names::is_in_between(frame, place.wrapper, callee.as_deref());
            callee = Some(frame.function.clone());
            if !between {
                frames.push(frame.clone());
            }
        }
    }
    frames
}
