//! `parkranger top`: the refreshing table, or a line of JSON per interval.

use std::{
    io::{self, IsTerminal as _, Write as _},
    num::NonZeroUsize,
    time::Duration,
};

use clap::Args;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval_at, sleep_until},
};

use super::{
    bounds::Bounds,
    budget::BudgetOptions,
    exit::Failure,
    target::{AttachOptions, TargetOptions},
};
use crate::{
    governor::Fidelity,
    host::Proc,
    kernel::Sizes,
    printable::Lines,
    snapshot::Snapshot,
    views::{Sort, TableOptions, json, table},
    watch::{Config, SCAN_EVERY, Watch},
};

/// Shortest interval: below it the agent would do nothing but read.
const SHORTEST: Duration = Duration::from_millis(50);

const EXAMPLES: &str = "\
Examples:
  parkranger top                                   every Go process of the host, now and later
  parkranger top --pid 4242 --stacks               one process, with who called the first sites
  parkranger top --exe 'api-*' --sort births       by file name
  parkranger top --pid 4242 --for 10s --json       a line of JSON per interval";

#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Options {
    #[command(flatten)]
    target: TargetOptions,
    #[command(flatten)]
    attach: AttachOptions,
    #[command(flatten)]
    budget: BudgetOptions,
    #[command(flatten)]
    bounds: Bounds,
    /// Time between two tables or lines: 500ms, 2s, 1m.
    #[arg(short, long, default_value = "1s", value_parser = duration)]
    interval: Duration,
    /// Stop after this time; default is to go on until interrupted or until every process given by --pid has ended.
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    run_for: Option<Duration>,
    /// Show one interval and stop.
    #[arg(long, conflicts_with = "run_for")]
    once: bool,
    /// Time between two audits of a process: a census that must find what the ledger says.
    #[arg(long = "audit-every", value_name = "TIME", default_value = "1m", value_parser = duration)]
    audit_every: Duration,
    /// Sort rows by this count, largest first.
    #[arg(short, long, value_enum, default_value_t)]
    sort: Sort,
    /// Show at most this many sites of a process.
    #[arg(short, long, default_value = "20", value_name = "N")]
    limit: NonZeroUsize,
    /// Show the whole creation stack of the first N sites below each table.
    #[arg(long, value_name = "N", num_args = 0..=1, default_value_t = 0, default_missing_value = "3")]
    stacks: usize,
    /// Tell apart who called the function with the `go` statement: births, exits and live goroutines by caller, of those born from
    /// now on. A birth and an exit cost 1.7 times as much.
    #[arg(long)]
    callers: bool,
    /// Print one line of JSON per interval instead of a table, with every site (see docs/json.md).
    #[arg(long)]
    json: bool,
    /// Size of the ring buffer, pages times a power of two: tests force it to overflow.
    #[arg(long, value_name = "BYTES", hide = true)]
    ring_bytes: Option<u32>,
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
    let target = options.target.target();
    let sizes = options.bounds.sizes(options.budget.fidelity == Fidelity::Story, target.pids());
    let sizes = if options.callers { sizes.with_callers() } else { sizes };
    let config = Config {
        budget: options.budget.budget(!target.pids().is_empty()),
        target,
        go_binaries: options.target.go_binaries(),
        sizes: Sizes { ring_bytes: options.ring_bytes.unwrap_or(sizes.ring_bytes), ..sizes },
        audit_every: options.audit_every,
        attach: options.attach.method,
        fidelity: options.budget.fidelity,
        // Shown once more, after they ended.
        keep_ended: options.interval.mul_f64(0.9),
        // For the first Go process; one interval is not worth waiting for.
        patient: !options.once,
    };
    let mut watch = Watch::start(Proc::default(), config)?;
    let start = Instant::now();
    let mut screen = Screen::new(&options);
    // Counts begin here: a first line of JSON says that everything is attached, a first table has rates.
    let attached = watch.snapshot()?;
    if options.json && !options.once {
        screen.show(attached)?;
    } else {
        screen.before = Some(attached);
    }
    let end = if options.once { Some(start + options.interval) } else { options.run_for.map(|time| start + time) };
    let mut scan = interval_at(start + SCAN_EVERY, SCAN_EVERY);
    let mut show = interval_at(start + options.interval, options.interval);
    for interval in [&mut scan, &mut show] {
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    let mut drain_at = start + watch.drain_every();
    loop {
        tokio::select! {
            biased;
            () = stop.asked() => break,
            () = sleep_until(end.unwrap_or(start)), if end.is_some() => break,
            () = sleep_until(drain_at) => {
                watch.drain()?;
                drain_at = Instant::now() + watch.drain_every();
            }
            _ = scan.tick() => watch.scan()?,
            _ = show.tick(), if !options.once => {
                screen.show(watch.snapshot()?)?;
                if watch.all_ended() {
                    break;
                }
            }
        }
    }
    screen.finish(&watch.snapshot()?)
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
    title: String,
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
            title: format!("every {}, by {:?}", humantime::format_duration(options.interval), options.sort)
                .to_lowercase(),
            options: TableOptions {
                sort: options.sort,
                limit: options.limit.get(),
                stacks: options.stacks,
                width: None,
                height: None,
            },
            before: None,
        }
    }

    fn show(&mut self, snapshot: Snapshot) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        if self.json {
            json::write(Lines::new(out), &snapshot)?;
            return Ok(());
        }
        let mut options = self.options;
        let time = crate::export::schema::rfc3339(snapshot.time);
        if self.redraw {
            if let Ok(size) = rustix::termios::tcgetwinsize(&out) {
                options.width = columns(size.ws_col);
                options.height = lines(size.ws_row);
            }
            writeln!(out, "{HOME_AND_CLEAR}parkranger  {time}  {}  Ctrl-C ends", self.title)?;
        } else {
            writeln!(out, "── {time}")?;
        }
        let text = table::render(&snapshot, self.before.as_ref(), options);
        Lines::new(&mut out).write_all(text.as_bytes())?;
        out.flush()?;
        self.before = Some(snapshot);
        Ok(())
    }

    /// Shows the final state where it stays.
    fn finish(mut self, snapshot: &Snapshot) -> Result<(), Failure> {
        self.leave();
        if self.json {
            json::write(Lines::new(io::stdout().lock()), snapshot)?;
        } else {
            let out = io::stdout().lock();
            if let Ok(size) = rustix::termios::tcgetwinsize(&out) {
                self.options.width = columns(size.ws_col);
            }
            let text = table::render(snapshot, self.before.as_ref(), self.options);
            Lines::new(out).write_all(text.as_bytes())?;
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

/// Columns of a terminal; `None` where it does not say: 0 is what serial lines and new pseudo-terminals answer.
fn columns(columns: u16) -> Option<u16> {
    (columns > 0).then_some(columns)
}

/// Lines of a terminal below the title; `None` likewise.
fn lines(lines: u16) -> Option<u16> {
    lines.checked_sub(1)
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_without_a_size_shows_everything() {
        assert_eq!((columns(0), lines(0)), (None, None));
        assert_eq!((columns(80), lines(25)), (Some(80), Some(24)));
    }
}
