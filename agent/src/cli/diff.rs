//! `parkranger diff`: two dumps compared, or one grouped, whoever wrote them and wherever they are.

use std::{
    fs::File,
    io::{self, BufWriter, Read as _, Write},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use clap::{Args, ValueEnum};

use super::{
    exit::Failure,
    fetch,
    target::{OneTarget, Symbols},
};
use crate::{
    census::{CensusError, Detail},
    diff::compare,
    dump::GoProcesses,
    export,
    host::Proc,
    printable,
    saved::{self, MAX_BYTES, Saved},
};

const EXAMPLES: &str = "\
Examples:
  parkranger diff old.txt 4242    who came and went since the dump was saved
  parkranger diff old.txt         one dump, grouped";

#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Options {
    /// A saved dump or profile (debug=1, debug=2, proto, or of parkranger dump), an http:// URL of one, a pid, or the name of
    /// an executable.
    #[arg(value_name = "A")]
    before: String,
    /// Another, taken later. Without it, A alone is grouped.
    #[arg(value_name = "B")]
    after: Option<String>,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    format: Format,
    /// Write to this file instead of standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Rows that are printed.
    #[arg(short, long, default_value = "20")]
    limit: NonZeroUsize,
    /// Give up reading a process or URL after this long.
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Source of the names of functions and lines of processes.
    #[arg(long, value_enum, default_value_t, value_name = "SOURCE")]
    symbols: Symbols,
}

/// The forms of a comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table, the site that grew most first.
    #[default]
    Text,
    /// One line of JSON (see docs/json.md).
    Json,
    /// A profile of the difference for `go tool pprof`.
    Pprof,
}

pub(super) fn run(options: &Options) -> Result<(), Failure> {
    let first = options.read(&options.before)?;
    let second = options.after.as_deref().map(|after| options.read(after)).transpose()?;
    let (before, after) = match &second {
        Some(second) => (Some(&first), second),
        None => (None, &first),
    };
    match &options.output {
        None => options.write(before, after, &mut printable::Lines::new(BufWriter::new(io::stdout().lock())))?,
        Some(path) => options.write(before, after, &mut BufWriter::new(File::create(path)?))?,
    }
    Ok(())
}

impl Options {
    fn write(&self, before: Option<&Saved>, after: &Saved, out: &mut impl Write) -> io::Result<()> {
        match self.format {
            Format::Text => export::diff::write_text(&compare(before, after), before.is_some(), self.limit.get(), out),
            Format::Json => export::diff::write_json(&compare(before, after), out),
            Format::Pprof => {
                let before = before.map(|before| &before.population);
                export::diff::write_profile(before, &after.population, SystemTime::now(), out)
            }
        }
    }

    fn read(&self, what: &str) -> Result<Saved, Failure> {
        if Path::new(what).exists() && what.parse::<u32>().is_err() {
            return from_bytes(what, &read_file(Path::new(what))?);
        }
        if what.starts_with("http://") || what.starts_with("https://") {
            let bytes = fetch::get(what, self.timeout, MAX_BYTES)
                .map_err(|why| Failure::Saved { what: what.to_owned(), why: why.to_string() })?;
            return from_bytes(what, &bytes);
        }
        let target: OneTarget = what.parse().map_err(Failure::Usage)?;
        self.of_process(target.pid(&Proc::default())?)
    }

    fn of_process(&self, pid: u32) -> Result<Saved, Failure> {
        let failure = |why| match why {
            CensusError::Host(error) => Failure::Host(error),
            why => Failure::Census { pid, why },
        };
        let subject = GoProcesses::new(Proc::default(), self.symbols.go_binaries()).subject(pid).map_err(failure)?;
        let detail = Detail { stacks: true, labels: false, waits: false };
        let census = subject.census(detail, self.timeout, ()).map_err(failure)?;
        let names = subject.names();
        let mut dump = subject.dump(&census, &names);
        dump.selected = export::Selection::default().of(&dump);
        let population = export::population(&dump, subject.main_module(), Duration::ZERO);
        Ok(Saved { population, numbered: true, has_creators: true })
    }
}

fn from_bytes(what: &str, bytes: &[u8]) -> Result<Saved, Failure> {
    saved::read(bytes).map_err(|why| Failure::Saved { what: what.to_owned(), why: why.to_string() })
}

fn read_file(path: &Path) -> Result<Vec<u8>, Failure> {
    let failure = |why: String| Failure::Saved { what: path.display().to_string(), why };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| failure(error.to_string()))?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| failure(error.to_string()))?;
    Ok(bytes)
}
