//! Two dumps compared, as text, JSON (docs/json.md, "parkranger diff") and as a profile of the difference.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Write},
    time::{Duration, SystemTime},
};

use serde::Serialize;

use super::tables::Tables;
use crate::saved::profile::{Location, Sample};
use crate::{
    diff::{Difference, Row},
    history::population::{Kind, Population},
};

/// States that are printed of one row.
const STATES: usize = 3;

/// Writes rows for a person; with `before`, what changed. Rows where nothing did are left out then.
///
/// # Errors
///
/// Errors of writing to `out`.
pub fn write_text(difference: &Difference, compared: bool, limit: usize, out: &mut impl Write) -> io::Result<()> {
    for note in [difference.only_counts, difference.only_starts].into_iter().flatten() {
        writeln!(out, "~ {note}")?;
    }
    let told = |row: &&Row| {
        let moved = row.moves.is_some_and(|moves| moves.came + moves.went > 0);
        !compared || row.before != row.after || moved || row.moves.is_some_and(|moves| moves.unmoved > 0)
    };
    let rows: Vec<&Row> = difference.rows.iter().filter(told).collect();
    if compared {
        writeln!(out, "{:>8} {:>8} {:>7} {:>7} {:>7}  CREATED AT", "BEFORE", "AFTER", "CAME", "WENT", "UNMOVED")?;
    } else {
        writeln!(out, "{:>8} {:>9} {:>9}  CREATED AT", "COUNT", "OLDEST", "MEDIAN")?;
    }
    for row in rows.iter().take(limit) {
        if compared {
            let moves = row.moves.map(|moves| [moves.came, moves.went, moves.unmoved]);
            let [came, went, unmoved] = moves.map_or(["-"; 3].map(str::to_owned), |all| all.map(|one| one.to_string()));
            writeln!(out, "{:>8} {:>8} {came:>7} {went:>7} {unmoved:>7}  {}", row.before, row.after, whence(row))?;
        } else {
            let age = |of: fn(&(Duration, Duration)) -> Duration| {
                row.waited.as_ref().map_or("-".to_owned(), |waited| seconds(of(waited)))
            };
            let (oldest, median) = (age(|waited| waited.0), age(|waited| waited.1));
            writeln!(out, "{:>8} {oldest:>9} {median:>9}  {}", row.after, whence(row))?;
        }
        let mut states: Vec<_> = row.states.iter().collect();
        states.sort_by_key(|(_, (before, after))| std::cmp::Reverse((*after, *before)));
        for (state, (before, after)) in states.into_iter().take(STATES).filter(|(state, _)| *state != "?") {
            let change = if compared { format!("{before} to {after}") } else { after.to_string() };
            let waited = row.waited.filter(|_| compared);
            let waited = waited.map_or(String::new(), |(oldest, median)| {
                format!(", waits up to {}, half {}", seconds(oldest), seconds(median))
            });
            writeln!(out, "{:>10}{state}: {change}{waited}", "")?;
        }
        if let Some(frame) = row.example.frames.iter().find(|frame| !frame.function.starts_with("runtime.")) {
            let file = frame.file.rsplit('/').next().unwrap_or_default();
            writeln!(out, "{:>10}in {} {file}:{}", "", frame.function, frame.line)?;
        }
    }
    if rows.len() > limit {
        writeln!(out, "… and {} more sites", rows.len() - limit)?;
    }
    out.flush()
}

fn seconds(duration: Duration) -> String {
    humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string().replace(' ', "")
}

fn whence(row: &Row) -> String {
    let site = &row.site;
    let caller = if site.caller.is_empty() { String::new() } else { format!(" for {}", site.caller) };
    if site.created_at.function.is_empty() {
        format!("(starts {}){caller}", site.start_function)
    } else {
        format!("{}{caller}, starts {}", site.created_at.short(), site.start_function)
    }
}

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    only_counts: Option<&'a str>,
    only_starts: Option<&'a str>,
    sites: Vec<Site<'a>>,
}

