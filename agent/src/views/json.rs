//! A snapshot as JSON, schema version 1: a contract that others script against. Fields may be added, none renamed.
//! `docs/json.md` describes it.

use std::{collections::BTreeMap, io, time::SystemTime};

use serde::Serialize;

use crate::export::schema::{SCHEMA, rfc3339};

use super::story::{self, Spent, Story};
use crate::snapshot::{BinarySnapshot, Contexts, ProcessContext, ProcessSnapshot, SiteSnapshot, Snapshot};

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    time: String,
    processes: Vec<Process<'a>>,
    /// Sums over the processes of each executable since the agent began, by path.
    binaries: BTreeMap<&'a str, Binary>,
    /// What watching may cost a process, as a share of its own CPU time; null for whatever it does.
    budget: Option<f64>,
    /// Processes that could not be looked at, by reason; empty where there are none.
    not_looked_at: &'a BTreeMap<String, u64>,
    /// Losses that belong to no process; empty in a healthy run.
    losses: &'a BTreeMap<&'static str, u64>,
}

#[derive(Serialize)]
struct Binary {
    running: u64,
    ended: u64,
    comes_and_goes: bool,
    births: u64,
    exits: u64,
    parks: u64,
    /// Null while those of any process are not known.
    goroutines: Option<Goroutines>,
}

impl From<&BinarySnapshot> for Binary {
    fn from(sum: &BinarySnapshot) -> Self {
        Self {
            running: sum.running,
            ended: sum.ended,
            comes_and_goes: sum.comes_and_goes(),
            births: sum.births,
            exits: sum.exits,
            parks: sum.parks,
            goroutines: (sum.unknown == 0).then(|| Goroutines {
                live: sum.user.saturating_add(sum.system),
                user: sum.user,
                system: sum.system,
            }),
        }
    }
}

#[derive(Serialize)]
struct Process<'a> {
    pid: u32,
    start_time: u64,
    exe: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    library: Option<&'a str>,
    go_version: &'a str,
    layout: &'a str,
    fidelity: &'static str,
    /// What watching costs it, as a share of its own CPU time; null before it is known.
    cost: Option<f64>,
    fidelity_changes: u64,
    uncounted: Uncounted,
    #[serde(skip_serializing_if = "Option::is_none")]
    window_share: Option<f64>,
    baseline: bool,
    /// Births, exits and live goroutines of the process are exact although not all were counted.
    totals_exact: bool,
    /// Age of the census that the live goroutines are split up by site after; absent where they are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    split_age_seconds: Option<f64>,
    /// Age of the census that `doing` is of; null before the first.
    doing_age_seconds: Option<f64>,
    /// Births that the runtime counted and the probes did not.
    births_unseen: i64,
    audits: Audits,
    ended: bool,
    stopped: bool,
    goroutines: Goroutines,
    births: u64,
    exits: u64,
    parks: u64,
    /// Memory of the goroutines' stacks at the last census; null before the first.
    stack_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'a str>,
    losses: &'a BTreeMap<&'static str, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    story: Option<Story<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sites: Option<Vec<Site<'a>>>,
}

/// How long something was not counted at all, in seconds.
#[derive(Serialize)]
struct Uncounted {
    births_exits_seconds: f64,
    parks_seconds: f64,
}

/// How often ledger and census were compared, and by how many goroutines they differed.
#[derive(Serialize)]
struct Audits {
    settled: u64,
    repeated: u64,
    drift: u64,
}

#[derive(Serialize)]
struct Goroutines {
    live: i64,
    user: i64,
    system: i64,
}

#[derive(Serialize)]
struct Site<'a> {
    function: &'a str,
    file: &'a str,
    line: u32,
    start_function: &'a str,
    system: bool,
    births: u64,
    exits: u64,
    live: i64,
    parks: u64,
    stack_bytes: Option<u64>,
    waits: &'a BTreeMap<String, u64>,
    /// States of its goroutines at the last census.
    doing: &'a BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waited_longest_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waited_median_seconds: Option<f64>,
    approximate: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    waited: Option<BTreeMap<&'a str, Spent>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lived: Option<Spent>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    creation_stack: Vec<Frame<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    callers: Vec<Caller<'a>>,
}

#[derive(Serialize)]
struct Caller<'a> {
    frames: Vec<Frame<'a>>,
    births: u64,
    exits: u64,
    live: u64,
}

#[derive(Serialize)]
struct Frame<'a> {
    function: &'a str,
    file: &'a str,
    line: u32,
}

/// Writes a snapshot as one line.
///
/// # Errors
///
/// What writing says.
pub fn write(mut out: impl io::Write, snapshot: &Snapshot) -> io::Result<()> {
    write_document(&mut out, snapshot, None)
}

/// Writes a snapshot as one line, without the sites of its processes, but with `facts` of them.
///
/// # Errors
///
/// What writing says.
pub fn write_processes(mut out: impl io::Write, snapshot: &Snapshot, facts: &Contexts) -> io::Result<()> {
    write_document(&mut out, snapshot, Some(facts))
}

