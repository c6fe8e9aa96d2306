//! Two dumps of a process compared, by where goroutines come from: who came, went, stayed, and stayed without moving.
//!
//! Pure. Goroutines are told apart by their numbers where both dumps have them and are of one process; else only counts
//! are compared. Where one of the dumps does not say which `go` statement a goroutine comes from, the function it started
//! with stands for it in both.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use crate::{
    history::{
        place::{self, Location, Site},
        population::{Kind, Member},
    },
    saved::Saved,
};

/// Goroutines of one site, before and after.
#[derive(Clone, Debug)]
pub struct Row {
    /// Creation site and stack that they share.
    pub site: Site,
    /// Number in the first dump.
    pub before: u64,
    /// Number in the second dump.
    pub after: u64,
    /// Those that came, went and stayed; `None` where goroutines cannot be told apart.
    pub moves: Option<Moves>,
    /// Numbers by state, before and after.
    pub states: BTreeMap<String, (u64, u64)>,
    /// Longest and median wait of those in the second dump; `None` where it is not known.
    pub waited: Option<(Duration, Duration)>,
    /// Memory of the stacks of those there are; 0 where it is not known.
    pub stack_bytes: u64,
    /// The most frequent of those there are, or were.
    pub example: Arc<Kind>,
}

/// Goroutines by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    /// Those that were not there before.
    pub came: u64,
    /// Those that are no more.
    pub went: u64,
    /// Those that are in both.
    pub stayed: u64,
    /// Of these, those in the same state with the same stack.
    pub unmoved: u64,
}

/// Comparison of two dumps.
#[derive(Clone, Debug)]
pub struct Difference {
    /// Sites, the one that grew most first.
    pub rows: Vec<Row>,
    /// Why goroutines could not be told apart; `None` where they could.
    pub only_counts: Option<&'static str>,
    /// Why start functions stand for sites; `None` where they do not.
    pub only_starts: Option<&'static str>,
}

#[derive(Default)]
struct Gathered {
    before: u64,
    after: u64,
    moves: Moves,
    states: BTreeMap<String, (u64, u64)>,
    waits: Vec<(Duration, u64)>,
    stack_bytes: u64,
    kinds: HashMap<usize, u64>,
}

/// Compares two dumps; with one alone, groups it.
#[must_use]
pub fn compare(before: Option<&Saved>, after: &Saved) -> Difference {
    let both = before.into_iter().chain([after]);
    let starts = both.clone().any(|saved| !saved.has_creators);
    let numbered = both.clone().all(|saved| saved.numbered);
    let same_process = before.is_none_or(|before| numbered && is_one_process(before, after));
    let tells_apart = numbered && same_process && before.is_some();
    let module = after.population.main_module.as_ref();
    let sites =
        |saved: &Saved| -> Vec<Site> { saved.population.kinds.iter().map(|kind| site(kind, module, starts)).collect() };
    let earlier: HashMap<u64, (&Member, &Kind)> = before.filter(|_| tells_apart).map(by_goid).unwrap_or_default();
    let later: HashMap<u64, (&Member, &Kind)> = if tells_apart { by_goid(after) } else { HashMap::new() };
    let mut gathered: HashMap<Site, Gathered> = HashMap::new();
    if let Some(before) = before {
        let sites = sites(before);
        for member in &before.population.goroutines {
            let (Some(site), Some(kind)) = (sites.get(member.kind.0 as usize), before.population.kind(member)) else {
                continue;
            };
            let entry = gathered.entry(site.clone()).or_default();
            entry.before += member.count;
            entry.states.entry(state(kind)).or_default().0 += member.count;
            if tells_apart && !later.contains_key(&member.goid) {
                entry.moves.went += 1;
            }
        }
    }
    let after_sites = sites(after);
    for member in &after.population.goroutines {
        let index = member.kind.0 as usize;
        let (Some(site), Some(kind)) = (after_sites.get(index), after.population.kind(member)) else { continue };
        let entry = gathered.entry(site.clone()).or_default();
        entry.after += member.count;
        entry.states.entry(state(kind)).or_default().1 += member.count;
        let stack_bytes = member.stack_bytes.saturating_mul(member.count);
        entry.stack_bytes = entry.stack_bytes.saturating_add(stack_bytes);
        *entry.kinds.entry(index).or_default() += member.count;
        entry.waits.extend(member.waited.map(|waited| (waited, member.count)));
        match earlier.get(&member.goid) {
            Some((_, was)) => {
                entry.moves.stayed += 1;
                entry.moves.unmoved += u64::from(was.state == kind.state && same_calls(was, kind));
            }
            None => entry.moves.came += 1,
        }
    }
    let mut rows: Vec<Row> = gathered
        .into_iter()
        .map(|(site, gathered)| {
            let most = gathered.kinds.iter().max_by_key(|(index, count)| (**count, std::cmp::Reverse(**index)));
            let example = most.and_then(|(index, _)| after.population.kinds.get(*index)).cloned().or_else(|| {
                let before = before?;
                before.population.kinds.iter().find(|kind| self::site(kind, module, starts) == site).cloned()
            });
            Row {
                before: gathered.before,
                after: gathered.after,
                moves: tells_apart.then_some(gathered.moves),
                states: gathered.states,
                waited: ages(gathered.waits),
                stack_bytes: gathered.stack_bytes,
                example: Arc::new(example.unwrap_or_default()),
                site,
            }
        })
        .collect();
    let grown = |row: &Row| i128::from(row.after) - i128::from(row.before);
    rows.sort_by(|one, other| {
        (grown(other), other.after).cmp(&(grown(one), one.after)).then_with(|| one.site.cmp(&other.site))
    });
    let only_counts = match (before, numbered, same_process) {
        (None, ..) | (_, true, true) => None,
        (_, false, _) => Some("one of the dumps only counts goroutines"),
        (_, true, false) => Some("the dumps are of different processes"),
    };
    let only_starts = starts.then_some("one of the dumps does not say where goroutines were created");
    Difference { rows, only_counts, only_starts }
}

