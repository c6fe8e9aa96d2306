//! Holds what the agent says to what the target counted.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail, ensure};

use crate::agent::{Process, Site};
use crate::target::{Stats, Tally};

/// A site as both sides name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The function with the `go` statement.
    pub function: String,
    /// Its file and line; none where the runtime never told the target.
    pub at: Option<(String, u32)>,
    /// The function started.
    pub start_function: String,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    births: u64,
    exits: u64,
}

/// Every tally of the target has the same births and exits in the agent, under the same names, file and line; the
/// agent has no site of the program's that the target lacks; nothing is lost or estimated; live is births less exits,
/// and the process's totals are the sums of its sites.
///
/// # Errors
/// Every difference.
pub fn same_counts(target: &Stats, agent: &Process) -> Result<()> {
    let mut expected: BTreeMap<Place, Counts> = BTreeMap::new();
    for tally in &target.sites {
        let counts = expected.entry(place_of_tally(tally)).or_default();
        counts.births += tally.births;
        counts.exits += tally.exits;
    }
    let mut found: BTreeMap<Place, Counts> = BTreeMap::new();
    for site in agent.sites.iter().filter(|site| !site.system && (site.births, site.exits) != (0, 0)) {
        let mut place = place_of_site(site);
        if !expected.contains_key(&place) {
            // The target may not know the line of a site whose goroutines never ended.
            let unlocated = Place { at: None, ..place.clone() };
            if expected.contains_key(&unlocated) {
                place = unlocated;
            }
        }
        let counts = found.entry(place).or_default();
        counts.births += site.births;
        counts.exits += site.exits;
    }
    let mut differences = Vec::new();
    for place in expected.keys().chain(found.keys()).collect::<BTreeSet<_>>() {
        let (target, agent) = (expected.get(place), found.get(place));
        if target != agent {
            differences.push(format!("{place:?}: target {target:?}, agent {agent:?}"));
        }
    }
    ensure!(differences.is_empty(), "the agent differs from the target:\n{}", differences.join("\n"));
    consistent(agent)
}

/// What must hold of any report, whatever the target did.
///
/// # Errors
/// What does not.
pub fn consistent(agent: &Process) -> Result<()> {
    if let Some((name, lost)) = agent.losses.iter().find(|(_, lost)| **lost != 0) {
        bail!("{lost} lost: {name}");
    }
    for site in &agent.sites {
        ensure!(!site.approximate, "estimated: {site:?}");
        if !agent.baseline {
            ensure!(
                i128::from(site.live) == i128::from(site.births) - i128::from(site.exits),
                "live is not births less exits: {site:?}"
            );
        }
        ensure!(site.waits.values().sum::<u64>() == site.parks, "parks are not the sum of the waits: {site:?}");
    }
    let sum = |count: fn(&Site) -> u64| agent.sites.iter().map(count).sum::<u64>();
    let sums = (sum(|site| site.births), sum(|site| site.exits), sum(|site| site.parks));
    ensure!(
        sums == (agent.births, agent.exits, agent.parks),
        "births, exits, parks of the process are {:?}, of its sites {sums:?}",
        (agent.births, agent.exits, agent.parks)
    );
    let goroutines = &agent.goroutines;
    ensure!(goroutines.live == goroutines.user + goroutines.system, "live is not user and system: {goroutines:?}");
    Ok(())
}

/// The agent's rows of one of the target's sites, which may be several machine codes.
pub fn rows<'a>(agent: &'a Process, function: &str, start_function: &str) -> Vec<&'a Site> {
    let (function, start_function) = (short(function), short(start_function));
    let same = |site: &&Site| short(&site.function) == function && short(&site.start_function) == start_function;
    agent.sites.iter().filter(same).collect()
}

fn place_of_tally(tally: &Tally) -> Place {
    Place {
        function: short(&tally.function),
        at: tally.file.clone().zip(tally.line),
        start_function: short(&tally.start_function),
    }
}

fn place_of_site(site: &Site) -> Place {
    Place {
        function: short(&site.function),
        at: Some((site.file.clone(), site.line)),
        start_function: short(&site.start_function),
    }
}

/// Type arguments as the runtime prints them: symbol tables have `f[go.shape.int]`, tracebacks `f[...]`.
#[must_use]
pub fn short(function: &str) -> String {
    match (function.find('['), function.rfind(']')) {
        (Some(open), Some(close)) if open < close => {
            format!("{}[...]{}", &function[..open], &function[close + 1..])
        }
        _ => function.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn type_arguments_are_shortened() {
        assert_eq!(short("main.spawn[go.shape.[]uint8]"), "main.spawn[...]");
        assert_eq!(short("iter.Pull[go.shape.int].func1"), "iter.Pull[...].func1");
        assert_eq!(short("main.(*Server).lookup"), "main.(*Server).lookup");
    }
}