fn write_document(out: &mut impl io::Write, snapshot: &Snapshot, facts: Option<&Contexts>) -> io::Result<()> {
    let unknown = ProcessContext::default();
    let facts_of = |one: &ProcessSnapshot| facts.map(|facts| facts.get(&one.id).unwrap_or(&unknown));
    let document = Document {
        schema: SCHEMA,
        time: rfc3339(snapshot.time),
        processes: snapshot.processes.iter().map(|one| process(one, facts_of(one))).collect(),
        binaries: snapshot.binaries.iter().map(|(exe, sum)| (exe.as_str(), sum.into())).collect(),
        not_looked_at: &snapshot.not_looked_at,
        budget: snapshot.budget.map(|budget| rounded(budget.share(), 6)),
        losses: &snapshot.losses,
    };
    write_line(out, &document)
}

fn write_line(out: &mut impl io::Write, document: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, document)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Some of the sites of one process.
#[derive(Serialize)]
struct SitePage<'a> {
    schema: u32,
    time: String,
    pid: u32,
    start_time: u64,
    /// How many sites there are to page through.
    total: usize,
    offset: usize,
    sites: Vec<Site<'a>>,
}

/// Writes `page`, the sites of `process` from number `offset` on, out of `total`.
///
/// # Errors
///
/// What writing says.
pub fn write_sites(
    mut out: impl io::Write,
    time: SystemTime,
    process: &ProcessSnapshot,
    page: &[&SiteSnapshot],
    (offset, total): (usize, usize),
) -> io::Result<()> {
    let document = SitePage {
        schema: SCHEMA,
        time: rfc3339(time),
        pid: process.pid,
        start_time: process.start_time,
        total,
        offset,
        sites: page.iter().map(|one| site(one, process)).collect(),
    };
    write_line(&mut out, &document)
}

/// With its sites, or with facts of it.
fn process<'a>(process: &'a ProcessSnapshot, facts: Option<&'a ProcessContext>) -> Process<'a> {
    let place = facts.map(|facts| &facts.place);
    Process {
        pid: process.pid,
        start_time: process.start_time,
        exe: &process.exe,
        library: process.library.as_deref(),
        go_version: &process.go_version,
        layout: &process.layout,
        fidelity: process.governed.fidelity.name(),
        cost: process.governed.cost.map(|cost| rounded(cost, 6)),
        fidelity_changes: process.governed.steps,
        uncounted: Uncounted {
            births_exits_seconds: rounded(process.missing.lives_for.as_secs_f64(), 3),
            parks_seconds: rounded(process.missing.parks_for.as_secs_f64(), 3),
        },
        window_share: process.missing.slice_share.map(|share| rounded(share, 6)),
        baseline: process.baseline,
        totals_exact: process.totals_are_exact || process.missing.has_all_lives(),
        split_age_seconds: process.split_age.map(|age| rounded(age.as_secs_f64(), 3)),
        doing_age_seconds: process.doing_age.map(|age| rounded(age.as_secs_f64(), 3)),
        births_unseen: process.births_unseen,
        audits: Audits {
            settled: process.audits.settled,
            repeated: process.audits.repeated,
            drift: process.audits.drift,
        },
        ended: process.ended,
        stopped: process.stopped,
        goroutines: Goroutines { live: process.live(), user: process.user, system: process.system },
        births: process.births,
        exits: process.exits,
        parks: process.parks,
        stack_bytes: process.stack_bytes,
        container: place.and_then(|place| place.container.as_deref()),
        pod: place.and_then(|place| place.pod.as_deref()),
        unit: place.and_then(|place| place.unit.as_deref()),
        losses: &process.losses,
        story: process.story.as_deref().map(story::of),
        sites: facts.is_none().then(|| process.sites.iter().map(|one| site(one, process)).collect()),
    }
}

/// A number with so many decimals: more are noise.
pub(super) fn rounded(number: f64, decimals: i32) -> f64 {
    let scale = 10f64.powi(decimals);
    (number * scale).round() / scale
}

fn site<'a>(site: &'a SiteSnapshot, process: &ProcessSnapshot) -> Site<'a> {
    Site {
        function: &site.function,
        file: &site.file,
        line: site.line,
        start_function: &site.start_function,
        system: site.system,
        births: site.births,
        exits: site.exits,
        live: site.live,
        parks: site.parks,
        stack_bytes: site.stack_bytes,
        waits: &site.waits,
        doing: &site.doing,
        waited_longest_seconds: site.waited_longest.map(|time| rounded(time.as_secs_f64(), 3)),
        waited_median_seconds: site.waited_median.map(|time| rounded(time.as_secs_f64(), 3)),
        approximate: !process.missing.is_nothing(),
        waited: process.story.as_ref().map(|_| story::waited(site)),
        lived: process.story.as_ref().map(|_| story::spent(site.lived)),
        creation_stack: frames(&site.creation_stack),
        callers: site
            .callers
            .iter()
            .map(|caller| Caller {
                frames: frames(&caller.frames),
                births: caller.births,
                exits: caller.exits,
                live: caller.live(),
            })
            .collect(),
    }
}

fn frames(frames: &[crate::symbols::Frame]) -> Vec<Frame<'_>> {
    frames.iter().map(|frame| Frame { function: &frame.function, file: &frame.file, line: frame.line }).collect()
}