/// A state without what changes with every dump.
fn state(kind: &Kind) -> String {
    if kind.state.is_empty() { "?".to_owned() } else { kind.state.clone() }
}

/// Goroutines of the same number come from the same place, unless the dumps are of two processes.
fn is_one_process(before: &Saved, after: &Saved) -> bool {
    let earlier = by_goid(before);
    let (mut same, mut other) = (0u64, 0u64);
    for member in &after.population.goroutines {
        let Some(kind) = after.population.kind(member) else { continue };
        let Some((_, was)) = earlier.get(&member.goid) else { continue };
        let creator = |kind: &Kind| kind.created_by.as_ref().map(|frame| (frame.function.clone(), frame.line));
        if creator(was) == creator(kind) {
            same += 1;
        } else {
            other += 1;
        }
    }
    same >= other
}

fn by_goid(saved: &Saved) -> HashMap<u64, (&Member, &Kind)> {
    let population = &saved.population;
    let all = population.goroutines.iter();
    all.filter_map(|member| Some((member.goid, (member, population.kind(member)?)))).collect()
}

/// True where two stacks are the same, whichever of the runtime's own frames a form leaves out.
fn same_calls(one: &Kind, other: &Kind) -> bool {
    let calls = |kind: &Kind| -> Vec<(String, u32)> {
        let frames = kind.frames.iter().filter(|frame| !frame.function.starts_with("runtime."));
        frames.map(|frame| (frame.function.clone(), frame.line)).collect()
    };
    calls(one) == calls(other)
}

fn site(kind: &Kind, main_module: &str, starts: bool) -> Site {
    let site = place::site(kind, main_module);
    if !starts {
        // The runtime's own dumps begin with the user's part of the first goroutine.
        let is_first = &*site.start_function == "runtime.main";
        return if is_first { Site { start_function: "main.main".into(), ..site } } else { site };
    }
    Site { created_at: Location::default(), start_function: first_call(kind).unwrap_or("?").into(), caller: "".into() }
}

/// The function a goroutine started with, by its stack.
fn first_call(kind: &Kind) -> Option<&str> {
    let machinery = |name: &str| matches!(name, "runtime.goexit" | "runtime.main");
    let mut all = kind.frames.iter().rev().map(|frame| frame.function.as_str());
    all.find(|name| !machinery(name)).or_else(|| kind.frames.first().map(|frame| frame.function.as_str()))
}

/// The longest, and the middle one.
fn ages(mut waits: Vec<(Duration, u64)>) -> Option<(Duration, Duration)> {
    waits.sort_unstable();
    let oldest = waits.last()?.0;
    let half = waits.iter().map(|(_, count)| count).sum::<u64>() / 2;
    let mut seen = 0;
    let median = waits.iter().find(|(_, count)| {
        seen += count;
        seen > half
    });
    Some((oldest, median.map_or(oldest, |(waited, _)| *waited)))
}

#[cfg(test)]
mod tests;
