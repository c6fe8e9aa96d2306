//! Clocks: the agent's own, and how a process's monotonic clock stands to it, which a time namespace shifts
//! (`time_namespaces(7)`, Linux 5.6).

use std::{
    fs::{self, File},
    io::Read as _,
};

use rustix::time::{ClockId, Timespec, clock_gettime};

use super::Proc;

const MAX_OFFSETS_BYTES: u64 = 4 << 10;
const NS_PER_S: i64 = 1_000_000_000;

/// CLOCK_MONOTONIC of the agent, in ns: the clock of the kernel's records and of Go's runtime.
#[must_use]
pub fn monotonic_ns() -> u64 {
    ns(clock_gettime(ClockId::Monotonic))
}

/// The time `ago_ns` ago in clock ticks since boot, as /proc/PID/stat has it. A tick is 10 ms (see
/// [`super::Identity`]).
#[must_use]
pub fn ticks_since_boot(ago_ns: u64) -> u64 {
    const TICK_NS: u64 = 10_000_000;
    ns(clock_gettime(ClockId::Boottime)).saturating_sub(ago_ns) / TICK_NS
}

fn ns(time: Timespec) -> u64 {
    u64::try_from(time.tv_sec).unwrap_or(0) * NS_PER_S.unsigned_abs() + u64::try_from(time.tv_nsec).unwrap_or(0)
}

impl Proc {
    /// By how many nanoseconds the monotonic clock of `pid` is ahead of the agent's own. `None` where it cannot be told.
    #[must_use]
    pub fn clock_ahead_ns(&self, pid: u32) -> Option<i64> {
        let (own, other) = ("self".to_owned(), pid.to_string());
        match (self.time_namespace(&own, "time"), self.time_namespace(&other, "time")) {
            // A kernel without time namespaces, or the same one.
            (own, other) if own == other => Some(0),
            _ => self.offset_ns(&other)?.checked_sub(self.offset_ns(&own)?),
        }
    }

    /// The offset of a process's namespace from the host's clock.
    fn offset_ns(&self, pid: &str) -> Option<i64> {
        // What the kernel shows is of the namespace that children will be in.
        if self.time_namespace(pid, "time")? != self.time_namespace(pid, "time_for_children")? {
            return None;
        }
        let mut text = String::new();
        let file = File::open(self.root().join(pid).join("timens_offsets")).ok()?;
        file.take(MAX_OFFSETS_BYTES).read_to_string(&mut text).ok()?;
        let words = text.lines().find_map(|line| line.strip_prefix("monotonic "))?;
        let mut words = words.split_whitespace();
        let (seconds, ns) = (words.next()?.parse::<i64>().ok()?, words.next()?.parse::<i64>().ok()?);
        seconds.checked_mul(NS_PER_S)?.checked_add(ns)
    }

    fn time_namespace(&self, pid: &str, name: &str) -> Option<std::path::PathBuf> {
        fs::read_link(self.root().join(pid).join("ns").join(name)).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, path::Path};

    use super::*;

    fn process(root: &Path, pid: &str, namespace: &str, for_children: &str, offsets: &str) {
        let folder = root.join(pid).join("ns");
        fs::create_dir_all(&folder).unwrap();
        symlink(namespace, folder.join("time")).unwrap();
        symlink(for_children, folder.join("time_for_children")).unwrap();
        fs::write(root.join(pid).join("timens_offsets"), offsets).unwrap();
    }

    #[test]
    fn a_clock_is_ahead_by_the_difference_of_the_offsets() {
        let dir = tempfile::tempdir().unwrap();
        process(dir.path(), "self", "time:[1]", "time:[1]", "monotonic           5         0\nboottime 0 0\n");
        process(dir.path(), "7", "time:[2]", "time:[2]", "monotonic         -10 500000000\nboottime 0 0\n");
        process(dir.path(), "8", "time:[1]", "time:[3]", "monotonic 99 0\n");
        process(dir.path(), "9", "time:[2]", "time:[3]", "monotonic 99 0\n");
        let proc = Proc::at(dir.path().to_owned());
        assert_eq!(proc.clock_ahead_ns(7), Some(-15 * NS_PER_S + NS_PER_S / 2));
        assert_eq!(proc.clock_ahead_ns(8), Some(0), "only its children will be elsewhere");
        assert_eq!(proc.clock_ahead_ns(9), None, "what is shown is not its own");
    }

    #[test]
    fn without_time_namespaces_there_is_one_clock() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Proc::at(dir.path().to_owned()).clock_ahead_ns(7), Some(0));
    }
}
