//! The goroutine profile for `go tool pprof`: profile.proto, gzip-compressed, as `/debug/pprof/goroutine` gives it.
//!
//! Beside the number of goroutines each sample has the size of their stacks. Locations have their names with them, so
//! the profile is read without the binary.

use std::{
    collections::HashMap,
    io::{self, Write},
    time::SystemTime,
};

use flate2::{Compression, write::GzEncoder};
use prost::Message as _;

use super::{
    Dump, Group,
    profile::{Function, Label, Line, Location, Mapping, Profile, Sample, ValueType},
};
use crate::{
    census::{CallSite, Depth, LabelsId, StackId},
    symbols::Frame,
};

/// Writes the profile.
///
/// # Errors
///
/// What writing says.
pub fn write(dump: &Dump<'_>, out: &mut impl Write) -> io::Result<()> {
    let profile = Builder::new(dump).build();
    let mut gzip = GzEncoder::new(out, Compression::default());
    gzip.write_all(&profile.encode_to_vec())?;
    gzip.finish()?.flush()
}

struct Builder<'a> {
    dump: &'a Dump<'a>,
    profile: Profile,
    strings: HashMap<String, i64>,
    functions: HashMap<(String, String), u64>,
    locations: HashMap<CallSite, u64>,
}

impl<'a> Builder<'a> {
    fn new(dump: &'a Dump<'a>) -> Self {
        let mut builder = Self {
            dump,
            profile: Profile::default(),
            strings: HashMap::new(),
            functions: HashMap::new(),
            locations: HashMap::new(),
        };
        // The first string is empty, by definition.
        builder.string("");
        builder
    }

    fn build(mut self) -> Profile {
        let goroutines = ValueType { r#type: self.string("goroutine"), unit: self.string("count") };
        let stacks = ValueType { r#type: self.string("stack"), unit: self.string("bytes") };
        self.profile.sample_type = vec![goroutines, stacks];
        self.profile.default_sample_type = goroutines.r#type;
        self.profile.period_type = Some(goroutines);
        self.profile.period = 1;
        let since_epoch = self.dump.census.time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.profile.time_nanos = i64::try_from(since_epoch.as_nanos()).unwrap_or_default();
        self.profile.duration_nanos = i64::try_from(self.dump.census.took.as_nanos()).unwrap_or_default();
        self.mappings();
        for ((stack, labels), group) in self.dump.by_stack() {
            self.sample(stack, labels, group);
        }
        self.profile
    }

    fn string(&mut self, text: &str) -> i64 {
        if let Some(number) = self.strings.get(text) {
            return *number;
        }
        let number = i64::try_from(self.profile.string_table.len()).unwrap_or_default();
        self.profile.string_table.push(text.to_owned());
        self.strings.insert(text.to_owned(), number);
        number
    }

    /// The process's code. Names are known for the part that holds the Go runtime; it comes first, as pprof takes the
    /// first for the program.
    fn mappings(&mut self) {
        let process = self.dump.process;
        let mut mappings: Vec<_> = process.mappings.iter().collect();
        mappings.sort_by_key(|mapping| mapping.path != process.runtime);
        for (id, mapping) in (1..).zip(mappings) {
            let own = mapping.path == process.runtime;
            let entry = Mapping {
                id,
                memory_start: mapping.start.0,
                memory_limit: mapping.end.0,
                file_offset: mapping.offset.0,
                filename: self.string(&mapping.path),
                build_id: if own { self.string(&process.build_id) } else { 0 },
                has_functions: own,
                has_filenames: own,
                has_line_numbers: own,
                has_inline_frames: own,
            };
            self.profile.mapping.push(entry);
        }
    }

    fn sample(&mut self, stack: Option<StackId>, labels: LabelsId, group: Group) {
        let (calls, depth) = match stack {
            Some(stack) => (self.dump.census.stacks.calls(stack), self.dump.census.stacks.depth(stack)),
            None => (&[][..], Depth::Whole),
        };
        let location_id = calls.iter().map(|call| self.location(*call)).collect();
        let mut label: Vec<Label> = Vec::new();
        for (key, value) in self.dump.census.labels.get(labels) {
            label.push(Label { key: self.string(key), str: self.string(value) });
        }
        // What there is no stack of must not look like a stack of no calls.
        if stack.is_none() || depth != Depth::Whole {
            let text = if stack.is_none() { "running" } else { "cut" };
            label.push(Label { key: self.string("parkranger.stack"), str: self.string(text) });
        }
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let value = vec![number(group.count), number(group.stack_bytes)];
        self.profile.sample.push(Sample { location_id, value, label });
    }

    fn location(&mut self, call: CallSite) -> u64 {
        if let Some(id) = self.locations.get(&call) {
            return *id;
        }
        let id = self.locations.len() as u64 + 1;
        self.locations.insert(call, id);
        // pprof takes addresses of instructions, not of what follows the call.
        let address = call.return_address().0.saturating_sub(1);
        let holds = |mapping: &&Mapping| (mapping.memory_start..mapping.memory_limit).contains(&address);
        let mapping_id = self.profile.mapping.iter().find(holds).map_or(0, |mapping| mapping.id);
        let place = self.dump.names.place(call);
        let line = place.frames.iter().map(|frame| self.line(frame)).collect();
        self.profile.location.push(Location { id, mapping_id, address, line });
        id
    }

    fn line(&mut self, frame: &Frame) -> Line {
        let key = (frame.function.clone(), frame.file.clone());
        let next = self.functions.len() as u64 + 1;
        let function_id = *self.functions.entry(key).or_insert(next);
        if function_id == next {
            let name = self.string(&frame.function);
            let filename = self.string(&frame.file);
            self.profile.function.push(Function { id: next, name, system_name: name, filename });
        }
        Line { function_id, line: i64::from(frame.line) }
    }
}
