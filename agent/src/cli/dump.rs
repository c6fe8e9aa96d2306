//! `parkranger dump`: every goroutine of one process, in the forms Go people know.

use std::{
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, ValueEnum};
use globset::{Glob, GlobMatcher};

use super::{exit::Failure, target::Symbols};
use crate::{
    census::{Census, CensusError, Detail},
    dump::{Dump, GoProcesses},
    export::{self, Selection},
    host::{Proc, new_file},
    printable::Lines,
};

const EXAMPLES: &str = "\
Examples:
  parkranger dump --pid 4242                              as the runtime prints it
  parkranger dump --pid 4242 --format summary             equal stacks counted
  parkranger dump --pid 4242 --format pprof -o g.pb.gz    for go tool pprof
  parkranger dump --pid 4242 --state 'chan receive'       only those that wait for that";

#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Options {
    /// The process.
    #[arg(short, long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pid: u32,
    /// How it is written.
    #[arg(short, long, value_enum, default_value_t)]
    format: Format,
    /// Write to this file, anew and only for you to read, instead of standard output, which is also -.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Only goroutines with this pprof label; may be given more than once, then all must be there.
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
    /// Only goroutines in this state: waiting, runnable, running, syscall, or a wait reason such as "chan receive".
    #[arg(short, long, value_name = "STATE")]
    state: Option<String>,
    /// Only goroutines of sites that match: the function with the `go` statement, its file:line, or the function
    /// started.
    #[arg(long, value_name = "GLOB", value_parser = glob)]
    site: Option<GlobMatcher>,
    /// Also the runtime's own goroutines, and its own functions on every stack.
    #[arg(long)]
    system: bool,
    /// Where names of functions and lines come from.
    #[arg(long, value_enum, default_value_t, value_name = "SOURCE")]
    symbols: Symbols,
    /// Give up when the process's memory does not answer for this long.
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// The forms of a dump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// The runtime's own dump, as SIGQUIT and debug=2 print it.
    #[default]
    Text,
    /// Equal stacks counted, as debug=1 prints them, with the memory of the stacks.
    Summary,
    /// A profile for `go tool pprof`.
    Pprof,
    /// One line per stack, for flame graphs.
    Folded,
    /// Everything (see docs/json.md).
    Json,
}

impl Format {
    /// What must be read for it.
    fn detail(self, labels_asked: bool) -> Detail {
        Detail {
            stacks: true,
            labels: labels_asked || self != Self::Folded,
            // Nothing else says what a goroutine waits on.
            waits: self == Self::Json,
        }
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    Selection::label(text).ok_or_else(|| "a label is KEY=VALUE".to_owned())
}

fn glob(pattern: &str) -> Result<GlobMatcher, globset::Error> {
    Ok(Glob::new(pattern)?.compile_matcher())
}

pub(super) fn run(options: &Options) -> Result<(), Failure> {
    let failure = |why| match why {
        CensusError::Host(error) => Failure::Host(error),
        why => Failure::Census { pid: options.pid, why },
    };
    let subjects = GoProcesses::new(Proc::default(), options.symbols.go_binaries());
    let subject = subjects.subject(options.pid).map_err(failure)?;
    let selection = options.selection();
    // Before anything is read, and before a file is emptied.
    selection.check_state(subject.wait_reasons()).map_err(Failure::Usage)?;
    let detail = options.format.detail(!options.label.is_empty());
    let census = subject.census(detail, options.timeout, ()).map_err(failure)?;
    let names = subject.names();
    let mut dump = subject.dump(&census, &names);
    dump.runtime_frames = options.system;
    dump.selected = selection.of(&dump);
    tell_what_is_missing(&census);
    if dump.selected.is_empty() && !census.goroutines.is_empty() {
        eprintln!("parkranger: none of {} goroutines is what was asked for", census.goroutines.len());
    }
    if Proc::default().is_stopped(options.pid) {
        eprintln!("parkranger: process {} is stopped (SIGSTOP, or a debugger): nothing in it runs", options.pid);
    }
    match options.output.as_deref().filter(|path| *path != Path::new("-")) {
        None if options.format == Format::Pprof => {
            write(&dump, options.format, &mut BufWriter::new(io::stdout().lock()))?;
        }
        None => write(&dump, options.format, &mut Lines::new(BufWriter::new(io::stdout().lock())))?,
        Some(path) => new_file::write(path, |file| write(&dump, options.format, &mut BufWriter::new(file)))?,
    }
    Ok(())
}

impl Options {
    fn selection(&self) -> Selection {
        Selection {
            labels: self.label.clone(),
            state: self.state.clone(),
            site: self.site.clone(),
            system: self.system,
        }
    }
}

fn tell_what_is_missing(census: &Census) {
    let missing = census.unsettled;
    if missing.structs > 0 {
        eprintln!(
            "parkranger: {} goroutine structs would not hold still long enough to be read: they are not in the dump",
            missing.structs
        );
    }
    for (count, what) in [
        (missing.states, "goroutines kept changing: written without state and stack"),
        (missing.details, "stacks or label sets could not be read"),
        (missing.broken_stacks, "stacks could not be followed to their beginning"),
    ] {
        if count > 0 {
            tracing::warn!("{count} {what}");
        }
    }
    tracing::info!("read {} goroutines in {:?}", census.goroutines.len(), census.took);
    if missing.frame_pointers > 0 {
        tracing::debug!("{} stacks have frame pointers that lead elsewhere", missing.frame_pointers);
    }
}

fn write(dump: &Dump<'_>, format: Format, out: &mut impl Write) -> io::Result<()> {
    match format {
        Format::Text => export::text::write(dump, out),
        Format::Summary => export::summary::write(dump, out),
        Format::Pprof => export::pprof::write(dump, out),
        Format::Folded => export::folded::write(dump, out),
        Format::Json => export::json::write(dump, out),
    }
}
