//! Leaks of all watched processes, kept up to date from censuses: metrics, JSON, and one line of the log for each.
//!
//! One process after the other is read, each once in an interval (30 s unless told otherwise), and between two the thread rests for many times what the
//! last took, so that it takes no more than a fiftieth of one CPU; on a host with very many goroutines each is read less often.
//! A process whose number of goroutines is the same as last time is read half as often the next, down to once in
//! [`SELDOM`]. One that was begun less than half an interval ago is not read, and one that does not answer not again. Memory is
//! bounded: [`MOST`] of all processes, and [`LIMITS`] of one.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    extract::{Path, State as Extracted},
    http::Uri,
    response::Response,
};
use parkranger_common::counts::ProcessId;
use prometheus::{IntGaugeVec, Opts};
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::{debug, info, warn};

use super::{
    params::{Params, pid},
    problem::Problem,
    reading::{made, whole},
    state::{State, process},
};
use crate::{
    census::{CensusError, Detail},
    dump::GoProcess,
    export::{self, findings::Watched},
    history::{History, Limits},
    leaks::{self, Circumstances, Finding},
    snapshot::Snapshot,
};

/// Bounds of the history of one process.
const LIMITS: Limits = Limits { goroutines: 1 << 13, sites: 512, step: Duration::from_secs(30) };
/// Bounds of the histories of all processes: some 40 MiB at the most.
const MOST: Limits = Limits { goroutines: 1 << 16, sites: 2048, step: LIMITS.step };
/// Longest time between two censuses of a process, in intervals.
const SELDOM: u32 = 16;
/// Processes of which something is remembered.
const MAX_PROCESSES: usize = 512;
/// Of the time, one part in so many is spent reading at most.
const SHARE: u32 = 50;
/// For the memory of a process to answer.
const READ_WITHIN: Duration = Duration::from_secs(10);
/// Series of one process, and of all.
const SERIES: (usize, usize) = (8, 256);
/// Findings of less confidence are not logged.
const LOGGED: f64 = 0.9;

/// Findings of one process.
pub(super) struct Found {
    watched: Watched,
    findings: Vec<Finding>,
}

/// Findings of leaks, for whoever asks.
pub(super) struct Leaks {
    found: Mutex<BTreeMap<u32, Arc<Found>>>,
    series: IntGaugeVec,
}

impl Leaks {
    pub(super) fn new() -> prometheus::Result<Self> {
        let help =
            "Goroutines that are believed to leak, by the function and line to look at and the shape of the leak.";
        let labels = ["pid", "exe", "function", "location", "pattern"];
        let series = IntGaugeVec::new(Opts::new("parkranger_leak_goroutines", help), &labels)?;
        Ok(Self { found: Mutex::default(), series })
    }

    /// The metric, to be registered.
    pub(super) fn series(&self) -> IntGaugeVec {
        self.series.clone()
    }

    fn of(&self, pid: u32) -> Option<Arc<Found>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).get(&pid).cloned()
    }

    fn publish(&self, found: BTreeMap<u32, Arc<Found>>) {
        self.series.reset();
        let shown = found.values().flat_map(|one| {
            let findings = one.findings.iter().filter(|finding| finding.confidence >= leaks::SHOWN);
            findings.take(SERIES.0).map(move |finding| (&one.watched, finding))
        });
        for (watched, finding) in shown.take(SERIES.1) {
            let (pid, location) = (watched.pid.to_string(), finding.location());
            let labels = [&pid, &watched.exe, finding.function(), &location, finding.pattern.name()];
            let goroutines = i64::try_from(finding.goroutines).unwrap_or(i64::MAX);
            self.series.with_label_values(&labels).set(goroutines);
        }
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = found;
    }
}

/// `/api/v1/processes/{pid}/leaks`
pub(super) async fn answer(
    Extracted(state): Extracted<Arc<State>>,
    Path(of): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    let params = Params::of(&uri, Some(&["least"]))?;
    let least: f64 = params.parsed("least")?.unwrap_or(leaks::SHOWN);
    if !(0.0..=1.0).contains(&least) {
        return Err(Problem::bad("least: 0 to 1"));
    }
    let of = pid(&of)?;
    let snapshot = state.snapshot()?;
    process(&snapshot, of)?;
    let found = state.leaks.of(of);
    let bytes = made(move || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let (watched, findings) = match &found {
            Some(found) => {
                let shown = found.findings.iter().filter(|finding| finding.confidence >= least).cloned();
                (found.watched.clone(), shown.collect())
            }
            // It has only begun.
            None => (Watched::nothing(of), Vec::new()),
        };
        export::findings::write_json(&watched, &findings, &mut bytes)?;
        Ok(bytes)
    });
    let bytes = bytes.await?.map_err(|error| Problem::internal(format!("the answer failed: {error}")))?;
    Ok(whole("application/json", bytes))
}

/// Begins to look for leaks.
pub(super) fn start(state: Arc<State>, interval: Duration) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut job = Job { state, interval, known: HashMap::new() };
        loop {
            let begun = Instant::now();
            let Some(snapshot) = job.state.latest() else {
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            };
            job.forget(&snapshot);
            let wanted: Vec<(ProcessId, u32, u64)> = snapshot
                .processes
                .iter()
                .filter(|process| !process.ended)
                .map(|process| (process.id, process.pid, process.start_time))
                .collect();
            drop(snapshot);
            for (id, pid, start_time) in wanted {
                let read = spawn_blocking(move || {
                    let took = job.read(id, pid, start_time);
                    (job, took)
                });
                let took = match read.await {
                    Ok((same, took)) => {
                        job = same;
                        took
                    }
                    Err(error) => {
                        warn!("leaks are not looked for any more: {error}");
                        return;
                    }
                };
                tokio::time::sleep(took * SHARE).await;
            }
            job.publish();
            tokio::time::sleep(interval.saturating_sub(begun.elapsed())).await;
        }
    })
}

