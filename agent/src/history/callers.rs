//! Lines that ask other servers over HTTP, seen while they do: a connection's own goroutines do not say for whom it was
//! opened.
//!
//! Who waits in `(*Transport).getConn` has one dialled, because none could be used again: that is who leaves bodies open, or
//! makes transports. Who waits elsewhere in `net/http`'s client only asks.
//!
//! Dialling takes a moment, and who does it is seldom seen. But the goroutine that dials is the parent of a connection's, and
//! when it has ended its struct says for a while whose child it was: that is the goroutine that asked.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    place::{Location, Owner, Site, owner, site},
    population::{Kind, Member, Population},
};

/// Goroutines that dialled, remembered.
const MAX_FOUND: usize = 4096;
/// Lines remembered.
const MAX_CALLERS: usize = 64;

/// A line that asks, and the one that calls its function: who asks through a helper of its own is told apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Caller {
    /// The line that calls `net/http`.
    pub at: Location,
    /// The line of the program's own code that called that function; `None` where there is none.
    pub called_by: Option<Location>,
}

/// Lines that ask other servers, and how often they were seen to.
#[derive(Clone, Debug, Default)]
pub struct HttpCallers {
    dial: BTreeMap<Caller, u64>,
    ask: BTreeMap<Caller, u64>,
    /// Sites of goroutines that were found to be the grandparents of connections.
    grandparents: BTreeMap<Site, u64>,
    /// Goroutines that dialled, whose parents were found.
    found: BTreeSet<u64>,
}

impl HttpCallers {
    /// Takes note of who does so now.
    pub(super) fn note(&mut self, population: &Population) {
        self.note_grandparents(population);
        let mut by_kind = vec![0u64; population.kinds.len()];
        for member in &population.goroutines {
            if let Some(count) = by_kind.get_mut(member.kind.0 as usize) {
                *count += member.count;
            }
        }
        for (kind, count) in population.kinds.iter().zip(by_kind) {
            if count == 0 {
                continue;
            }
            let Some((caller, dials)) = caller(kind, &population.main_module) else { continue };
            let seen = if dials { &mut self.dial } else { &mut self.ask };
            if seen.len() < MAX_CALLERS || seen.contains_key(&caller) {
                *seen.entry(caller).or_default() += count;
            }
        }
    }

    /// Takes note of who asked for the connections there are, where that can still be known.
    fn note_grandparents(&mut self, population: &Population) {
        let is_connection: Vec<bool> =
            population.kinds.iter().map(|kind| kind.start_function == "net/http.(*persistConn).readLoop").collect();
        let connections = population.goroutines.iter().filter(|member| {
            is_connection.get(member.kind.0 as usize).copied().unwrap_or(false)
                && member.parent_goid != 0
                && !self.found.contains(&member.parent_goid)
        });
        let dialled: BTreeSet<u64> = connections.map(|member| member.parent_goid).collect();
        if dialled.is_empty() {
            return;
        }
        let by_goid: HashMap<u64, &Member> = population.goroutines.iter().map(|one| (one.goid, one)).collect();
        let alive = dialled.iter().filter_map(|goid| Some((*goid, by_goid.get(goid)?.parent_goid)));
        let ended = population.ended.iter().copied().filter(|(goid, _)| dialled.contains(goid));
        for (goid, parent) in alive.chain(ended) {
            let asked = by_goid.get(&parent).and_then(|member| population.kind(member));
            let Some(site) = asked.map(|kind| site(kind, &population.main_module)) else { continue };
            if self.found.len() < MAX_FOUND && self.found.insert(goid) {
                let room = self.grandparents.len() < MAX_CALLERS || self.grandparents.contains_key(&site);
                if room {
                    *self.grandparents.entry(site).or_default() += 1;
                }
            }
        }
    }

    /// Sites of the goroutines that asked for connections, the most frequent first, with their share.
    #[must_use]
    pub fn grandparents(&self) -> Vec<(&Site, f64)> {
        let all: u64 = self.grandparents.values().sum();
        let mut ranked: Vec<_> =
            self.grandparents.iter().map(|(site, seen)| (site, *seen as f64 / all.max(1) as f64)).collect();
        ranked.sort_by(|one, other| other.1.total_cmp(&one.1));
        ranked
    }

    /// Number of times that somebody was seen to have a connection opened.
    #[must_use]
    pub fn sights(&self) -> u64 {
        self.dial.values().sum()
    }

    /// The lines that had connections opened, the most often seen first, with their share. Where none was seen to, the one
    /// that asks, if it is the only one.
    #[must_use]
    pub fn ranked(&self) -> Vec<(&Caller, f64)> {
        let seen = if self.dial.is_empty() && self.ask.len() == 1 { &self.ask } else { &self.dial };
        let all: u64 = seen.values().sum();
        let mut ranked: Vec<_> = seen.iter().map(|(at, seen)| (at, *seen as f64 / all.max(1) as f64)).collect();
        ranked.sort_by(|one, other| other.1.total_cmp(&one.1));
        ranked
    }
}

/// The line that asks, and whether it has a connection opened.
fn caller(kind: &Kind, main_module: &str) -> Option<(Caller, bool)> {
    let is_client = |name: &str| {
        ["net/http.(*Client).", "net/http.(*Transport).", "net/http.(*persistConn).roundTrip"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
    };
    let asks = kind.frames.iter().rposition(|frame| is_client(&frame.function))?;
    let dials = kind.frames.iter().any(|frame| frame.function == "net/http.(*Transport).getConn");
    let own = kind.frames.get(asks..)?.iter().filter(|frame| owner(&frame.function, main_module) == Owner::Own);
    let mut own = own.map(|frame| Location {
        function: frame.function.as_str().into(),
        file: frame.file.as_str().into(),
        line: frame.line,
    });
    Some((Caller { at: own.next()?, called_by: own.next() }, dials))
}
