//! `parkranger leaks`: which lines of one process leak goroutines, why, and how sure that is.
//!
//! Nothing but censuses is taken, no probe is attached: their rate follows what one takes, so that reading stays below a
//! twentieth of one CPU.

use std::{
    io::{self, BufWriter, IsTerminal as _, Write as _},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use clap::Args;

use super::{
    exit::{Exit, Failure},
    target::{OneTarget, Symbols},
};
use crate::{
    census::{CensusError, Detail},
    dump::{GoProcess, GoProcesses, Names},
    export::{self, findings::Watched},
    history::{History, Limits, population::Population},
    host::Proc,
    leaks::{self, Circumstances, Finding, Pattern},
    printable,
};

/// Shortest time between two censuses.
const INTERVAL: Duration = Duration::from_secs(1);
/// Of the time, one part in so many is spent reading at most.
const SHARE: u32 = 20;
/// Nothing is sure before that.
const EARLIEST: Duration = Duration::from_secs(10);
/// Time that the findings must be the same to be sure.
const STEADY: Duration = Duration::from_secs(5);
/// Censuses in quick succession look for who leaves bodies of responses open: so often, so long, with so much between two,
/// until somebody was seen so often.
const LOOKS: u32 = 8;
const LOOK: Duration = Duration::from_secs(3);
const CLOSE: Duration = Duration::from_micros(500);
const ENOUGH_SIGHTS: u64 = 3;
/// Between two lines that say how it goes.
const PROGRESS: Duration = Duration::from_secs(5);

const EXAMPLES: &str = "\
Examples:
  parkranger leaks 4242                  watches for a minute at most, ends early when it is sure
  parkranger leaks 4242 --for 10m        for slow leaks
  parkranger leaks 4242 --since-start    what the ages of goroutines tell at once";

#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Options {
    /// The process: its pid, or the name of its executable.
    target: OneTarget,
    /// Time to watch; it ends earlier where it is sure before.
    #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    lasts: Duration,
    /// Judge by what is there now: two censuses, 3 seconds apart.
    #[arg(long, conflicts_with = "lasts")]
    since_start: bool,
    /// Watch for the whole time, however sure it is.
    #[arg(long)]
    whole: bool,
    /// Write JSON (see docs/json.md).
    #[arg(long)]
    json: bool,
    /// Also findings of less confidence, down to this: 0.2.
    #[arg(long, value_name = "0..1", default_value_t = leaks::SHOWN)]
    least: f64,
    /// Source of the names of functions and lines.
    #[arg(long, value_enum, default_value_t, value_name = "SOURCE")]
    symbols: Symbols,
    /// Give up when the process's memory does not answer for this long.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// One process, and what is remembered of it.
struct Watch<'a> {
    options: &'a Options,
    pid: u32,
    subject: &'a GoProcess,
    names: Names<'a>,
    begun: Instant,
    history: History,
    circumstances: Circumstances,
    /// Close looks that are left.
    looks: u32,
}

pub(super) fn run(options: &Options) -> Result<Exit, Failure> {
    let proc = Proc::default();
    let pid = options.target.pid(&proc)?;
    let failure = |why| failure(pid, why);
    let subject = GoProcesses::new(proc.clone(), options.symbols.go_binaries()).subject(pid).map_err(failure)?;
    let started = proc.boot_time().map(|boot| boot + subject.identity().since_boot());
    let process_age = started.and_then(|started| SystemTime::now().duration_since(started).ok());
    let mut watch = Watch {
        options,
        pid,
        subject: &subject,
        names: subject.names(),
        begun: Instant::now(),
        history: History::new(Limits::default()),
        circumstances: Circumstances { process_age },
        looks: LOOKS,
    };
    let findings = watch.all().map_err(failure)?;
    let watched = Watched {
        pid,
        exe: watch.subject.exe().to_owned(),
        go_version: watch.subject.binary().go_version().raw.clone(),
        goroutines: watch.history.latest().map_or(0, |population| population.len()),
        watched: watch.history.now().saturating_sub(watch.history.begun().unwrap_or_default()),
        stride: watch.history.stride(),
    };
    let mut out = printable::Lines::new(BufWriter::new(io::stdout().lock()));
    if options.json {
        export::findings::write_json(&watched, &findings, &mut out)?;
    } else {
        export::findings::write_text(&watched, &findings, &mut out)?;
    }
    Ok(if findings.is_empty() { Exit::Done } else { Exit::Found })
}

