//! `parkranger top`: the refreshing table, or a line of JSON per interval.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use clap::Args;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval_at, sleep_until},
};

use super::{exit::Failure, target::TargetOptions};
use crate::{
    host::Proc,
    kernel::Sizes,
    views::{Sort, TableOptions, json, table},
    watch::{Config, Snapshot, Watch},
};

/// How often the ring buffer is emptied. It is never waited on: waking the agent would cost the target more than
/// everything else together.
const DRAIN_EVERY: Duration = Duration::from_millis(100);
/// How often the host is searched for binaries not seen yet.
const SCAN_EVERY: Duration = Duration::from_secs(2);
/// Shortest interval: below it the agent would do nothing but read.
const SHORTEST: Duration = Duration::from_millis(50);

#[derive(Clone, Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    target: TargetOptions,
    /// Time between two tables or lines: 500ms, 2s, 1m.
    #[arg(short, long, default_value = "1s", value_parser = duration)]
    interval: Duration,
    /// Stop after this time; default is to go on until interrupted or until every process given by --pid has ended.
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    run_for: Option<Duration>,
    /// Show one interval and stop.
    #[arg(long, conflicts_with = "run_for")]
    once: bool,
    /// Sort rows by this count, largest first.
    #[arg(short, long, value_enum, default_value_t)]
    sort: Sort,
    /// Show at most this many sites of a process.
    #[arg(short, long, default_value_t = 20, value_name = "N")]
    limit: usize,
    /// Print one line of JSON per interval instead of a table, with every site (see docs/json.md).
    #[arg(long)]
    json: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if duration < SHORTEST { Err(format!("at least {}", humantime::format_duration(SHORTEST))) } else { Ok(duration) }
}

pub(super) fn run(options: Options) -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(watch(options))
}

async fn watch(options: Options) -> Result<(), Failure> {
    // Before anything is attached: an interrupt during the start must take the probes off too.
    let mut stop = Stop::new()?;
    let config = Config {
        target: options.target.target(),
        symbols: options.target.symbols(),
        sizes: Sizes::default(),
        attach: options.target.attach,
    };
    let mut watch = Watch::start(Proc::default(), config)?;
    let start = Instant::now();
    let mut screen = Screen::new(&options);
    // The first line says that everything is attached; counts begin here.
    if options.json && !options.once {
        screen.show(watch.snapshot()?)?;
    }
    let end = if options.once { Some(start + options.interval) } else { options.run_for.map(|time| start + time) };
    let mut drain = interval_at(start + DRAIN_EVERY, DRAIN_EVERY);
    let mut scan = interval_at(start + SCAN_EVERY, SCAN_EVERY);
    let mut show = interval_at(start + options.interval, options.interval);
    for interval in [&mut drain, &mut scan, &mut show] {
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    loop {
        tokio::select! {
            biased;
            () = stop.asked() => break,
            () = sleep_until(end.unwrap_or(start)), if end.is_some() => break,
            _ = drain.tick() => watch.drain()?,
            _ = scan.tick() => watch.scan()?,
            _ = show.tick(), if !options.once => {
                screen.show(watch.snapshot()?)?;
                if watch.all_ended() {
                    break;
                }
            }
        }
    }
    screen.finish(watch.snapshot()?)
}

/// SIGINT and SIGTERM.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn new() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Where snapshots go: a terminal that is redrawn, or a stream.
struct Screen {
    json: bool,
    redraw: bool,
    options: TableOptions,
    before: Option<Snapshot>,
}

const ENTER_ALTERNATE_SCREEN: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE_ALTERNATE_SCREEN: &str = "\x1b[?25h\x1b[?1049l";
const HOME_AND_CLEAR: &str = "\x1b[H\x1b[2J";

impl Screen {
    fn new(options: &Options) -> Self {
        let redraw = !options.json && !options.once && io::stdout().is_terminal();
        if redraw {
            print!("{ENTER_ALTERNATE_SCREEN}");
        }
        Self {
            json: options.json,
            redraw,
            options: TableOptions { sort: options.sort, limit: options.limit, width: None, height: None },
            before: None,
        }
    }

    fn show(&mut self, snapshot: Snapshot) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        if self.json {
            json::write(out, &snapshot)?;
            return Ok(());
        }
        let mut options = self.options;
        if self.redraw {
            if let Ok(size) = rustix::termios::tcgetwinsize(&out) {
                options.width = Some(size.ws_col);
                options.height = Some(size.ws_row);
            }
            out.write_all(HOME_AND_CLEAR.as_bytes())?;
        } else {
            writeln!(out, "── {}", json::rfc3339(snapshot.time))?;
        }
        out.write_all(table::render(&snapshot, self.before.as_ref(), options).as_bytes())?;
        out.flush()?;
        self.before = Some(snapshot);
        Ok(())
    }

    /// Shows the final state where it stays.
    fn finish(mut self, snapshot: Snapshot) -> Result<(), Failure> {
        self.leave();
        if self.json {
            json::write(io::stdout().lock(), &snapshot)?;
        } else {
            let text = table::render(&snapshot, self.before.as_ref(), self.options);
            io::stdout().lock().write_all(text.as_bytes())?;
        }
        Ok(())
    }

    fn leave(&mut self) {
        if std::mem::take(&mut self.redraw) {
            print!("{LEAVE_ALTERNATE_SCREEN}");
            let _ = io::stdout().flush();
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.leave();
    }
}
