//! Sums over all processes of one executable, those that ended included.

use std::collections::BTreeMap;

use super::ProcessSnapshot;

/// Executables with sums of their own; those of more are summed up as [`OTHER`].
const MAX_BINARIES: usize = 1000;
/// Short lives after which the processes of an executable are known to come and go.
const MANY_SHORT_LIVES: u64 = 8;
/// The name of the sum over executables beyond [`MAX_BINARIES`].
const OTHER: &str = "other";

/// The processes of one executable together, since the agent began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BinarySnapshot {
    /// Processes there are.
    pub running: u64,
    /// Processes that ended.
    pub ended: u64,
    /// Those of them that lived too short to be shown one by one.
    pub short_lives: u64,
    /// Goroutines created. Never falls.
    pub births: u64,
    /// Goroutines ended. Never falls.
    pub exits: u64,
    /// Times a goroutine parked. Never falls.
    pub parks: u64,
    /// Processes whose live goroutines are not known yet.
    pub unknown: u64,
    /// Live goroutines of the processes there are, as `runtime.NumGoroutine()` counts them, but for the unknown ones.
    pub user: i64,
    /// Live goroutines of their runtimes.
    pub system: i64,
}

impl BinarySnapshot {
    /// True where its processes come and go: those that have not lived long are shown by this sum only.
    #[must_use]
    pub fn comes_and_goes(&self) -> bool {
        self.short_lives >= MANY_SHORT_LIVES
    }

    fn add_counts(&mut self, process: &ProcessSnapshot) {
        self.births = self.births.saturating_add(process.births);
        self.exits = self.exits.saturating_add(process.exits);
        self.parks = self.parks.saturating_add(process.parks);
    }
}

/// The sums of all executables.
#[derive(Debug, Default)]
pub struct ByBinary {
    /// Of processes that ended.
    closed: BTreeMap<String, BinarySnapshot>,
    /// Sums as they were shown last: estimates that are corrected must not let a counter fall.
    said: BTreeMap<String, BinarySnapshot>,
}

impl ByBinary {
    /// Notes that a process of an executable ended after a short life. To be called once for each, before anything is shown
    /// of its end: of hundreds that end between two snapshots none is to be shown alone.
    pub fn lived_short(&mut self, exe: &str) {
        entry(&mut self.closed, name(exe)).short_lives += 1;
    }

    /// Takes in the last counts of a process that ended, once.
    pub fn close(&mut self, process: &ProcessSnapshot) {
        let sum = entry(&mut self.closed, name(&process.exe));
        sum.ended += 1;
        sum.add_counts(process);
    }

    /// True where the processes of an executable come and go.
    #[must_use]
    pub fn comes_and_goes(&self, exe: &str) -> bool {
        self.closed.get(name(exe)).is_some_and(BinarySnapshot::comes_and_goes)
    }

    /// The sums now, with the processes that were not closed.
    pub fn sums<'a>(&mut self, open: impl Iterator<Item = &'a ProcessSnapshot>) -> BTreeMap<String, BinarySnapshot> {
        let mut sums = self.closed.clone();
        for process in open {
            let sum = entry(&mut sums, name(&process.exe));
            sum.add_counts(process);
            if process.ended {
                sum.ended += 1;
            } else {
                sum.running += 1;
                if !(process.user_is_known && process.baseline) {
                    sum.unknown += 1;
                    continue;
                }
                sum.user = sum.user.saturating_add(process.user);
                sum.system = sum.system.saturating_add(process.system);
            }
        }
        for (name, sum) in &mut sums {
            if let Some(said) = self.said.get(name) {
                sum.births = sum.births.max(said.births);
                sum.exits = sum.exits.max(said.exits);
                sum.parks = sum.parks.max(said.parks);
            }
        }
        self.said.clone_from(&sums);
        sums
    }
}

fn entry<'a>(sums: &'a mut BTreeMap<String, BinarySnapshot>, name: &str) -> &'a mut BinarySnapshot {
    let name = if sums.contains_key(name) || sums.len() < MAX_BINARIES { name } else { OTHER };
    sums.entry(name.to_owned()).or_default()
}

/// An executable that was replaced is the same to people.
fn name(exe: &str) -> &str {
    exe.strip_suffix(" (deleted)").unwrap_or(exe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::testing::process;

    fn of(exe: &str, births: u64, ended: bool) -> ProcessSnapshot {
        ProcessSnapshot { exe: exe.to_owned(), ended, ..process(&[(1, i64::from(!ended), births)]) }
    }

    #[test]
    fn a_storm_is_one_sum_that_never_falls() {
        let mut sums = ByBinary::default();
        let server = of("/server", 7, false);
        let mut births = 0;
        for round in 0..3000u64 {
            // One that runs, then has ended but was not closed, then is closed and shown no more.
            for open in [vec![of("/runc", 2, false), server.clone()], vec![of("/runc", 3, true), server.clone()]] {
                let said = sums.sums(open.iter());
                assert!(said["/runc"].births >= births && said.len() == 2, "round {round}");
                assert_eq!((said["/runc"].ended + said["/runc"].running, said["/server"].births), (round + 1, 7));
                births = said["/runc"].births;
            }
            sums.lived_short("/runc");
            sums.close(&of("/runc (deleted)", 3, true));
            assert_eq!(sums.comes_and_goes("/runc"), round + 1 >= MANY_SHORT_LIVES);
        }
        let said = sums.sums([&server].into_iter());
        assert_eq!((said["/runc"].births, said["/runc"].running, said["/runc"].user), (9000, 0, 0));
        assert!(!sums.comes_and_goes("/server"));
    }

    #[test]
    fn executables_beyond_a_bound_share_a_sum() {
        let mut sums = ByBinary::default();
        for number in 0..5000 {
            sums.close(&of(&format!("/tmp/go-build{number}/x.test"), 1, true));
        }
        let said = sums.sums(std::iter::empty());
        assert_eq!(said.len(), MAX_BINARIES + 1);
        assert_eq!(said.values().map(|sum| sum.births).sum::<u64>(), 5000);
    }

    #[test]
    fn an_estimate_that_is_corrected_lets_no_counter_fall() {
        let mut sums = ByBinary::default();
        assert_eq!(sums.sums([&of("/x", 9, false)].into_iter())["/x"].births, 9);
        assert_eq!(sums.sums([&of("/x", 8, false)].into_iter())["/x"].births, 9);
    }
}
