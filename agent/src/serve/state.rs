//! What all requests share.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::{
    guard::Token,
    leaks::Leaks,
    limits::CensusLimits,
    metrics::Metrics,
    problem::Problem,
    settings::{self, Limits, Settings},
    watcher::{Control, Snapshots, Watcher},
};
use crate::{
    dump::GoProcesses,
    go_binary::GoBinaries,
    host::Proc,
    snapshot::{Contexts, ProcessSnapshot, Snapshot},
};

/// What SIGHUP can change.
pub(super) struct Live {
    pub(super) token: Option<Arc<Token>>,
    pub(super) allowed_hosts: Vec<String>,
    pub(super) limits: Limits,
}

pub(super) struct State {
    live: RwLock<Arc<Live>>,
    snapshots: Snapshots,
    pub(super) control: Control,
    pub(super) proc: Proc,
    pub(super) subjects: GoProcesses,
    pub(super) censuses: CensusLimits,
    pub(super) metrics: Metrics,
    pub(super) leaks: Leaks,
    /// What is known of processes beside their counts.
    facts: Mutex<Arc<Contexts>>,
}

impl Live {
    fn new(settings: &Settings, live: settings::Live) -> Arc<Self> {
        let Settings { allowed_hosts, limits, .. } = settings;
        Arc::new(Self { token: live.token, allowed_hosts: allowed_hosts.clone(), limits: *limits })
    }
}

impl State {
    pub(super) fn new(
        settings: &Settings,
        live: settings::Live,
        go_binaries: Arc<GoBinaries>,
        watcher: &Watcher,
    ) -> prometheus::Result<Self> {
        let leaks = Leaks::new()?;
        Ok(Self {
            live: RwLock::new(Live::new(settings, live)),
            snapshots: watcher.snapshots(),
            control: watcher.control(),
            proc: Proc::default(),
            subjects: GoProcesses::new(Proc::default(), go_binaries),
            censuses: CensusLimits::new(settings.limits.censuses),
            metrics: Metrics::new(settings.site_series, leaks.series())?,
            leaks,
            facts: Mutex::default(),
        })
    }

    pub(super) fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn reload(&self, settings: &Settings, live: settings::Live) {
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = Live::new(settings, live);
        self.metrics.set_site_series(settings.site_series);
    }

    /// The latest snapshot, if there is one yet.
    pub(super) fn latest(&self) -> Option<Arc<Snapshot>> {
        self.snapshots.borrow().clone()
    }

    /// The same, or the answer that there is none.
    pub(super) fn snapshot(&self) -> Result<Arc<Snapshot>, Problem> {
        self.latest().ok_or_else(Problem::starting)
    }

    /// What was found of processes last, beside their counts.
    pub(super) fn facts(&self) -> Arc<Contexts> {
        Arc::clone(&self.facts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set_facts(&self, facts: Contexts) {
        *self.facts.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(facts);
    }

    /// To wait for the next ones.
    pub(super) fn snapshots(&self) -> Snapshots {
        self.snapshots.clone()
    }
}

/// The process of a pid in a snapshot: the one that lives, else the one that lived last.
pub(super) fn process(snapshot: &Snapshot, pid: u32) -> Result<&ProcessSnapshot, Problem> {
    let of_pid = snapshot.processes.iter().map(|process| &**process).filter(|process| process.pid == pid);
    of_pid.max_by_key(|process| (!process.ended, process.start_time)).ok_or_else(|| Problem::no_process(pid))
}
