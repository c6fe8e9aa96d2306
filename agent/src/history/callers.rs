//! Lines that ask other servers over HTTP, seen while they do: a connection's own goroutines do not say for whom it was
//! opened.
//!
//! Who waits in `(*Transport).getConn` has one dialled, because none could be used again: that is who leaves bodies open, or
//! makes transports. Who waits elsewhere in `net/http`'s client only asks.

use std::collections::BTreeMap;

use super::{
    place::{Location, Owner, owner},
    population::{Kind, Population},
};

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

    /// How often somebody was seen to have a connection opened.
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
