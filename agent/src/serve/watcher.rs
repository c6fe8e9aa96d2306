//! The thread that owns the watch. It drains, scans and publishes a snapshot per interval; requests only ever read what
//! it published last, so none of them can hold it up.

use std::{
    io,
    ops::ControlFlow,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{oneshot, watch};

use super::ServeError;
use crate::{
    governor::{Budget, Fidelity},
    host::Proc,
    program::Target,
    snapshot::Snapshot,
    watch::{Config, Pinned, SCAN_EVERY, Watch, WatchError},
};

/// Time that the first snapshot waits for the baselines of all processes, at most.
const BASELINES_WITHIN: Duration = Duration::from_secs(10);

/// What was published last; `None` before the first.
pub(super) type Snapshots = watch::Receiver<Option<Arc<Snapshot>>>;

enum Command {
    Interval(Duration),
    Budget(Option<Budget>),
    Target(Target),
    /// What is to be recorded of a process, a story for how long, and who wants to know what became of it.
    Pin(u32, Option<Fidelity>, Duration, oneshot::Sender<Pinned>),
    Stop,
}

/// The other end of the thread.
pub(super) struct Watcher {
    snapshots: Snapshots,
    commands: Sender<Command>,
    end: oneshot::Receiver<Result<(), WatchError>>,
    /// What `end` said, once it has.
    has_ended: bool,
}

/// What can be changed while it runs.
#[derive(Clone)]
pub(super) struct Control(Sender<Command>);

impl Control {
    pub(super) fn set_interval(&self, interval: Duration) {
        // If the watch has ended there is no interval to change.
        let _ = self.0.send(Command::Interval(interval));
    }

    pub(super) fn set_budget(&self, budget: Option<Budget>) {
        let _ = self.0.send(Command::Budget(budget));
    }

    pub(super) fn set_target(&self, target: Target) {
        let _ = self.0.send(Command::Target(target));
    }

    /// Has as much recorded of a process's binary as is said; `None` for as much as the budget allows. A story for `time`.
    /// What became of it; `None` where the watch has ended.
    pub(super) async fn pin(&self, pid: u32, fidelity: Option<Fidelity>, time: Duration) -> Option<Pinned> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Command::Pin(pid, fidelity, time, answer)).ok()?;
        answered.await.ok()
    }
}

impl Watcher {
    /// Begins to watch.
    pub(super) fn start(config: Config, interval: Duration) -> io::Result<Self> {
        let (publish, snapshots) = watch::channel(None);
        let (commands, asked) = channel();
        let (tell_end, end) = oneshot::channel();
        thread::Builder::new().name("watch".to_owned()).spawn(move || {
            let done = run(config, interval, &publish, &asked);
            // Nobody may be there any more to hear it.
            let _ = tell_end.send(done);
        })?;
        Ok(Self { snapshots, commands, end, has_ended: false })
    }

    pub(super) fn snapshots(&self) -> Snapshots {
        self.snapshots.clone()
    }

    pub(super) fn control(&self) -> Control {
        Control(self.commands.clone())
    }

    /// Waits for the thread to end by itself, which it does for an error.
    pub(super) async fn ended(&mut self) -> Result<(), ServeError> {
        let end = (&mut self.end).await;
        self.has_ended = true;
        match end {
            Ok(done) => Ok(done?),
            // It says nothing only where it could not: its bug, not a clean end.
            Err(_) => Err(ServeError::System(io::Error::other("the thread that watches broke off"))),
        }
    }

    /// Ends the watch, and waits until its probes are gone.
    pub(super) async fn stop(mut self) -> Result<(), ServeError> {
        if self.has_ended {
            return Ok(());
        }
        let _ = self.commands.send(Command::Stop);
        self.ended().await
    }
}

fn run(
    config: Config,
    mut interval: Duration,
    publish: &watch::Sender<Option<Arc<Snapshot>>>,
    asked: &Receiver<Command>,
) -> Result<(), WatchError> {
    let mut watch = Watch::start(Proc::default(), config)?;
    // Nothing is published before it is known, unless some process never lets it be known.
    let until = Instant::now() + BASELINES_WITHIN;
    while !watch.has_baselines() && Instant::now() < until {
        match asked.recv_timeout(watch.drain_every()) {
            Ok(command) => {
                if let ControlFlow::Break(()) = obey(command, &mut watch, &mut interval)? {
                    return Ok(());
                }
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {}
        }
        watch.drain()?;
    }
    publish.send_replace(Some(Arc::new(watch.snapshot()?)));
    let now = Instant::now();
    let (mut drain_at, mut scan_at, mut show_at) = (now + watch.drain_every(), now + SCAN_EVERY, now + interval);
    loop {
        let next = drain_at.min(scan_at).min(show_at);
        match asked.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(command) => {
                let before = interval;
                if let ControlFlow::Break(()) = obey(command, &mut watch, &mut interval)? {
                    return Ok(());
                }
                if interval != before {
                    show_at = Instant::now() + interval;
                }
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if Instant::now() >= drain_at {
            watch.drain()?;
            drain_at = Instant::now() + watch.drain_every();
        }
        if Instant::now() >= scan_at {
            watch.scan()?;
            give_back_memory();
            scan_at = Instant::now() + SCAN_EVERY;
        }
        if Instant::now() >= show_at {
            publish.send_replace(Some(Arc::new(watch.snapshot()?)));
            show_at = Instant::now() + interval;
        }
    }
}

/// Does what was asked for. Breaks where that is to end.
fn obey(command: Command, watch: &mut Watch, interval: &mut Duration) -> Result<ControlFlow<()>, WatchError> {
    match command {
        Command::Interval(changed) => *interval = changed,
        Command::Budget(budget) => watch.set_budget(budget),
        Command::Target(target) => watch.set_target(target)?,
        Command::Pin(pid, fidelity, time, answer) => {
            // Whoever asked may have gone.
            let _ = answer.send(watch.pin(pid, fidelity, time)?);
        }
        Command::Stop => return Ok(ControlFlow::Break(())),
    }
    Ok(ControlFlow::Continue(()))
}

/// Gives memory that is free to the kernel. GNU's allocator keeps what was needed at the busiest moment, and more the longer it
/// runs; others give it back by themselves.
fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code, reason = "no safe way to it")]
    // SAFETY: malloc_trim(3) may be called at any time by any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
