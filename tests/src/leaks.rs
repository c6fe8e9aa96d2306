//! The corpus of leaking and healthy services: what the agent finds in each, and how often it is right.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use parkranger::census::Detail;
use parkranger::dump::GoProcesses;
use parkranger::export::population;
use parkranger::go_binary::GoBinaries;
use parkranger::history::{History, Limits};
use parkranger::host::Proc;
use parkranger::leaks::{Circumstances, Finding, SHOWN, findings};
use parkranger::symbols::SymbolSource;
use serde::Deserialize;

/// Services that run at the same time.
const AT_ONCE: usize = 28;
/// Age of a service when the watch begins.
const BEFORE: Duration = Duration::from_secs(4);

/// One service of the corpus, as it describes itself.
#[derive(Debug, Clone, Deserialize)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// The shape of its leak; "" where nothing leaks.
    pub pattern: String,
    /// Functions that a finding may rightly point to.
    pub functions: Vec<String>,
    /// Written last, and only measured on.
    pub held_out: bool,
}

/// Findings about one service after some time.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// The service.
    pub service: Service,
    /// Time that it had been watched.
    pub after: Duration,
    /// All findings, however unsure.
    pub findings: Vec<Finding>,
}

impl Verdict {
    /// True where a finding points to the leak.
    #[must_use]
    pub fn is_right(&self, finding: &Finding) -> bool {
        let places = [
            finding.function(),
            &finding.site.caller,
            &finding.site.created_at.function,
            &finding.site.start_function,
            &finding.place.at.function,
        ];
        let points = |function: &String| places.iter().any(|place| place.starts_with(function.as_str()));
        !self.service.pattern.is_empty() && self.service.functions.iter().any(points)
    }

    /// The findings that would be shown.
    pub fn shown(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.confidence >= SHOWN)
    }
}

/// The services of a corpus program.
///
/// # Errors
/// When it does not list them.
pub fn services(program: &Path) -> Result<Vec<Service>> {
    let output = Command::new(program).arg("list").output()?;
    let text = String::from_utf8(output.stdout)?;
    text.lines().map(|line| serde_json::from_str(line).context(line.to_owned())).collect()
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a service and watches it until the last of these times.
fn watch(program: &Path, service: &Service, times: &[Duration]) -> Result<Vec<Verdict>> {
    let mut child =
        Killed(Command::new(program).arg(&service.name).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?);
    let mut line = String::new();
    BufReader::new(child.0.stdout.take().context("stdout")?).read_line(&mut line)?;
    thread::sleep(BEFORE);
    let pid = child.0.id();
    let subjects = GoProcesses::new(Proc::default(), Arc::new(GoBinaries::new(SymbolSource::Auto)));
    let subject = subjects.subject(pid)?;
    let names = subject.names();
    let begun = Instant::now();
    let mut history = History::new(Limits::default());
    let mut looks = 8;
    let mut verdicts = Vec::new();
    let circumstances = Circumstances { process_age: Some(BEFORE) };
    for after in times {
        while begun.elapsed() < *after + Duration::from_millis(300) {
            let census =
                subject.census(Detail { stacks: true, labels: false, waits: true }, Duration::from_secs(30), ())?;
            let mut dump = subject.dump(&census, &names);
            dump.selected = (0..census.goroutines.len()).collect();
            history.observe(Arc::new(population(&dump, subject.main_module(), begun.elapsed())));
            let body = |finding: &Finding| matches!(finding.pattern.name(), "response-body" | "idle-connection");
            if looks > 0 && history.callers().sights() < 3 && findings(&history, circumstances, 0.4).iter().any(body) {
                looks -= 1;
                let look = Instant::now();
                while look.elapsed() < Duration::from_secs(3) && history.callers().sights() < 3 {
                    let detail = Detail { stacks: true, labels: false, waits: false };
                    let census = subject.census(detail, Duration::from_secs(30), ())?;
                    let mut dump = subject.dump(&census, &names);
                    dump.selected = (0..census.goroutines.len()).collect();
                    history.note_callers(&population(&dump, subject.main_module(), begun.elapsed()));
                    thread::sleep(Duration::from_millis(1));
                }
            }
            thread::sleep(Duration::from_secs(1));
        }
        let findings = findings(&history, circumstances, 0.02);
        verdicts.push(Verdict { service: service.clone(), after: *after, findings });
    }
    Ok(verdicts)
}

/// Watches all of these services, many at once.
///
/// # Errors
/// When one of them cannot be watched.
pub fn watch_all(program: &Path, services: &[Service], times: &[Duration]) -> Result<Vec<Verdict>> {
    let mut verdicts = Vec::new();
    for some in services.chunks(AT_ONCE) {
        let watched: Vec<Result<Vec<Verdict>>> = thread::scope(|scope| {
            let watches = some.iter().map(|service| scope.spawn(move || watch(program, service, times)));
            let watches: Vec<_> = watches.collect();
            let joined = watches.into_iter().map(thread::ScopedJoinHandle::join);
            joined.map(|watch| watch.unwrap_or_else(|_| Err(anyhow::anyhow!("the watch panicked")))).collect()
        });
        for (service, watched) in some.iter().zip(watched) {
            verdicts.extend(watched.with_context(|| service.name.clone())?);
        }
    }
    Ok(verdicts)
}

/// Numbers of findings that were right and wrong.
#[derive(Debug, Clone, Copy, Default)]
pub struct Score {
    /// Leaking services.
    pub leaking: usize,
    /// Leaking services whose leak was found.
    pub found: usize,
    /// Leaking services whose leak was found and called by its name.
    pub named: usize,
    /// Findings shown that were right.
    pub right: usize,
    /// Findings shown that were wrong.
    pub wrong: usize,
}

impl Score {
    /// Of verdicts.
    pub fn of<'a>(verdicts: impl IntoIterator<Item = &'a Verdict>) -> Score {
        let mut score = Score::default();
        for verdict in verdicts {
            let right = verdict.shown().filter(|finding| verdict.is_right(finding)).count();
            score.right += right;
            score.wrong += verdict.shown().count() - right;
            if !verdict.service.pattern.is_empty() {
                score.leaking += 1;
                score.found += usize::from(right > 0);
                let named = verdict.shown().filter(|finding| verdict.is_right(finding));
                score.named += usize::from(named.into_iter().any(|one| one.pattern.name() == verdict.service.pattern));
            }
        }
        score
    }

    /// Of the findings shown, the part that is right.
    #[must_use]
    pub fn precision(&self) -> f64 {
        self.right as f64 / (self.right + self.wrong).max(1) as f64
    }

    /// Of the leaks, the part that was found.
    #[must_use]
    pub fn recall(&self) -> f64 {
        self.found as f64 / self.leaking.max(1) as f64
    }
}

/// By tenths of confidence: findings, and how many of them are right.
#[must_use]
pub fn calibration<'a>(verdicts: impl IntoIterator<Item = &'a Verdict>) -> BTreeMap<u32, (usize, usize)> {
    let mut tenths: BTreeMap<u32, (usize, usize)> = BTreeMap::new();
    for verdict in verdicts {
        for finding in &verdict.findings {
            let (all, right) = tenths.entry((finding.confidence * 10.0) as u32).or_default();
            *all += 1;
            *right += usize::from(verdict.is_right(finding));
        }
    }
    tenths
}
