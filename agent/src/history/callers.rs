//! Lines that ask other servers over HTTP, seen while they do: a connection's own goroutines do not say for whom it was
//! opened.
//!
//! Who waits in `(*Transport).getConn` has one dialled, because none could be used again: that is who leaves bodies open. Who
//! waits elsewhere in `net/http`'s client counts less.

use std::collections::BTreeMap;

use super::{
    place::{Location, Owner, owner},
    population::{Kind, Population},
};

/// Lines remembered.
const MAX_CALLERS: usize = 64;
/// What one sight of a line that dials counts, beside one of a line that waits for an answer.
const DIALS: u64 = 20;

/// Lines that ask other servers, and how often they were seen to.
#[derive(Clone, Debug, Default)]
pub struct HttpCallers {
    seen: BTreeMap<Location, u64>,
}

impl HttpCallers {
    /// Takes note of who does so now.
    pub(super) fn note(&mut self, population: &Population) {
        let mut by_kind = vec![0u64; population.kinds.len()];
        for member in &population.goroutines {
            if let Some(count) = by_kind.get_mut(member.kind.0 as usize) {
                *count += member.count;
            }
        }
        for (kind, count) in population.kinds.iter().zip(by_kind) {
            let Some((location, weight)) = caller(kind, &population.main_module) else { continue };
            if self.seen.len() < MAX_CALLERS || self.seen.contains_key(&location) {
                *self.seen.entry(location).or_default() += weight * count;
            }
        }
    }

    /// How often somebody was seen to have a connection opened.
    #[must_use]
    pub fn sights(&self) -> u64 {
        self.seen.values().map(|weight| weight / DIALS).sum()
    }

    /// The lines, the most often seen first, with their share.
    #[must_use]
    pub fn ranked(&self) -> Vec<(&Location, f64)> {
        let all: u64 = self.seen.values().sum();
        let mut ranked: Vec<_> = self.seen.iter().map(|(at, seen)| (at, *seen as f64 / all.max(1) as f64)).collect();
        ranked.sort_by(|one, other| other.1.total_cmp(&one.1));
        ranked
    }
}

fn caller(kind: &Kind, main_module: &str) -> Option<(Location, u64)> {
    let is_client = |name: &str| {
        ["net/http.(*Client).", "net/http.(*Transport).", "net/http.(*persistConn).roundTrip"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
    };
    let asks = kind.frames.iter().rposition(|frame| is_client(&frame.function))?;
    let dials = kind.frames.iter().any(|frame| frame.function == "net/http.(*Transport).getConn");
    let own = kind.frames.get(asks..)?.iter().find(|frame| owner(&frame.function, main_module) == Owner::Own)?;
    let location =
        Location { function: own.function.as_str().into(), file: own.file.as_str().into(), line: own.line };
    Some((location, if dials { DIALS } else { 1 }))
}