#[derive(Serialize)]
struct Site<'a> {
    function: &'a str,
    file: &'a str,
    line: u32,
    start_function: &'a str,
    caller: &'a str,
    before: u64,
    after: u64,
    came: Option<u64>,
    went: Option<u64>,
    stayed: Option<u64>,
    unmoved: Option<u64>,
    states: BTreeMap<&'a str, [u64; 2]>,
    oldest_wait_ns: Option<u64>,
    median_wait_ns: Option<u64>,
    stack_bytes: u64,
    stack: Vec<String>,
}

/// Writes rows as one line of JSON.
///
/// # Errors
///
/// Errors of writing to `out`.
pub fn write_json(difference: &Difference, out: &mut impl Write) -> io::Result<()> {
    let nanoseconds = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let site = |row: &Row| -> Vec<String> {
        row.example.frames.iter().map(|frame| format!("{} {}:{}", frame.function, frame.file, frame.line)).collect()
    };
    let sites = difference.rows.iter().map(|row| Site {
        function: &row.site.created_at.function,
        file: &row.site.created_at.file,
        line: row.site.created_at.line,
        start_function: &row.site.start_function,
        caller: &row.site.caller,
        before: row.before,
        after: row.after,
        came: row.moves.map(|moves| moves.came),
        went: row.moves.map(|moves| moves.went),
        stayed: row.moves.map(|moves| moves.stayed),
        unmoved: row.moves.map(|moves| moves.unmoved),
        states: row.states.iter().map(|(state, (before, after))| (state.as_str(), [*before, *after])).collect(),
        oldest_wait_ns: row.waited.map(|(oldest, _)| nanoseconds(oldest)),
        median_wait_ns: row.waited.map(|(_, median)| nanoseconds(median)),
        stack_bytes: row.stack_bytes,
        stack: site(row),
    });
    let document = Document {
        schema: 1,
        only_counts: difference.only_counts,
        only_starts: difference.only_starts,
        sites: sites.collect(),
    };
    serde_json::to_writer(&mut *out, &document)?;
    writeln!(out)?;
    out.flush()
}

/// Writes a profile of stacks: those of `after` count, those of `before` count less than nothing.
///
/// # Errors
///
/// Errors of writing to `out`.
pub fn write_profile(
    before: Option<&Population>,
    after: &Population,
    time: SystemTime,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut tables = Tables::new(&[("goroutine", "count")], time, Duration::ZERO);
    let mut locations: HashMap<(String, String, u32), u64> = HashMap::new();
    let mut samples: BTreeMap<Vec<u64>, i64> = BTreeMap::new();
    for (population, sign) in before.map(|before| (before, -1)).into_iter().chain([(after, 1)]) {
        let mut counts = vec![0i64; population.kinds.len()];
        for member in &population.goroutines {
            if let Some(count) = counts.get_mut(member.kind.0 as usize) {
                *count = count.saturating_add(i64::try_from(member.count).unwrap_or(i64::MAX));
            }
        }
        for (kind, count) in population.kinds.iter().zip(counts) {
            let stack = stack(kind, &mut tables, &mut locations);
            let sum = samples.entry(stack).or_default();
            *sum = sum.saturating_add(sign * count);
        }
    }
    for (location_id, count) in samples {
        if count != 0 && !location_id.is_empty() {
            tables.profile.sample.push(Sample { location_id, value: vec![count], label: Vec::new() });
        }
    }
    tables.write(out)
}

fn stack(kind: &Kind, tables: &mut Tables, locations: &mut HashMap<(String, String, u32), u64>) -> Vec<u64> {
    // What forms leave out is left out of all, so that equal stacks are equal.
    let shown = kind
        .frames
        .iter()
        .filter(|frame| !frame.function.starts_with("runtime.") && !frame.function.starts_with("internal/runtime/"));
    let mut shown: Vec<_> = shown.collect();
    if shown.is_empty() {
        shown = kind.frames.iter().collect();
    }
    shown
        .into_iter()
        .map(|frame| {
            let next = locations.len() as u64 + 1;
            let key = (frame.symbol().to_owned(), frame.file.clone(), frame.line);
            let id = *locations.entry(key).or_insert(next);
            if id == next {
                let line = tables.line(frame.symbol(), &frame.file, frame.line);
                tables.profile.location.push(Location { id, mapping_id: 0, address: 0, line: vec![line] });
            }
            id
        })
        .collect()
}
