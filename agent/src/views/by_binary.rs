//! Executables whose processes come and go: one line for all of them.

use std::{cmp::Reverse, fmt::Write as _, path::Path};

use crate::snapshot::Snapshot;

/// One line for each, the one with most births first, at most `limit`.
pub(super) fn render(snapshot: &Snapshot, limit: usize) -> String {
    let mut text = String::new();
    let mut all: Vec<_> = snapshot.binaries.iter().filter(|(_, sum)| sum.comes_and_goes()).collect();
    all.sort_by_key(|(exe, sum)| (Reverse(sum.births), *exe));
    for (exe, sum) in all.iter().take(limit) {
        let name = Path::new(exe).file_name().map_or_else(|| (*exe).clone(), |name| name.to_string_lossy().into());
        let _ = writeln!(
            text,
            "{name}  {} processes came and went, {} running  births {}  exits {}  parks {}",
            sum.ended, sum.running, sum.births, sum.exits, sum.parks
        );
    }
    if all.len() > limit {
        let _ = writeln!(text, "… and {} more executables whose processes come and go", all.len() - limit);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

    use crate::{
        snapshot::{ByBinary, ProcessSnapshot, Snapshot, testing::process},
        views::{Sort, TableOptions, table},
    };

    #[test]
    fn a_storm_is_one_line() {
        let mut sums = ByBinary::default();
        let brief = |pid| ProcessSnapshot {
            brief: true,
            pid,
            ended: true,
            exe: "/usr/sbin/runc".to_owned(),
            ..process(&[(1, 0, 2)])
        };
        for pid in 0..461 {
            sums.lived_short("/usr/sbin/runc");
            sums.close(&brief(pid));
        }
        let processes: Vec<_> =
            std::iter::once(process(&[(1, 3, 5)])).chain((0..50).map(brief)).map(Arc::new).collect();
        let binaries = sums.sums(processes.iter().take(1).map(|process| &**process));
        let snapshot = Snapshot {
            time: SystemTime::UNIX_EPOCH,
            processes,
            binaries,
            refused: 0,
            not_looked_at: BTreeMap::new(),
            losses: BTreeMap::new(),
            budget: None,
        };
        let options = TableOptions { sort: Sort::Live, limit: 20, stacks: 0, width: None, height: None };
        let text = table::render(&snapshot, None, options);
        assert_eq!(text.matches("runc").count(), 1, "{text}");
        assert!(text.contains("runc  461 processes came and went, 0 running  births 922"), "{text}");
        assert!(text.contains("x  pid 7"), "{text}");
    }
}
