//! The daemon: one watch of the host, read over HTTP by the tools people have.
//!
//! | file | does |
//! |---|---|
//! | `settings` | what is served where, and within which limits |
//! | `watcher` | the thread that owns the watch and publishes snapshots |
//! | `leaks` | findings of leaks, kept up to date from censuses |
//! | `numbers` | the thread that reads what runtimes say of themselves |
//! | `listen`, `tls` | sockets ▶ connections, each with time limits |
//! | `guard` | who may ask: Host header, token |
//! | `limits`, `reading` | what may be asked at once of processes' memory, and doing it |
//! | `body` | an answer of any length, written by a thread that reads a process, no faster than it is read |
//! | `routes`, `api`, `profiles`, `pages`, `health`, `metrics` | the answers |
//! | `openapi` | their description |
//! | `otlp` | metrics sent to an OpenTelemetry collector |
//! | `params` | what a request asks for |
//! | `problem` | answers that say why there is none |
//!
//! No request changes anything, and none waits for the thread that counts or makes it wait.

mod api;
mod body;
mod control;
mod guard;
mod health;
mod leaks;
mod limits;
mod listen;
mod metrics;
mod numbers;
mod openapi;
mod otlp;
mod pages;
mod params;
mod privileges;
mod problem;
mod profiles;
mod reading;
mod routes;
mod settings;
mod state;
mod tls;
mod watcher;

use std::{io, sync::Arc};

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

pub use settings::{Address, Collector, Limits, Settings, SettingsError, TlsFiles};

use crate::watch::{Config, WatchError};
use listen::Server;
use state::State;
use watcher::{Snapshots, Watcher};

/// Why the daemon ended, or did not begin.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The watch.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// What was asked for makes no sense, or a file of it cannot be read.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A socket.
    #[error("cannot listen on {address}: {why}")]
    Listen {
        /// Where.
        address: Address,
        /// What the kernel says.
        why: io::Error,
    },
    /// The daemon's own metrics.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// Something of the system's.
    #[error("{0}")]
    System(#[from] io::Error),
}

/// Serves until SIGINT or SIGTERM. `reload` is asked for the settings again at SIGHUP.
///
/// # Errors
///
/// [`ServeError`].
pub fn run(
    watch: Config,
    settings: Settings,
    reload: impl Fn() -> Result<Settings, SettingsError> + Send,
) -> Result<(), ServeError> {
    // Before there is a second thread: each has its own.
    privileges::reduce();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let done = runtime.block_on(serve(watch, settings, reload));
    // A census that a process holds up for ever must not hold up the end.
    runtime.shutdown_background();
    done
}

async fn serve(
    watch: Config,
    settings: Settings,
    reload: impl Fn() -> Result<Settings, SettingsError>,
) -> Result<(), ServeError> {
    // Before anything is attached: a signal during the start must take the probes off too.
    let mut signals = Signals::new()?;
    let live = settings.load()?;
    let mut server = Server::bind(&settings, &live)?;
    let go_binaries = Arc::clone(&watch.go_binaries);
    let mut watcher = Watcher::start(watch, settings.interval)?;
    let state = Arc::new(State::new(&settings, live, go_binaries, &watcher)?);
    let numbers = numbers::start(Arc::clone(&state));
    let leaks = settings.leaks_interval.map(|every| leaks::start(Arc::clone(&state), every));
    let metrics = metrics::start(Arc::clone(&state));
    let exporter = settings.collector.clone().map(|collector| otlp::start(collector, Arc::clone(&state)));
    server.start(&state);
    let apply = || apply(reload(), &settings, &state, &server);
    let done = tokio::select! {
        ended = watcher.ended() => ended,
        () = run_until_stopped(&mut signals, state.snapshots(), apply) => Ok(()),
    };
    tell(&[NotifyState::Stopping]);
    server.stop().await;
    numbers.abort();
    if let Some(leaks) = leaks {
        leaks.abort();
    }
    metrics.abort();
    if let Some(exporter) = exporter {
        exporter.abort();
    }
    // The probes go with the watch, before this process does.
    let stopped = watcher.stop().await;
    done.and(stopped)
}

/// Returns when it is time to stop. Tells when there is something to show, and has the settings read again when asked.
async fn run_until_stopped(signals: &mut Signals, mut snapshots: Snapshots, apply: impl Fn()) {
    let mut is_ready = false;
    loop {
        tokio::select! {
            asked = signals.next() => match asked {
                Asked::Stop => return,
                Asked::Reload => {
                    reloading();
                    apply();
                    tell(&[NotifyState::Ready]);
                }
            },
            changed = snapshots.changed(), if !is_ready => {
                is_ready = true;
                if changed.is_ok() {
                    info!("ready");
                    tell(&[NotifyState::Ready]);
                }
            }
        }
    }
}

/// Takes over what can change while running; what is wrong changes nothing.
fn apply(reloaded: Result<Settings, SettingsError>, before: &Settings, state: &State, server: &Server) {
    let loaded = reloaded.and_then(|settings| settings.load().map(|live| (settings, live)));
    let (settings, live) = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            warn!("not reloaded: {error}");
            return;
        }
    };
    if settings.listen != before.listen {
        warn!("another address takes a restart");
    }
    if settings.collector != before.collector {
        warn!("another collector takes a restart");
    }
    if let Err(error) = server.check(&live) {
        warn!("not reloaded: {error}");
        return;
    }
    server.reload(&live);
    state.control.set_interval(settings.interval);
    state.control.set_budget(settings.budget);
    state.control.set_target(settings.target.clone());
    state.reload(&settings, live);
    info!("reloaded");
}

/// Tells systemd, where there is one.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!("systemd was not told: {error}");
    }
}

fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => warn!("systemd was not told: {error}"),
    }
}

/// SIGINT and SIGTERM; SIGHUP.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }
}

/// What a signal asks for.
enum Asked {
    Stop,
    Reload,
}
