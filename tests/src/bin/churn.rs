//! `cargo xtask churn`: Go programs that come and go, 50 a second, while `parkranger serve` watches them all: is everyone
//! seen, is every goroutine of theirs counted, and does the agent stay as small as it was?

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use parkranger::host::Proc;
use parkranger_tests::{
    daemon::Daemon,
    executable,
    go::{Fixture, Program, Toolchain, Variant},
};

/// Binaries, and processes begun per second; each lives four seconds on the average.
const BINARIES: usize = 20;
const PER_SECOND: u32 = 50;
const LONGEST: u32 = 8000;
/// One in so many is killed before it has done.
const KILLED: u32 = 4;
/// Whoever lives longer must be seen.
const SEEN_AFTER: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(500);
/// How long the agent keeps who has ended.
const KEPT: Duration = Duration::from_secs(10);
/// The agent may grow by so much from a quarter of the time to the end.
const GROWTH_BYTES: u64 = 4 << 20;

fn main() -> Result<ExitCode> {
    let seconds: u64 = std::env::args().nth(1).context("seconds to run for")?.parse()?;
    let folder = tempfile::tempdir()?;
    let binaries = binaries(folder.path())?;
    let keep = format!("{}s", KEPT.as_secs());
    let daemon = Daemon::start_with(&folder.path().join("*"), &["--budget", "off", "--keep-ended", &keep])?;
    // One of each stays: the binaries are known.
    let mut residents: Vec<Child> = binaries.iter().map(|path| start(path, u32::MAX)).collect::<Result<_>>()?;
    for resident in &residents {
        daemon.wait_until(resident.id(), "watched", |process| process["baseline"] == true)?;
    }
    let result = churn(&daemon, &binaries, Duration::from_secs(seconds));
    for resident in &mut residents {
        resident.kill()?;
        resident.wait()?;
    }
    let run = result?;
    thread::sleep(KEPT + 2 * POLL);
    let left = daemon.ok("/api/v1/processes")?.json()?;
    let leftover = left["processes"].as_array().context("processes")?.len();
    ensure!(daemon.stop()?.success(), "the agent did not end well");
    report(&run, leftover, &left["losses"])
}

/// Copies of one program in every version there is, so that each is a binary of its own.
fn binaries(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut built: Vec<Fixture> = Vec::new();
    for go in Toolchain::all() {
        for variant in [Variant::Plain, Variant::Stripped, Variant::Pie] {
            built.push(go.build(Program::Load, variant)?);
        }
    }
    ensure!(!built.is_empty(), "no Go toolchain");
    (0..BINARIES)
        .map(|number| {
            let path = folder.join(format!("service-{number}"));
            executable::copy(&built[number % built.len()].path, &path)?;
            Ok(path)
        })
        .collect()
}

