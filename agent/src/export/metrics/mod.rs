//! One snapshot as metrics in Prometheus's conventions: base units, `_total` for what only grows, a HELP for each.
//!
//! Labels `pid` and `exe` say which process. Sites have series of their own as [`SiteBook`] chooses, the rest of a
//! process's sites is summed under `function="other"`: every event is counted in exactly one of them.

mod by_binary;
mod family;
mod governed;
mod sites;
mod story;

use std::collections::BTreeMap;

use parkranger_common::loss::HostLoss;
use prometheus::{
    TextEncoder,
    proto::{LabelPair, MetricFamily},
};

use by_binary::OfBinaries;
use family::{Family, label};
use governed::Governed;
pub use sites::SiteBook;
use sites::SiteCounts;
use story::Story;

use crate::{
    program::Numbers,
    snapshot::{Contexts, ProcessContext, ProcessSnapshot, Snapshot},
};

/// The content type of the text.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Writes a snapshot in Prometheus's text format.
///
/// # Errors
///
/// Errors of encoding the families.
pub fn render(snapshot: &Snapshot, facts: &Contexts, book: &mut SiteBook) -> prometheus::Result<String> {
    TextEncoder::new().encode_to_string(&families(snapshot, facts, book))
}

/// A snapshot as metric families.
#[must_use]
pub fn families(snapshot: &Snapshot, facts: &Contexts, book: &mut SiteBook) -> Vec<MetricFamily> {
    let mut families = Families::new();
    let unknown = ProcessContext::default();
    // Who comes and goes has the series of its executable only.
    let own = || snapshot.processes.iter().filter(|process| !process.brief);
    for process in own() {
        families.process(process, facts.get(&process.id).unwrap_or(&unknown));
    }
    book.begin();
    for process in own() {
        families.sites(process, &book.choose(process));
    }
    book.end();
    families.host(snapshot);
    families.of_binaries.add(snapshot);
    families.into_all()
}

/// The families of one exposition.
struct Families {
    info: Family,
    goroutines: Family,
    births: Family,
    exits: Family,
    parks: Family,
    waits: Family,
    baseline: Family,
    audits: Family,
    drift: Family,
    losses: Family,
    stacks: Family,
    sites: Family,
    site_goroutines: Family,
    site_births: Family,
    site_exits: Family,
    site_parks: Family,
    site_stacks: Family,
    governed: Governed,
    story: Story,
    of_binaries: OfBinaries,
    runtime: Runtime,
    processes: Family,
    refused: Family,
    not_looked_at: Family,
    host_losses: Family,
    time: Family,
}

/// What the Go runtime says of itself.
struct Runtime {
    cycles: Family,
    pauses: Family,
    heap_goal: Family,
    heap_live: Family,
    threads: Family,
    processors: Family,
    idle_processors: Family,
    run_queue: Family,
    local_queues: Family,
    longest_queue: Family,
}

impl Families {
    fn new() -> Self {
        let counter = |name, help| Family::counter(&format!("parkranger_{name}"), help);
        let gauge = |name, help| Family::gauge(&format!("parkranger_{name}"), help);
        Self {
            info: gauge("process_info", "A watched Go process; 1."),
            goroutines: gauge("goroutines", "Live goroutines; kind user is what runtime.NumGoroutine counts."),
            births: counter("births_total", "Goroutines created since the process is watched."),
            exits: counter("exits_total", "Goroutines ended since the process is watched."),
            parks: counter("parks_total", "Times a goroutine parked since the process is watched."),
            waits: counter("waits_total", "Parks by the runtime's own wait reason."),
            baseline: gauge("baseline", "1 once goroutines older than the attach are counted in."),
            audits: counter("audits_total", "Comparisons of the ledger with a census, by result."),
            drift: counter("drift_goroutines_total", "Goroutines that ledger and census differed by; must stay 0."),
            losses: counter("losses_total", "What is known to be missing of a process, by name (docs/json.md)."),
            stacks: gauge("stack_bytes", "Memory of the stacks of all goroutines, at the last census."),
            sites: gauge("sites", "Creation sites of a process; series own or other."),
            site_goroutines: gauge("site_goroutines", "Live goroutines by creation site."),
            site_births: counter("site_births_total", "Goroutines created, by creation site."),
            site_exits: counter("site_exits_total", "Goroutines ended, by creation site."),
            site_parks: counter("site_parks_total", "Parks, by creation site."),
            site_stacks: gauge(
                "site_stack_bytes",
                "Memory of goroutines' stacks at the last census, by creation site.",
            ),
            governed: Governed::new(),
            story: Story::new(),
            of_binaries: OfBinaries::new(),
            runtime: Runtime::new(),
            processes: gauge("processes", "Go processes under watch."),
            refused: gauge("refused_processes", "Go processes that cannot be watched."),
            not_looked_at: gauge("processes_not_looked_at", "Processes that nobody could look at, by reason."),
            host_losses: counter("host_losses_total", "What was lost before it was known whose it is, by name."),
            time: gauge("snapshot_timestamp_seconds", "When these counters were read."),
        }
    }

