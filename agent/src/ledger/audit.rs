//! One audit of one process, settled: which goroutines are alive at its end.
//!
//! alive = (census ∪ born) ∖ ended, by goid. The census has everything that lived through it; births and exits of the
//! time around it were told one by one. A birth is told before the goroutine has its goid, but with the stock of goids
//! of its processor: the goroutine gets the next one. Where the stock is used up, the processor's next birth tells what
//! came after, or the stock itself if there was none.
//!
//! Refuses an audit where anything is missing or does not fit ([`Spoiled`]): it is repeated, not guessed.

use std::collections::{BTreeMap, HashMap, HashSet};

use parkranger_common::record::{Birth, Life};

use super::Site;
use crate::{address::RuntimeAddr, runtime::scheduler::GOID_BATCH};

/// Why an audit says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Spoiled {
    /// The ring buffer was full, or a site found no room in the kernel's map.
    #[error("{told} births and exits were told, {counted} counted")]
    Lost {
        /// Records that arrived.
        told: u64,
        /// Events that were counted.
        counted: u64,
    },
    /// The goid or the start function of a goroutine could not be read.
    #[error("a birth or exit could not be read whole")]
    Unread,
    /// A thread got no time on a processor: it may be between an event and its effect in memory.
    #[error("a thread of the process got no time on a processor")]
    Unsettled,
    /// An event from before the audit was counted late.
    #[error("counts from before the audit moved during it")]
    Moved,
    /// The census does not have every goroutine.
    #[error("the census is not complete")]
    Incomplete,
    /// The last births of a processor could not be numbered.
    #[error("a birth at the end of the audit has no goid yet")]
    Unnumbered,
    /// The numbers that births were given contradict each other: the runtime's structs are not as they are known.
    #[error("the goids of births make no sense")]
    Nonsense,
}

/// Which goid a birth was given, as far as its own record tells.
enum Numbered {
    Yes(u64),
    ByTheNext,
}

/// Processors (`p`) whose last birth in the audit was given a goid that nothing told yet: their stocks must be read.
#[must_use]
pub fn unnumbered(lives: &[Life]) -> Vec<RuntimeAddr> {
    let mut last: HashMap<u64, bool> = HashMap::new();
    for life in lives {
        match life {
            Life::Birth(birth) => last.insert(birth.p, birth.goidcache == birth.goidcacheend),
            Life::BirthAfter(birth) => last.insert(birth.p, false),
            Life::Exit(_) => None,
        };
    }
    let mut open: Vec<RuntimeAddr> = last.iter().filter(|(_, open)| **open).map(|(p, _)| RuntimeAddr(*p)).collect();
    open.sort_unstable();
    open
}

/// The goroutines alive at the end of an audit, by site.
///
/// `census` is every goroutine it found, with its site; `lives` the records in order; `counted` how many births and
/// exits the kernel counted in the audit; `stocks` the stocks (`goidcache`, `goidcacheend`) of processors, read after the
/// last record.
///
/// # Errors
///
/// Every [`Spoiled`] but [`Spoiled::Unsettled`], [`Spoiled::Moved`] and [`Spoiled::Incomplete`], which the caller knows.
pub fn alive_at_end(
    census: impl Iterator<Item = (u64, Site)>,
    lives: &[Life],
    counted: u64,
    stocks: &HashMap<RuntimeAddr, (u64, u64)>,
) -> Result<BTreeMap<Site, u64>, Spoiled> {
    let told = told(lives);
    if told != counted {
        return Err(Spoiled::Lost { told, counted });
    }
    let born = births(lives, stocks)?;
    let mut ended = HashSet::new();
    for life in lives {
        if let Life::Exit(exit) = life
            && (exit.goid == 0 || !ended.insert(exit.goid))
        {
            return Err(Spoiled::Unread);
        }
    }
    let mut alive: BTreeMap<Site, u64> = BTreeMap::new();
    let mut seen = HashSet::new();
    for (goid, site) in census {
        if born.contains_key(&goid) {
            seen.insert(goid);
        }
        if !ended.contains(&goid) {
            *alive.entry(site).or_default() += 1;
        }
    }
    for (goid, site) in born {
        if !seen.contains(&goid) && !ended.contains(&goid) {
            *alive.entry(site).or_default() += 1;
        }
    }
    Ok(alive)
}

/// Births and exits of the audit itself.
fn told(lives: &[Life]) -> u64 {
    lives.iter().filter(|life| !matches!(life, Life::BirthAfter(_))).count() as u64
}

/// The goid and site of each birth of the audit.
fn births(lives: &[Life], stocks: &HashMap<RuntimeAddr, (u64, u64)>) -> Result<HashMap<u64, Site>, Spoiled> {
    let mut born = HashMap::new();
    let mut waiting: HashMap<u64, Site> = HashMap::new();
    let mut give = |goid: u64, site: Site| match born.insert(goid, site) {
        None => Ok(()),
        Some(_) => Err(Spoiled::Nonsense),
    };
    for life in lives {
        let (birth, is_inside) = match life {
            Life::Birth(birth) => (birth, true),
            Life::BirthAfter(birth) => (birth, false),
            Life::Exit(_) => continue,
        };
        if birth.p == 0 || birth.site.startpc == 0 {
            return Err(Spoiled::Unread);
        }
        if let Some(site) = waiting.remove(&birth.p) {
            give(birth.goidcache.checked_sub(1).ok_or(Spoiled::Nonsense)?, site)?;
        }
        if !is_inside {
            continue;
        }
        let site = Site { gopc: RuntimeAddr(birth.site.gopc), startpc: RuntimeAddr(birth.site.startpc) };
        match numbered(birth)? {
            Numbered::Yes(goid) => give(goid, site)?,
            Numbered::ByTheNext => {
                waiting.insert(birth.p, site);
            }
        }
    }
    for (p, site) in waiting {
        let (next, end) = *stocks.get(&RuntimeAddr(p)).ok_or(Spoiled::Unnumbered)?;
        // The birth took the first of a fresh stock; since then fewer were taken than a stock has.
        let fresh = end.checked_sub(GOID_BATCH).ok_or(Spoiled::Nonsense)?;
        if next <= fresh || next > end {
            return Err(Spoiled::Unnumbered);
        }
        give(fresh, site)?;
    }
    Ok(born)
}