fn start(path: &Path, milliseconds: u32) -> Result<Child> {
    Command::new(path)
        .args(["churn", &milliseconds.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| path.display().to_string())
}

/// A pid with the time its process was started: thousands of processes later it is another's.
type Life = (u32, u64);
/// From the start of a process to its first goroutine, at most.
const LATE_TICKS: u64 = 20;

/// A process that has ended.
struct Ended {
    life: Life,
    lived: Duration,
    /// Whether it was killed; then nobody knows what it did.
    killed: bool,
    /// Whether it ended as it should.
    well: bool,
    /// Goroutines it says it started.
    births: Option<u64>,
}

/// What the agent said of a process.
#[derive(Default)]
struct Said {
    /// Goroutines it was seen to start, once it had ended.
    births: Option<u64>,
}

struct Run {
    ended: Vec<Ended>,
    /// Gone before their start time could be read: nothing can be said of them.
    unknown: u32,
    said: BTreeMap<Life, Said>,
    /// The most memory the agent had in each quarter of the time.
    resident: [u64; 4],
    /// Its CPU time, as a part of one CPU.
    cpu: f64,
    most_at_once: usize,
}

impl Run {
    /// What the agent said of a process. Of one that had gone before the agent could look, it knows when it was first seen.
    fn said_of(&self, (pid, started): Life) -> Option<&Said> {
        self.said.range((pid, started)..=(pid, started + LATE_TICKS)).next().map(|(_, said)| said)
    }
}

fn churn(daemon: &Daemon, binaries: &[PathBuf], time: Duration) -> Result<Run> {
    let (sender, receiver) = channel();
    let mut random = Random(1);
    let mut said: BTreeMap<Life, Said> = BTreeMap::new();
    let (mut resident, mut most_at_once, mut started, mut unknown) = ([0; 4], 0, 0u32, 0);
    let (began, cpu) = (Instant::now(), daemon.cpu_seconds()?);
    let mut next_poll = began + POLL;
    while began.elapsed() < time {
        let path = &binaries[random.below(u32::try_from(binaries.len())?) as usize];
        let lifetime = 10 + random.below(LONGEST);
        let killed_after = (random.below(KILLED) == 0).then(|| random.below(lifetime));
        unknown += u32::from(!follow(path, lifetime, killed_after, &sender)?);
        started += 1;
        if Instant::now() >= next_poll {
            most_at_once = most_at_once.max(poll(daemon, &mut said)?);
            let quarter = (began.elapsed().as_secs_f64() / time.as_secs_f64() * 4.0) as usize;
            let most = &mut resident[quarter.min(3)];
            *most = daemon.resident_bytes()?.max(*most);
            next_poll = Instant::now() + POLL;
        }
        thread::sleep(
            (began + started * Duration::from_secs(1) / PER_SECOND).saturating_duration_since(Instant::now()),
        );
    }
    let (elapsed, cpu) = (began.elapsed(), daemon.cpu_seconds()? - cpu);
    drop(sender);
    let ended = wait_for_all(daemon, &receiver, &mut said)?;
    Ok(Run { ended, unknown, said, resident, cpu: cpu / elapsed.as_secs_f64(), most_at_once })
}

/// Starts a process, and a thread that waits for its end. Whether it was there long enough to be told from others.
fn follow(path: &Path, lifetime: u32, killed_after: Option<u32>, sender: &Sender<Ended>) -> Result<bool> {
    let mut child = start(path, lifetime)?;
    let Ok(identity) = Proc::default().identity(child.id()) else {
        child.wait()?;
        return Ok(false);
    };
    let life = (identity.pid, identity.start_time);
    let (began, sender) = (Instant::now(), sender.clone());
    thread::spawn(move || {
        if let Some(after) = killed_after {
            thread::sleep(Duration::from_millis(after.into()));
            // It may have ended already.
            let _ = child.kill();
        }
        let Ok(output) = child.wait_with_output() else { return };
        let births = String::from_utf8_lossy(&output.stdout).trim().parse().ok();
        let killed = killed_after.is_some();
        let ended = Ended { life, lived: began.elapsed(), killed, well: killed || output.status.success(), births };
        // The receiver waits for all.
        let _ = sender.send(ended);
    });
    Ok(true)
}

/// Asks who is there, and of each who has ended what it did. How many there are.
fn poll(daemon: &Daemon, said: &mut BTreeMap<Life, Said>) -> Result<usize> {
    let all = daemon.ok("/api/v1/processes")?.json()?;
    let processes = all["processes"].as_array().context("processes")?;
    for process in processes {
        let pid = u32::try_from(process["pid"].as_u64().context("pid")?)?;
        let started = process["start_time"].as_u64().context("start_time")?;
        let said = said.entry((pid, started)).or_default();
        if process["ended"] == true && said.births.is_none() {
            let sites = daemon.ok(&format!("/api/v1/processes/{pid}/sites?site=main.churn"))?.json()?;
            let sites = sites["sites"].as_array().context("sites")?;
            said.births = Some(sites.iter().filter_map(|site| site["births"].as_u64()).sum());
        }
    }
    Ok(processes.iter().filter(|process| process["ended"] == false).count())
}

fn wait_for_all(daemon: &Daemon, ended: &Receiver<Ended>, said: &mut BTreeMap<Life, Said>) -> Result<Vec<Ended>> {
    let mut all: Vec<Ended> = Vec::new();
    loop {
        poll(daemon, said)?;
        match ended.recv_timeout(POLL) {
            Ok(one) => all.push(one),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
        }
        all.extend(ended.try_iter());
    }
    // The last ones are found to have ended by the next snapshots.
    for _ in 0..4 {
        thread::sleep(POLL);
        poll(daemon, said)?;
    }
    Ok(all)
}

fn report(run: &Run, leftover: usize, losses: &serde_json::Value) -> Result<ExitCode> {
    let long = |ended: &&Ended| ended.lived > SEEN_AFTER;
    let seen = |ended: &&Ended| run.said_of(ended.life).is_some();
    let total = run.ended.len();
    let missed = run.ended.iter().filter(long).filter(|ended| !seen(ended)).count();
    let short = run.ended.iter().filter(|ended| !long(ended)).count();
    let short_seen = run.ended.iter().filter(|ended| !long(ended)).filter(seen).count();
    let broken = run.ended.iter().filter(|ended| !ended.well).count();
    let mut wrong: BTreeMap<Life, (u64, Option<u64>)> = BTreeMap::new();
    let (mut compared, mut births) = (0, 0);
    for ended in run.ended.iter().filter(|ended| !ended.killed) {
        let (Some(own), Some(said)) = (ended.births, run.said_of(ended.life)) else { continue };
        compared += 1;
        births += own;
        if said.births != Some(own) {
            wrong.insert(ended.life, (own, said.births));
        }
    }
    let [_, second, _, last] = run.resident;
    let mib = run.resident.map(|bytes| bytes as f64 / f64::from(1 << 20));
    println!(
        "processes begun                     {total}, {} of them killed",
        run.ended.iter().filter(|e| e.killed).count()
    );
    println!("gone before they could be told      {}", run.unknown);
    println!("at once, at most                    {}", run.most_at_once);
    println!("lived over a second and not seen    {missed}");
    println!("lived less and seen                 {short_seen} of {short}");
    println!("births compared                     {births} of {compared} processes, {} wrong", wrong.len());
    println!("targets that ended otherwise        {broken}");
    println!("ledgers left over                   {leftover}");
    println!("losses                              {losses}");
    println!("agent memory, most in each quarter  {:.1} {:.1} {:.1} {:.1} MiB", mib[0], mib[1], mib[2], mib[3]);
    println!("agent CPU                           {:.1} % of one", run.cpu * 100.0);
    for Ended { life: (pid, _), lived, killed, births, .. } in
        run.ended.iter().filter(long).filter(|ended| !seen(ended))
    {
        println!(
            "  process {pid}: lived {lived:?}, killed: {killed}, {births:?} births, and the agent knows nothing of it"
        );
    }
    for ((pid, _), (own, said)) in wrong.iter().take(10) {
        println!("  process {pid}: {own} births, the agent says {said:?}");
    }
    let nothing_lost = losses.as_object().is_some_and(serde_json::Map::is_empty);
    let small = last <= second + GROWTH_BYTES;
    let good = missed == 0 && wrong.is_empty() && broken == 0 && leftover == 0 && nothing_lost && small && compared > 0;
    println!("{}", if good { "all is well" } else { "NOT as it should be" });
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Numerical Recipes' linear congruential generator: the same run every time.
struct Random(u32);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        u32::try_from((u64::from(self.0) * u64::from(limit)) >> 32).unwrap_or(0)
    }
}