    fn process(&mut self, process: &ProcessSnapshot, facts: &ProcessContext) {
        let own = labels(process);
        let with = |name, value: &str| own.iter().cloned().chain([label(name, value)]).collect::<Vec<_>>();
        let library = process.library.as_deref().unwrap_or_default();
        let text = |name: &'_ Option<String>| name.clone().unwrap_or_default();
        let place = &facts.place;
        let info = [
            label("go_version", &process.go_version),
            label("library", library),
            label("layout", &process.layout),
            label("container", &text(&place.container)),
            label("pod", &text(&place.pod)),
            label("unit", &text(&place.unit)),
        ];
        self.info.add(own.iter().cloned().chain(info).collect(), 1.0);
        // What is not known yet is not there: a scraper would keep a false number. What has ended has nothing now.
        let now = !process.ended;
        if process.user_is_known && now {
            self.goroutines.add(with("kind", "user"), process.user as f64);
        }
        if process.baseline && now {
            self.goroutines.add(with("kind", "system"), process.system as f64);
        }
        if now {
            self.baseline.add(own.clone(), f64::from(u8::from(process.baseline)));
            if let Some(bytes) = process.stack_bytes {
                self.stacks.add(own.clone(), bytes as f64);
            }
        }
        self.births.add(own.clone(), process.births as f64);
        self.exits.add(own.clone(), process.exits as f64);
        self.parks.add(own.clone(), process.parks as f64);
        for (reason, parks) in by_reason(process) {
            self.waits.add(with("reason", reason), parks as f64);
        }
        self.audits.add(with("result", "settled"), process.audits.settled as f64);
        self.audits.add(with("result", "repeated"), process.audits.repeated as f64);
        self.drift.add(own.clone(), process.audits.drift as f64);
        for (loss, count) in &process.losses {
            self.losses.add(with("loss", loss), *count as f64);
        }
        self.governed.add(&own, process);
        self.story.add(&own, process);
        self.runtime.add(&own, &facts.numbers);
    }

    fn sites(&mut self, process: &ProcessSnapshot, chosen: &sites::Chosen<'_>) {
        let own = labels(process);
        let with = |name, value: &str| own.iter().cloned().chain([label(name, value)]).collect::<Vec<_>>();
        if !process.ended {
            self.sites.add(with("series", "own"), chosen.sites.len() as f64);
            self.sites.add(with("series", "other"), chosen.others as f64);
        }
        let is_live = process.baseline && !process.ended;
        let stacks = |bytes: u64| process.stack_bytes.filter(|_| !process.ended).map(|_| bytes);
        for (site, counts, bytes) in &chosen.sites {
            let location = if site.line == 0 { site.file.clone() } else { format!("{}:{}", site.file, site.line) };
            let site = [
                label("function", &site.function),
                label("location", &location),
                label("start_function", &site.start_function),
            ];
            let labels = own.iter().cloned().chain(site).collect();
            self.site(labels, counts, is_live, stacks(*bytes));
        }
        let other = [label("function", "other"), label("location", ""), label("start_function", "")];
        let labels = own.iter().cloned().chain(other).collect();
        self.site(labels, &chosen.other, is_live, stacks(chosen.other_stack_bytes));
    }

    fn site(&mut self, labels: Vec<LabelPair>, counts: &SiteCounts, is_live: bool, stack_bytes: Option<u64>) {
        if is_live {
            self.site_goroutines.add(labels.clone(), counts.live as f64);
        }
        self.site_births.add(labels.clone(), counts.births as f64);
        self.site_exits.add(labels.clone(), counts.exits as f64);
        if let Some(bytes) = stack_bytes {
            self.site_stacks.add(labels.clone(), bytes as f64);
        }
        self.site_parks.add(labels, counts.parks as f64);
    }

