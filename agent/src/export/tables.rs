//! The parts every profile shares: its table of strings and of functions, its time, how it is written.

use std::{
    collections::HashMap,
    io::{self, Write},
    time::{Duration, SystemTime},
};

use flate2::{Compression, write::GzEncoder};
use prost::Message as _;

use crate::saved::profile::{Function, Line, Profile, ValueType};

/// A profile in the making.
pub(super) struct Tables {
    pub(super) profile: Profile,
    strings: HashMap<String, i64>,
    functions: HashMap<(String, String), u64>,
}

impl Tables {
    /// A profile of these kinds of values, (type, unit) each, the first of them shown unless another is asked for.
    pub(super) fn new(values: &[(&str, &str)], time: SystemTime, duration: Duration) -> Self {
        let mut tables = Self { profile: Profile::default(), strings: HashMap::new(), functions: HashMap::new() };
        // The first string is empty, by definition.
        tables.string("");
        tables.profile.sample_type = values
            .iter()
            .map(|(r#type, unit)| ValueType { r#type: tables.string(r#type), unit: tables.string(unit) })
            .collect();
        let first = tables.profile.sample_type.first().copied();
        tables.profile.default_sample_type = first.unwrap_or_default().r#type;
        tables.profile.period_type = first;
        tables.profile.period = 1;
        let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        tables.profile.time_nanos = i64::try_from(since_epoch.as_nanos()).unwrap_or_default();
        tables.profile.duration_nanos = i64::try_from(duration.as_nanos()).unwrap_or_default();
        tables
    }

    pub(super) fn string(&mut self, text: &str) -> i64 {
        if let Some(number) = self.strings.get(text) {
            return *number;
        }
        let number = i64::try_from(self.profile.string_table.len()).unwrap_or_default();
        self.profile.string_table.push(text.to_owned());
        self.strings.insert(text.to_owned(), number);
        number
    }

    pub(super) fn line(&mut self, function: &str, file: &str, line: u32) -> Line {
        let next = self.functions.len() as u64 + 1;
        let function_id = *self.functions.entry((function.to_owned(), file.to_owned())).or_insert(next);
        if function_id == next {
            let name = self.string(function);
            let filename = self.string(file);
            self.profile.function.push(Function { id: next, name, system_name: name, filename });
        }
        Line { function_id, line: i64::from(line) }
    }

    /// Writes the profile, gzip-compressed, as Go's own handlers do.
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let mut gzip = GzEncoder::new(out, Compression::default());
        gzip.write_all(&self.profile.encode_to_vec())?;
        gzip.finish()?.flush()
    }
}
