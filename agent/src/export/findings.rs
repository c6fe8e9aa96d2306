//! Findings, as text for a person and as JSON (docs/json.md, "parkranger leaks").

use std::{
    fmt::Write as _,
    io::{self, Write},
    time::Duration,
};

use serde::Serialize;

use crate::leaks::Finding;

/// The process that findings are about.
#[derive(Clone, Debug)]
pub struct Watched {
    /// The process.
    pub pid: u32,
    /// Its executable.
    pub exe: String,
    /// The Go version it was built with.
    pub go_version: String,
    /// Goroutines there are, the runtime's own among them.
    pub goroutines: u64,
    /// The time it was watched.
    pub watched: Duration,
    /// One in how many goroutines was followed.
    pub stride: u64,
}

impl Watched {
    /// A process of which nothing is known yet.
    #[must_use]
    pub fn nothing(pid: u32) -> Self {
        let (exe, go_version) = (String::new(), String::new());
        Self { pid, exe, go_version, goroutines: 0, watched: Duration::ZERO, stride: 1 }
    }
}

/// Frames of the example that are printed.
const FRAMES: usize = 12;
/// Pieces of evidence that are printed.
const EVIDENCE: usize = 6;

/// `2h3m`, `45s`: two units at most.
fn span(duration: Duration) -> String {
    let rounded = match duration.as_secs() {
        0 => Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or_default()),
        seconds @ 1..600 => Duration::from_secs(seconds),
        seconds => Duration::from_secs(seconds / 60 * 60),
    };
    humantime::format_duration(rounded).to_string().replace(' ', "")
}

fn bytes(bytes: f64) -> String {
    match bytes {
        bytes if bytes >= 1e9 => format!("{:.1} GB", bytes / 1e9),
        bytes if bytes >= 1e6 => format!("{:.1} MB", bytes / 1e6),
        bytes => format!("{:.0} kB", bytes / 1e3),
    }
}

/// Writes findings for a person.
///
/// # Errors
///
/// Errors of writing to `out`.
pub fn write_text(watched: &Watched, findings: &[Finding], out: &mut impl Write) -> io::Result<()> {
    let Watched { pid, exe, go_version, goroutines, .. } = watched;
    let name = exe.rsplit('/').next().unwrap_or_default();
    writeln!(out, "{name}  pid {pid}  {go_version}  {goroutines} goroutines, watched {}", span(watched.watched))?;
    if watched.stride > 1 {
        writeln!(out, "~ one in {} goroutines was followed: numbers are estimates", watched.stride)?;
    }
    if findings.is_empty() {
        writeln!(out, "no leak found")?;
    }
    for (number, finding) in (1..).zip(findings) {
        out.write_all(one(number, finding).as_bytes())?;
    }
    out.flush()
}

fn one(number: usize, finding: &Finding) -> String {
    let mut text = String::new();
    let Finding { pattern, goroutines, arrived, departed, .. } = finding;
    let percent = finding.confidence * 100.0;
    let _ = writeln!(
        text,
        "\n{number}. {percent:.0} %  {}  {} {}: {}",
        pattern.name(),
        finding.function(),
        finding.location(),
        pattern.says()
    );
    let since = if finding.since_is_bound { "or longer" } else { "ago" };
    let (low, high) = finding.per_hour_bounds;
    let _ = writeln!(
        text,
        "   {goroutines} goroutines, the first {} {since}; {arrived} came and {departed} went in {}: {:.0} an hour ({low:.0} to \
         {high:.0})",
        span(finding.since),
        span(finding.watched),
        finding.per_hour
    );
    let _ = writeln!(
        text,
        "   stacks {}, {} more an hour; half have not moved for {}",
        bytes(finding.stack_bytes as f64),
        bytes(finding.bytes_per_hour()),
        span(finding.median_rest)
    );
    let site = &finding.site;
    if !site.created_at.function.is_empty() {
        let through = if site.caller.is_empty() { String::new() } else { format!(" for {}", site.caller) };
        let _ = writeln!(text, "   created at {}{through}, starts {}", site.created_at.short(), site.start_function);
    }
    let waits_on = if finding.waits_on.is_empty() { String::new() } else { format!(", {}", finding.waits_on) };
    let _ = writeln!(text, "   in {} [{}]{waits_on}", finding.place.at.short(), finding.example.state);
    for (at, share) in &finding.blamed {
        let _ = writeln!(text, "   opened by {at} ({:.0} % of those seen to)", share * 100.0);
    }
    for evidence in finding.evidence.iter().take(EVIDENCE) {
        let _ = writeln!(text, "   {} {}", if evidence.weight >= 0.0 { "+" } else { "-" }, evidence.says);
    }
    let _ = writeln!(text, "   to be certain: {}", pattern.proof());
    if let Some(goid) = finding.goids.first() {
        let _ = writeln!(text, "   goroutine {goid}:");
    }
    for frame in finding.example.frames.iter().take(FRAMES) {
        let _ = writeln!(text, "     {} {}:{}", frame.function, frame.file, frame.line);
    }
    text
}

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    pid: u32,
    exe: &'a str,
    go_version: &'a str,
    goroutines: u64,
    watched_ns: u64,
    followed_one_in: u64,
    findings: Vec<One<'a>>,
}