    fn host(&mut self, snapshot: &Snapshot) {
        let watched = snapshot.processes.iter().filter(|process| !process.ended).count();
        self.processes.add(Vec::new(), watched as f64);
        self.refused.add(Vec::new(), snapshot.refused as f64);
        for (why, count) in &snapshot.not_looked_at {
            self.not_looked_at.add(vec![label("reason", why)], *count as f64);
        }
        for loss in HostLoss::ALL {
            let count = snapshot.losses.get(loss.name()).copied().unwrap_or_default();
            self.host_losses.add(vec![label("loss", loss.name())], count as f64);
        }
        let time = snapshot.time.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.time.add(Vec::new(), time.as_secs_f64());
        self.governed.host(snapshot);
    }

    fn into_all(self) -> Vec<MetricFamily> {
        let mut all = vec![
            self.info,
            self.goroutines,
            self.births,
            self.exits,
            self.parks,
            self.waits,
            self.baseline,
            self.audits,
            self.drift,
            self.losses,
            self.stacks,
            self.sites,
            self.site_goroutines,
            self.site_births,
            self.site_exits,
            self.site_parks,
            self.site_stacks,
            self.processes,
            self.refused,
            self.not_looked_at,
            self.host_losses,
            self.time,
        ];
        all.extend(self.governed.into_all());
        all.extend(self.story.into_all());
        all.extend(self.of_binaries.into_all());
        all.extend(self.runtime.into_all());
        all.into_iter().filter_map(Family::finish).collect()
    }
}

impl Runtime {
    fn new() -> Self {
        let counter = |name, help| Family::counter(&format!("parkranger_go_{name}"), help);
        let gauge = |name, help| Family::gauge(&format!("parkranger_go_{name}"), help);
        Self {
            cycles: counter("gc_cycles_total", "Completed garbage collections."),
            pauses: counter("gc_pause_seconds_total", "Time the world was stopped for garbage collections."),
            heap_goal: gauge(
                "heap_goal_bytes",
                "Size that GOGC lets the heap grow to before the next collection ends; GOMEMLIMIT may bring it forward.",
            ),
            heap_live: gauge("heap_live_bytes", "Bytes of the heap in use, whole spans as they are allocated."),
            threads: gauge("threads", "Threads of the runtime (Ms)."),
            processors: gauge("processors", "GOMAXPROCS (Ps)."),
            idle_processors: gauge("idle_processors", "Ps that have nothing to run."),
            run_queue: gauge("global_run_queue_goroutines", "Runnable goroutines in the global queue."),
            local_queues: gauge("local_run_queue_goroutines", "Runnable goroutines in the queues of all Ps."),
            longest_queue: gauge("longest_run_queue_goroutines", "Runnable goroutines in the longest queue of a P."),
        }
    }

    fn add(&mut self, own: &[LabelPair], numbers: &Numbers) {
        let add = |family: &mut Family, value: Option<f64>| {
            if let Some(value) = value {
                family.add(own.to_vec(), value);
            }
        };
        let nanoseconds = 1e-9;
        add(&mut self.cycles, numbers.gc_cycles.map(f64::from));
        add(&mut self.pauses, numbers.gc_pause_ns.map(|pause| pause as f64 * nanoseconds));
        add(&mut self.heap_goal, numbers.heap_goal_bytes.map(|bytes| bytes as f64));
        add(&mut self.heap_live, numbers.heap_live_bytes.map(|bytes| bytes as f64));
        add(&mut self.threads, numbers.threads.map(|threads| threads as f64));
        add(&mut self.processors, numbers.processors.map(f64::from));
        add(&mut self.idle_processors, numbers.idle_processors.map(f64::from));
        add(&mut self.run_queue, numbers.run_queue.map(f64::from));
        add(&mut self.local_queues, numbers.local_queues.map(|queues| queues.goroutines as f64));
        add(&mut self.longest_queue, numbers.local_queues.map(|queues| f64::from(queues.longest)));
    }

    fn into_all(self) -> [Family; 10] {
        [
            self.cycles,
            self.pauses,
            self.heap_goal,
            self.heap_live,
            self.threads,
            self.processors,
            self.idle_processors,
            self.run_queue,
            self.local_queues,
            self.longest_queue,
        ]
    }
}

fn labels(process: &ProcessSnapshot) -> Vec<LabelPair> {
    vec![label("pid", &process.pid.to_string()), label("exe", &process.exe)]
}

/// Parks by wait reason; of those without a site it is not known.
fn by_reason(process: &ProcessSnapshot) -> BTreeMap<&str, u64> {
    let mut waits: BTreeMap<&str, u64> =
        process.waits.iter().map(|(reason, parks)| (reason.as_str(), *parks)).collect();
    let unknown = process.parks.saturating_sub(waits.values().sum());
    if unknown > 0 {
        *waits.entry("unknown").or_default() += unknown;
    }
    waits
}