struct Job {
    state: Arc<State>,
    interval: Duration,
    known: HashMap<ProcessId, Known>,
}

/// History of a process.
struct Known {
    pid: u32,
    /// `None` where it is not asked, or not again.
    subject: Option<GoProcess>,
    begun: Instant,
    history: History,
    /// When it is to be read again, and how many intervals later than the last time.
    due: Instant,
    pause: u32,
    goroutines: usize,
    circumstances: Circumstances,
    logged: HashSet<(leaks::Pattern, String)>,
    found: Option<Arc<Found>>,
}

impl Job {
    fn forget(&mut self, snapshot: &Snapshot) {
        let alive: HashSet<ProcessId> =
            snapshot.processes.iter().filter(|process| !process.ended).map(|process| process.id).collect();
        self.known.retain(|id, _| alive.contains(id));
    }

    /// Reads one process, and says how long that took.
    fn read(&mut self, id: ProcessId, pid: u32, start_time: u64) -> Duration {
        let begin = Instant::now();
        if !self.known.contains_key(&id) {
            if self.known.len() >= MAX_PROCESSES {
                return Duration::ZERO;
            }
            // Nothing is read of it before it has been there for an interval.
            self.known.insert(id, Known::new(pid));
            return Duration::ZERO;
        }
        let limits = self.limits(&id);
        let subjects = &self.state.subjects;
        let Some(known) = self.known.get_mut(&id) else { return Duration::ZERO };
        if known.history.begun().is_none() && known.subject.is_none() && known.begun.elapsed() >= self.interval / 2 {
            known.subject = subjects.subject(pid).ok().filter(|one| one.identity().start_time == start_time);
        }
        if known.due > begin {
            return Duration::ZERO;
        }
        known.history.set_limits(limits);
        if let Err(why) = known.read() {
            debug!("process {pid}: leaks are not looked for any more: {why}");
            known.subject = None;
        }
        known.due = begin + self.interval * known.pause;
        begin.elapsed()
    }

    /// Bounds of a process's history: what the others leave.
    fn limits(&self, id: &ProcessId) -> Limits {
        let others = self.known.iter().filter(|(other, _)| *other != id).map(|(_, known)| &known.history);
        let (goroutines, sites) = others.fold((0, 0), |(goroutines, sites), history| {
            (goroutines + history.members().len(), sites + history.sites().count())
        });
        // A few are always to be had.
        Limits {
            goroutines: MOST.goroutines.saturating_sub(goroutines).clamp(64, LIMITS.goroutines),
            sites: MOST.sites.saturating_sub(sites).clamp(8, LIMITS.sites),
            ..LIMITS
        }
    }

    fn publish(&self) {
        let found = self.known.values().filter_map(|known| Some((known.pid, Arc::clone(known.found.as_ref()?))));
        self.state.leaks.publish(found.collect());
    }
}

impl Known {
    fn new(pid: u32) -> Self {
        Self {
            pid,
            subject: None,
            begun: Instant::now(),
            history: History::new(LIMITS),
            due: Instant::now(),
            pause: 1,
            goroutines: 0,
            circumstances: Circumstances::default(),
            logged: HashSet::new(),
            found: None,
        }
    }

    fn read(&mut self) -> Result<(), CensusError> {
        let Some(subject) = &self.subject else { return Ok(()) };
        let detail = Detail { stacks: true, labels: false, waits: true };
        let census = subject.census(detail, READ_WITHIN, ())?;
        let names = subject.names();
        let mut dump = subject.dump(&census, &names);
        dump.selected = (0..census.goroutines.len()).collect();
        self.history.observe(Arc::new(export::population(&dump, subject.main_module(), self.begun.elapsed())));
        let findings = leaks::findings(&self.history, self.circumstances, 0.2);
        let watched = Watched {
            pid: self.pid,
            exe: subject.exe().to_owned(),
            go_version: subject.binary().go_version().raw.clone(),
            goroutines: census.goroutines.len() as u64,
            watched: self.history.now().saturating_sub(self.history.begun().unwrap_or_default()),
            stride: self.history.stride(),
        };
        for finding in findings.iter().filter(|finding| finding.confidence >= LOGGED) {
            let location = finding.location();
            if self.logged.len() < SERIES.1 && self.logged.insert((finding.pattern, location.clone())) {
                info!(
                    pid = self.pid,
                    exe = watched.exe,
                    pattern = finding.pattern.name(),
                    function = finding.function(),
                    location,
                    goroutines = finding.goroutines,
                    per_hour = finding.per_hour.round(),
                    confidence = (finding.confidence * 100.0).round() / 100.0,
                    "goroutines leak: {}",
                    finding.pattern.says()
                );
            }
        }
        let same = census.goroutines.len() == self.goroutines;
        self.pause = if same { (self.pause * 2).min(SELDOM) } else { 1 };
        self.goroutines = census.goroutines.len();
        self.history.forget_latest();
        self.found = Some(Arc::new(Found { watched, findings }));
        Ok(())
    }
}
