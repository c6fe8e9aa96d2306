//! What is recorded of each process, what that costs it, and what went uncounted.

use prometheus::proto::LabelPair;

use super::family::{Family, label};
use crate::snapshot::{ProcessSnapshot, Snapshot};

pub(super) struct Governed {
    fidelity: Family,
    cost: Family,
    changes: Family,
    uncounted: Family,
    window: Family,
    split_age: Family,
    unseen: Family,
    budget: Family,
}

impl Governed {
    pub(super) fn new() -> Self {
        let counter = |name, help| Family::counter(&format!("parkranger_{name}"), help);
        let gauge = |name, help| Family::gauge(&format!("parkranger_{name}"), help);
        Self {
            fidelity: gauge(
                "fidelity",
                "How much is recorded of a process: story, full, sampled, lifecycle, sparse or census; 1.",
            ),
            cost: gauge("cost_ratio", "What watching costs a process, as a part of its own CPU time, lately."),
            changes: counter("fidelity_changes_total", "How often the fidelity changed."),
            uncounted: counter("uncounted_seconds_total", "For how long something was not counted at all."),
            window: gauge("window_ratio", "Part of the sampled time in which windows were open."),
            split_age: gauge(
                "split_age_seconds",
                "Age of the census that live goroutines are split up by site after, where not all are counted.",
            ),
            unseen: gauge(
                "births_unseen",
                "Births that the runtime counted and the probes did not; 0, but for a few under way.",
            ),
            budget: gauge("budget_ratio", "What watching may cost a process, as a part of its own CPU time."),
        }
    }

    pub(super) fn add(&mut self, own: &[LabelPair], process: &ProcessSnapshot) {
        let with = |name, value: &str| own.iter().cloned().chain([label(name, value)]).collect::<Vec<_>>();
        if !process.ended {
            self.fidelity.add(with("fidelity", process.governed.fidelity.name()), 1.0);
        }
        self.changes.add(own.to_vec(), process.governed.steps as f64);
        if let Some(cost) = process.governed.cost.filter(|_| !process.ended) {
            self.cost.add(own.to_vec(), cost);
        }
        self.uncounted.add(with("events", "births_exits"), process.missing.lives_for.as_secs_f64());
        self.uncounted.add(with("events", "parks"), process.missing.parks_for.as_secs_f64());
        if let Some(share) = process.missing.slice_share.filter(|_| !process.ended) {
            self.window.add(own.to_vec(), share);
        }
        if let Some(age) = process.split_age {
            self.split_age.add(own.to_vec(), age.as_secs_f64());
        }
        self.unseen.add(own.to_vec(), process.births_unseen as f64);
    }

    pub(super) fn host(&mut self, snapshot: &Snapshot) {
        if let Some(budget) = snapshot.budget {
            self.budget.add(Vec::new(), budget.share());
        }
    }

    pub(super) fn into_all(self) -> [Family; 8] {
        [self.fidelity, self.cost, self.changes, self.uncounted, self.window, self.split_age, self.unseen, self.budget]
    }
}
