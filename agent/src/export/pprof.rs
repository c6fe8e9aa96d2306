//! The goroutine profile for `go tool pprof`: profile.proto, gzip-compressed, as `/debug/pprof/goroutine` gives it; or
//! the difference of two, as its `seconds=N` does.
//!
//! Beside the number of goroutines each sample has the size of their stacks. Locations have their names with them, so
//! the profile is read without the binary.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Write},
    ops::Range,
    time::Duration,
};

use super::tables::Tables;
use crate::census::{CallSite, Depth, LabelsId, StackId};
use crate::dump::{Dump, Place, contents::Group};
use crate::saved::profile::{Label, Location, Mapping, Sample};

/// Writes the profile.
///
/// # Errors
///
/// Errors of writing to `out`.
pub fn write(dump: &Dump<'_>, out: &mut impl Write) -> io::Result<()> {
    let mut builder = Builder::new(dump, dump.census.took);
    builder.add(dump, 1);
    builder.finish().write(out)
}

/// Writes what came and went between two censuses of one process: stacks that were more often there before count less
/// than nothing.
///
/// # Errors
///
/// Errors of writing to `out`.
pub fn write_difference(before: &Dump<'_>, after: &Dump<'_>, out: &mut impl Write) -> io::Result<()> {
    let between = after.census.time.duration_since(before.census.time).unwrap_or_default();
    let mut builder = Builder::new(after, between);
    builder.add(before, -1);
    builder.add(after, 1);
    builder.finish().write(out)
}

/// The key by which samples are merged: their locations, and their labels as numbers of strings.
type Key = (Vec<u64>, Vec<(i64, i64)>);

struct Builder {
    tables: Tables,
    /// By call, and how many of its frames are shown.
    locations: HashMap<(CallSite, usize), u64>,
    samples: BTreeMap<Key, [i64; 2]>,
}

impl Builder {
    fn new(dump: &Dump<'_>, duration: Duration) -> Self {
        let values = [("goroutine", "count"), ("stack", "bytes")];
        let tables = Tables::new(&values, dump.census.time, duration);
        let mut builder = Self { tables, locations: HashMap::new(), samples: BTreeMap::new() };
        builder.mappings(dump);
        builder
    }

    /// The process's code. Names are known for the part that holds the Go runtime; it comes first, as pprof takes the
    /// first for the program.
    fn mappings(&mut self, dump: &Dump<'_>) {
        let process = dump.process;
        let mut mappings: Vec<_> = process.mappings.iter().collect();
        mappings.sort_by_key(|mapping| mapping.path != process.runtime);
        for (id, mapping) in (1..).zip(mappings) {
            let own = mapping.path == process.runtime;
            let entry = Mapping {
                id,
                memory_start: mapping.start.0,
                memory_limit: mapping.end.0,
                file_offset: mapping.offset.0,
                filename: self.tables.string(&mapping.path),
                build_id: if own { self.tables.string(&process.build_id) } else { 0 },
                has_functions: own,
                has_filenames: own,
                has_line_numbers: own,
                has_inline_frames: own,
            };
            self.tables.profile.mapping.push(entry);
        }
    }

    fn add(&mut self, dump: &Dump<'_>, sign: i64) {
        for ((stack, labels), group) in dump.by_stack() {
            self.sample(dump, stack, labels, group, sign);
        }
    }

    fn sample(&mut self, dump: &Dump<'_>, stack: Option<StackId>, labels: LabelsId, group: Group, sign: i64) {
        let (calls, depth) = match stack {
            Some(stack) => (dump.census.stacks.calls(stack), dump.census.stacks.depth(stack)),
            None => (&[][..], Depth::Whole),
        };
        let places = dump.places(calls);
        let locations =
            places.iter().map(|(call, place, frames)| self.location(*call, place, frames.clone())).collect();
        let mut words: Vec<(i64, i64)> = Vec::new();
        for (key, value) in dump.census.labels.get(labels) {
            words.push((self.tables.string(key), self.tables.string(value)));
        }
        // What there is no stack of must not look like a stack of no calls.
        if stack.is_none() || depth != Depth::Whole {
            let text = if stack.is_none() { "running" } else { "cut" };
            words.push((self.tables.string("parkranger.stack"), self.tables.string(text)));
        }
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let [count, bytes] = self.samples.entry((locations, words)).or_default();
        *count = count.saturating_add(sign * number(group.count));
        *bytes = bytes.saturating_add(sign * number(group.stack_bytes));
    }

    fn location(&mut self, call: CallSite, place: &Place, frames: Range<usize>) -> u64 {
        let key = (call, frames.len());
        if let Some(id) = self.locations.get(&key) {
            return *id;
        }
        let id = self.locations.len() as u64 + 1;
        self.locations.insert(key, id);
        // pprof takes addresses of instructions, not of what follows the call.
        let address = call.return_address().0.saturating_sub(1);
        let holds = |mapping: &&Mapping| (mapping.memory_start..mapping.memory_limit).contains(&address);
        let mapping_id = self.tables.profile.mapping.iter().find(holds).map_or(0, |mapping| mapping.id);
        let frames = place.frames.get(frames).unwrap_or_default().iter();
        let line = frames.map(|frame| self.tables.line(frame.symbol(), &frame.file, frame.line)).collect();
        self.tables.profile.location.push(Location { id, mapping_id, address, line });
        id
    }

    fn finish(mut self) -> Tables {
        let samples = self.samples.into_iter().filter(|(_, value)| *value != [0, 0]);
        self.tables.profile.sample = samples
            .map(|((location_id, labels), value)| Sample {
                location_id,
                value: value.to_vec(),
                label: labels.into_iter().map(|(key, str)| Label { key, str }).collect(),
            })
            .collect();
        self.tables
    }
}
