//! The processes of one executable together: one set of series, however many come and go.

use super::family::{Family, label};
use crate::snapshot::Snapshot;

pub(super) struct OfBinaries {
    running: Family,
    ended: Family,
    goroutines: Family,
    births: Family,
    exits: Family,
    parks: Family,
}

impl OfBinaries {
    pub(super) fn new() -> Self {
        let counter = |name, help| Family::counter(&format!("parkranger_binary_{name}"), help);
        let gauge = |name, help| Family::gauge(&format!("parkranger_binary_{name}"), help);
        Self {
            running: gauge("processes", "Processes of an executable."),
            ended: counter("processes_ended_total", "Processes of an executable that ended."),
            goroutines: gauge("goroutines", "Live goroutines of all processes of an executable."),
            births: counter(
                "births_total",
                "Goroutines created by all processes of an executable, ended ones included.",
            ),
            exits: counter("exits_total", "Goroutines ended of all processes of an executable, ended ones included."),
            parks: counter("parks_total", "Parks of all processes of an executable, ended ones included."),
        }
    }

    pub(super) fn add(&mut self, snapshot: &Snapshot) {
        for (exe, sum) in &snapshot.binaries {
            let own = vec![label("exe", exe)];
            let with = |kind: &str| vec![label("exe", exe), label("kind", kind)];
            self.running.add(own.clone(), sum.running as f64);
            self.ended.add(own.clone(), sum.ended as f64);
            if sum.unknown == 0 {
                self.goroutines.add(with("user"), sum.user as f64);
                self.goroutines.add(with("system"), sum.system as f64);
            }
            self.births.add(own.clone(), sum.births as f64);
            self.exits.add(own.clone(), sum.exits as f64);
            self.parks.add(own, sum.parks as f64);
        }
    }

    pub(super) fn into_all(self) -> [Family; 6] {
        [self.running, self.ended, self.goroutines, self.births, self.exits, self.parks]
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

    use crate::{
        export::metrics::{SiteBook, render},
        snapshot::{ByBinary, Contexts, ProcessSnapshot, Snapshot, testing::process},
    };

    fn text(processes: Vec<ProcessSnapshot>, sums: &mut ByBinary) -> String {
        let binaries = sums.sums(processes.iter());
        let snapshot = Snapshot {
            time: SystemTime::UNIX_EPOCH,
            processes: processes.into_iter().map(Arc::new).collect(),
            binaries,
            refused: 0,
            not_looked_at: BTreeMap::new(),
            losses: BTreeMap::new(),
            budget: None,
        };
        render(&snapshot, &Contexts::default(), &mut SiteBook::new(10)).unwrap()
    }

    #[test]
    fn a_storm_adds_no_series() {
        let (mut sums, mut bytes) = (ByBinary::default(), Vec::new());
        let server = process(&[(1, 3, 5)]);
        for round in 0..100u32 {
            let brief = ProcessSnapshot { brief: true, pid: 1000 + round, ended: true, ..process(&[(1, 0, 2)]) };
            bytes.push(text(vec![server.clone(), brief.clone()], &mut sums).lines().count());
            sums.lived_short("/x");
            sums.close(&brief);
        }
        bytes.dedup();
        assert_eq!(bytes.len(), 1, "series grow: {bytes:?}");
        let text = text(vec![server], &mut sums);
        assert!(text.contains("parkranger_binary_births_total{exe=\"/x\"} 205\n"), "{text}");
        assert!(text.contains("parkranger_binary_goroutines{exe=\"/x\",kind=\"user\"} 3\n"), "{text}");
    }

    #[test]
    fn who_has_ended_has_counters_and_no_gauges() {
        let mut sums = ByBinary::default();
        let gauges =
            ["parkranger_goroutines", "parkranger_site_goroutines", "parkranger_baseline", "parkranger_fidelity{"];
        let running = text(vec![process(&[(1, 3, 5)])], &mut sums);
        let ended = text(vec![ProcessSnapshot { ended: true, ..process(&[(1, 3, 5)]) }], &mut sums);
        for gauge in gauges {
            let has = |text: &str| text.lines().any(|line| line.starts_with(gauge) && line.contains("pid"));
            assert!(has(&running) && !has(&ended), "{gauge}");
        }
        assert!(ended.contains("parkranger_births_total{"), "{ended}");
    }
}
