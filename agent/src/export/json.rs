//! A census as one object of JSON (docs/json.md, "parkranger dump").

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use serde::{Serialize, Serializer, ser::SerializeSeq as _};

use super::schema::{SCHEMA, rfc3339};
use crate::dump::Dump;
use crate::{
    census::{Depth, Goroutine, Origin, StackId},
    symbols::Frame as Named,
};

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    time: String,
    took_ns: u64,
    pid: u32,
    start_time: u64,
    exe: &'a str,
    go_version: String,
    /// The count `runtime.NumGoroutine` would give, whatever was selected.
    user: usize,
    system: usize,
    unsettled: Missing,
    sites: Vec<Site>,
    stacks: Vec<Stack>,
    /// The goid that the next page begins with.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<u64>,
    goroutines: Goroutines<'a>,
}

#[derive(Serialize)]
struct Missing {
    structs: u64,
    states: u64,
    details: u64,
    broken_stacks: u64,
    frame_pointers: u64,
}

#[derive(Serialize)]
struct Site {
    function: String,
    file: String,
    line: u32,
    start_function: String,
    system: bool,
    live: u64,
    stack_bytes: u64,
    stack_used_bytes: u64,
    states: BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct Stack {
    complete: bool,
    frames: Vec<Frame>,
}

#[derive(Serialize)]
struct Frame {
    function: String,
    file: String,
    line: u32,
    inlined: bool,
    pc: u64,
}

#[derive(Serialize)]
struct Entry<'a> {
    goid: u64,
    state: String,
    site: usize,
    parent: u64,
    waited_ns: Option<u64>,
    stack: Option<usize>,
    stack_bytes: u64,
    stack_used_bytes: u32,
    locked_to_thread: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    waits_on: Vec<Object>,
}

#[derive(Serialize)]
struct Object {
    kind: &'static str,
    address: u64,
    waiters: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    len: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cap: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    closed: Option<bool>,
}

/// The list of goroutines, made while it is written: a million of them are not kept as JSON.
struct Goroutines<'a> {
    dump: &'a Dump<'a>,
    sites: BTreeMap<Origin, usize>,
    stacks: BTreeMap<StackId, usize>,
}

impl Serialize for Goroutines<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.dump.selected.len()))?;
        for goroutine in self.dump.goroutines() {
            list.serialize_element(&self.entry(goroutine))?;
        }
        list.end()
    }
}

impl<'a> Goroutines<'a> {
    fn entry(&self, goroutine: &Goroutine) -> Entry<'a> {
        let census = self.dump.census;
        let waited = census.waited(goroutine).and_then(|waited| u64::try_from(waited.as_nanos()).ok());
        Entry {
            goid: goroutine.goid,
            state: self.dump.state(goroutine).into_owned(),
            site: self.sites.get(&census.origin(goroutine)).copied().unwrap_or_default(),
            parent: goroutine.parent_goid,
            waited_ns: waited,
            stack: goroutine.stack.and_then(|stack| self.stacks.get(&stack).copied()),
            stack_bytes: goroutine.stack_bytes,
            stack_used_bytes: goroutine.stack_used_bytes,
            locked_to_thread: goroutine.locked,
            labels: census.labels.get(goroutine.labels).collect(),
            waits_on: census
                .wait_objects
                .of(goroutine.waits)
                .map(|object| Object {
                    kind: if object.channel.is_some() { "channel" } else { "lock" },
                    address: object.address.0,
                    waiters: object.waiters,
                    len: object.channel.map(|channel| channel.len),
                    cap: object.channel.map(|channel| channel.cap),
                    closed: object.channel.map(|channel| channel.closed),
                })
                .collect(),
        }
    }
}

/// Writes the object.
///
/// # Errors
///
/// Errors of writing to `out`.
pub fn write(dump: &Dump<'_>, out: &mut impl Write) -> io::Result<()> {
    let census = dump.census;
    let (sites, site_numbers) = sites(dump);
    let (stacks, stack_numbers) = stacks(dump);
    let users = census.users();
    let document = Document {
        schema: SCHEMA,
        time: rfc3339(census.time),
        took_ns: u64::try_from(census.took.as_nanos()).unwrap_or(u64::MAX),
        pid: dump.process.pid,
        start_time: dump.process.start_time,
        exe: &dump.process.exe,
        go_version: dump.process.go_version.to_string(),
        user: users,
        system: census.goroutines.len() - users,
        unsettled: Missing {
            structs: census.unsettled.structs,
            states: census.unsettled.states,
            details: census.unsettled.details,
            broken_stacks: census.unsettled.broken_stacks,
            frame_pointers: census.unsettled.frame_pointers,
        },
        sites,
        stacks,
        next: dump.next,
        goroutines: Goroutines { dump, sites: site_numbers, stacks: stack_numbers },
    };
    serde_json::to_writer(&mut *out, &document)?;
    out.write_all(b"\n")?;
    out.flush()
}

fn sites(dump: &Dump<'_>) -> (Vec<Site>, BTreeMap<Origin, usize>) {
    let mut sites: Vec<Site> = Vec::new();
    let mut numbers = BTreeMap::new();
    for goroutine in dump.goroutines() {
        let origin = dump.census.origin(goroutine);
        let number = *numbers.entry(origin).or_insert_with(|| {
            let place = dump.names.creation(origin.gopc);
            let created_by: Option<&Named> = place.frames.last();
            sites.push(Site {
                function: created_by.map(|frame| frame.function.clone()).unwrap_or_default(),
                file: created_by.map(|frame| frame.file.clone()).unwrap_or_default(),
                line: created_by.map_or(0, |frame| frame.line),
                start_function: dump.names.start(origin.startpc),
                system: dump.census.is_system(goroutine),
                live: 0,
                stack_bytes: 0,
                stack_used_bytes: 0,
                states: BTreeMap::new(),
            });
            sites.len() - 1
        });
        if let Some(site) = sites.get_mut(number) {
            site.live += 1;
            site.stack_bytes += goroutine.stack_bytes;
            site.stack_used_bytes += u64::from(goroutine.stack_used_bytes);
            let state = dump.state(goroutine);
            match site.states.get_mut(state.as_ref()) {
                Some(count) => *count += 1,
                None => {
                    site.states.insert(state.into_owned(), 1);
                }
            }
        }
    }
    (sites, numbers)
}

fn stacks(dump: &Dump<'_>) -> (Vec<Stack>, BTreeMap<StackId, usize>) {
    let mut stacks = Vec::new();
    let mut numbers = BTreeMap::new();
    for stack in dump.goroutines().filter_map(|goroutine| goroutine.stack) {
        numbers.entry(stack).or_insert_with(|| {
            let mut frames = Vec::new();
            for call in dump.census.stacks.calls(stack) {
                for frame in &dump.names.place(*call).frames {
                    let Named { function, symbol: _, file, line, inlined } = frame.clone();
                    frames.push(Frame { function, file, line, inlined, pc: call.pc().0 });
                }
            }
            stacks.push(Stack { complete: dump.census.stacks.depth(stack) == Depth::Whole, frames });
            stacks.len() - 1
        });
    }
    (stacks, numbers)
}