/// True where a finding says nothing of the line that is to blame unless somebody is seen there.
fn needs_caller(finding: &Finding) -> bool {
    matches!(finding.pattern, Pattern::ResponseBody | Pattern::IdleConnection) && finding.confidence > 0.4
}

fn failure(pid: u32, why: CensusError) -> Failure {
    match why {
        CensusError::Host(error) => Failure::Host(error),
        why => Failure::Census { pid, why },
    }
}

impl Watch<'_> {
    fn all(&mut self) -> Result<Vec<Finding>, CensusError> {
        let lasts = if self.options.since_start { Duration::from_secs(3) } else { self.options.lasts };
        let mut steady: Option<(Vec<(Pattern, String)>, Instant)> = None;
        let mut told = Instant::now();
        loop {
            let took = Instant::now();
            let population = self.census(true)?;
            self.history.observe(population);
            let findings = leaks::findings(&self.history, self.circumstances, 0.2);
            let took = took.elapsed();
            self.look_for_callers(&findings)?;
            if told.elapsed() >= PROGRESS {
                told = Instant::now();
                self.progress(&findings, lasts);
            }
            let elapsed = self.begun.elapsed();
            if elapsed >= lasts || (!self.options.whole && self.is_sure(&findings, &mut steady)) {
                break;
            }
            thread::sleep((took * SHARE).max(INTERVAL).min(lasts.saturating_sub(elapsed)));
        }
        if io::stderr().is_terminal() {
            eprint!("\r\x1b[K");
        }
        Ok(leaks::findings(&self.history, self.circumstances, self.options.least))
    }

    fn census(&self, waits: bool) -> Result<Arc<Population>, CensusError> {
        let detail = Detail { stacks: true, labels: false, waits };
        let census = self.subject.census(detail, self.options.timeout, ())?;
        let mut dump = self.subject.dump(&census, &self.names);
        dump.selected = (0..census.goroutines.len()).collect();
        Ok(Arc::new(export::population(&dump, self.subject.main_module(), self.begun.elapsed())))
    }

    /// A connection does not say for whom it was opened: many quick looks find somebody who opens one.
    fn look_for_callers(&mut self, findings: &[Finding]) -> Result<(), CensusError> {
        let found = |history: &History| history.callers().sights() >= ENOUGH_SIGHTS;
        if self.looks == 0 || found(&self.history) || !findings.iter().any(needs_caller) {
            return Ok(());
        }
        self.looks -= 1;
        let begun = Instant::now();
        while begun.elapsed() < LOOK && !found(&self.history) {
            let took = Instant::now();
            let population = self.census(false)?;
            self.history.note_callers(&population);
            thread::sleep(took.elapsed().max(CLOSE));
        }
        Ok(())
    }

    /// True where more watching will hardly change anything: some finding is sure, none is in doubt, and that has been so for a
    /// while.
    fn is_sure(&self, findings: &[Finding], steady: &mut Option<(Vec<(Pattern, String)>, Instant)>) -> bool {
        let sure = findings.iter().any(|finding| finding.confidence >= leaks::SURE)
            && (self.looks == 0 || !findings.iter().any(|finding| needs_caller(finding) && finding.blamed.is_empty()))
            && findings.iter().all(|finding| finding.confidence >= 0.9 || finding.confidence < 0.35);
        if !sure || self.begun.elapsed() < EARLIEST {
            *steady = None;
            return false;
        }
        let shown = findings.iter().filter(|finding| finding.confidence >= 0.9);
        let mut shown: Vec<_> = shown.map(|finding| (finding.pattern, finding.location())).collect();
        shown.sort();
        match steady {
            Some((before, since)) if *before == shown => since.elapsed() >= STEADY,
            _ => {
                *steady = Some((shown, Instant::now()));
                false
            }
        }
    }

    fn progress(&self, findings: &[Finding], lasts: Duration) {
        let elapsed = self.begun.elapsed().as_secs();
        let best = findings.first().map_or_else(
            || "nothing suspicious yet".to_owned(),
            |finding| format!("{:.0} % {} {}", finding.confidence * 100.0, finding.pattern.name(), finding.location()),
        );
        let line = format!("process {}, {elapsed} of {} s: {best}", self.pid, lasts.as_secs());
        if io::stderr().is_terminal() {
            eprint!("\r\x1b[K{line}");
            let _ = io::stderr().flush();
        } else {
            eprintln!("parkranger: {line}");
        }
    }
}