#[derive(Serialize)]
struct One<'a> {
    pattern: &'static str,
    confidence: f64,
    function: &'a str,
    location: String,
    says: &'static str,
    site: Site<'a>,
    place: Place<'a>,
    callers: Vec<Caller<'a>>,
    goroutines: u64,
    arrived: u64,
    departed: u64,
    per_hour: f64,
    per_hour_low: f64,
    per_hour_high: f64,
    since_ns: u64,
    since_is_bound: bool,
    median_rest_ns: u64,
    stack_bytes: u64,
    stack_bytes_per_hour: f64,
    waits_on: &'a str,
    evidence: Vec<Weighed<'a>>,
    proof: &'static str,
    goids: &'a [u64],
    stack: Vec<Line<'a>>,
}

#[derive(Serialize)]
struct Site<'a> {
    function: &'a str,
    file: &'a str,
    line: u32,
    start_function: &'a str,
    caller: &'a str,
}

#[derive(Serialize)]
struct Place<'a> {
    function: &'a str,
    file: &'a str,
    line: u32,
    state: &'a str,
}

#[derive(Serialize)]
struct Caller<'a> {
    at: &'a str,
    share: f64,
}

#[derive(Serialize)]
struct Weighed<'a> {
    says: &'a str,
    weight: f64,
}

#[derive(Serialize)]
struct Line<'a> {
    function: &'a str,
    file: &'a str,
    line: u32,
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Writes findings as one line of JSON.
///
/// # Errors
///
/// Errors of writing to `out`.
pub fn write_json(watched: &Watched, findings: &[Finding], out: &mut impl Write) -> io::Result<()> {
    let document = Document {
        schema: 1,
        pid: watched.pid,
        exe: &watched.exe,
        go_version: &watched.go_version,
        goroutines: watched.goroutines,
        watched_ns: nanoseconds(watched.watched),
        followed_one_in: watched.stride,
        findings: findings.iter().map(One::of).collect(),
    };
    serde_json::to_writer(&mut *out, &document)?;
    writeln!(out)?;
    out.flush()
}

impl<'a> One<'a> {
    fn of(finding: &'a Finding) -> Self {
        let created = &finding.site.created_at;
        let at = &finding.place.at;
        let (per_hour_low, per_hour_high) = finding.per_hour_bounds;
        let line =
            |frame: &'a crate::symbols::Frame| Line { function: &frame.function, file: &frame.file, line: frame.line };
        Self {
            pattern: finding.pattern.name(),
            confidence: finding.confidence,
            function: finding.function(),
            location: finding.location(),
            says: finding.pattern.says(),
            site: Site {
                function: &created.function,
                file: &created.file,
                line: created.line,
                start_function: &finding.site.start_function,
                caller: &finding.site.caller,
            },
            place: Place { function: &at.function, file: &at.file, line: at.line, state: &finding.example.state },
            callers: finding.blamed.iter().map(|(at, share)| Caller { at, share: *share }).collect(),
            goroutines: finding.goroutines,
            arrived: finding.arrived,
            departed: finding.departed,
            per_hour: finding.per_hour,
            per_hour_low,
            per_hour_high,
            since_ns: nanoseconds(finding.since),
            since_is_bound: finding.since_is_bound,
            median_rest_ns: nanoseconds(finding.median_rest),
            stack_bytes: finding.stack_bytes,
            stack_bytes_per_hour: finding.bytes_per_hour(),
            waits_on: &finding.waits_on,
            evidence: finding.evidence.iter().map(|one| Weighed { says: &one.says, weight: one.weight }).collect(),
            proof: finding.pattern.proof(),
            goids: &finding.goids,
            stack: finding.example.frames.iter().map(line).collect(),
        }
    }
}