fn numbered(birth: &Birth) -> Result<Numbered, Spoiled> {
    match birth.goidcacheend.checked_sub(birth.goidcache) {
        Some(0) => Ok(Numbered::ByTheNext),
        Some(left) if left <= GOID_BATCH && birth.goidcache != 0 => Ok(Numbered::Yes(birth.goidcache)),
        _ => Err(Spoiled::Nonsense),
    }
}

#[cfg(test)]
mod tests {
    use parkranger_common::{
        counts::{ProcessId, SiteKey},
        record::Exit,
    };

    use super::*;

    const A: Site = Site { gopc: RuntimeAddr(16), startpc: RuntimeAddr(32) };
    const B: Site = Site { gopc: RuntimeAddr(48), startpc: RuntimeAddr(64) };

    fn key(site: Site) -> SiteKey {
        SiteKey { process: ProcessId(1), gopc: site.gopc.0, startpc: site.startpc.0 }
    }

    fn made(site: Site, goidcache: u64, goidcacheend: u64) -> Birth {
        Birth { site: key(site), time_ns: 0, p: 0x1000, goidcache, goidcacheend }
    }

    fn birth(site: Site, goidcache: u64, goidcacheend: u64) -> Life {
        Life::Birth(made(site, goidcache, goidcacheend))
    }

    fn exit(site: Site, goid: u64) -> Life {
        Life::Exit(Exit { site: key(site), time_ns: 0, goid })
    }

    fn settle(census: &[(u64, Site)], lives: &[Life]) -> Result<Vec<(Site, u64)>, Spoiled> {
        let alive = alive_at_end(census.iter().copied(), lives, told(lives), &HashMap::new())?;
        Ok(alive.into_iter().collect())
    }

    #[test]
    fn who_came_and_went_during_the_census_is_counted_once() {
        // 1 old and quiet; 2 old, ended after it was seen; 3 old, ended before; 40 born and seen; 41 born and not seen;
        // 42 born, seen, ended; 43 born and ended unseen.
        let census = [(1, A), (2, A), (40, B), (42, B)];
        let lives = [
            birth(B, 40, 48),
            exit(A, 3),
            birth(B, 41, 48),
            birth(B, 42, 48),
            exit(B, 42),
            birth(B, 43, 48),
            exit(A, 2),
            exit(B, 43),
        ];
        assert_eq!(settle(&census, &lives).unwrap(), [(A, 1), (B, 2)]);
    }

    #[test]
    fn a_birth_from_an_empty_stock_is_numbered_by_the_next() {
        let census = [(1, A)];
        // The stock ended at 48; the next one was 65 to 80.
        let lives = [birth(B, 48, 48), birth(B, 66, 81), exit(B, 65)];
        assert_eq!(settle(&census, &lives).unwrap(), [(A, 1), (B, 1)]);
        let tail = [birth(B, 48, 48), Life::BirthAfter(made(A, 66, 81))];
        assert!(unnumbered(&tail).is_empty());
        assert_eq!(settle(&census, &tail).unwrap(), [(A, 1), (B, 1)]);
    }

    #[test]
    fn a_last_birth_is_numbered_by_the_stock() {
        let lives = [birth(B, 48, 48)];
        assert_eq!(unnumbered(&lives), [RuntimeAddr(0x1000)]);
        assert_eq!(settle(&[], &lives), Err(Spoiled::Unnumbered));
        let alive =
            |stock| alive_at_end([(65, B)].into_iter(), &lives, 1, &HashMap::from([(RuntimeAddr(0x1000), stock)]));
        assert_eq!(alive((66, 81)).unwrap(), BTreeMap::from([(B, 1)]));
        assert_eq!(alive((65, 81)), Err(Spoiled::Unnumbered), "its goroutine is not there yet");
    }

    #[test]
    fn what_is_missing_or_strange_spoils_the_audit() {
        let lost = alive_at_end([].into_iter(), &[exit(A, 1)], 2, &HashMap::new());
        assert_eq!(lost, Err(Spoiled::Lost { told: 1, counted: 2 }));
        assert_eq!(settle(&[], &[exit(A, 0)]), Err(Spoiled::Unread));
        assert_eq!(settle(&[], &[birth(A, 5, 200)]), Err(Spoiled::Nonsense));
        assert_eq!(settle(&[], &[birth(A, 5, 4)]), Err(Spoiled::Nonsense));
        assert_eq!(settle(&[], &[birth(A, 5, 16), birth(A, 5, 16)]), Err(Spoiled::Nonsense));
        assert_eq!(settle(&[], &[exit(A, 7), exit(A, 7)]), Err(Spoiled::Unread));
    }
}
