//! `parkranger dump`: every goroutine of one process, in the forms Go people know.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::Duration,
};

use clap::{Args, ValueEnum};
use globset::{Glob, GlobMatcher};

use super::{exit::Failure, target::Symbols};
use crate::{
    address::Bias,
    binary::{Binary, BinaryError},
    census::{Census, CensusError, Detail, Goroutine, Origin, Runtime},
    export::{self, Dump, Names, ProcessFacts},
    host::{FileSource, HostError, Identity, Proc, ProcessMemory},
    runtime::{Layout, WaitReasons},
    symbols::Symbolizer,
};

#[derive(Clone, Debug, Args)]
pub(super) struct Options {
    /// The process.
    #[arg(short, long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pid: u32,
    /// How it is written.
    #[arg(short, long, value_enum, default_value_t)]
    format: Format,
    /// Write to this file, which only you can read, instead of standard output.
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
    let (key, value) = text.split_once('=').ok_or("a label is KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn glob(pattern: &str) -> Result<GlobMatcher, globset::Error> {
    Ok(Glob::new(pattern)?.compile_matcher())
}

/// What is known of a process before its goroutines are read.
struct Subject {
    identity: Identity,
    binary: Arc<Binary>,
    bias: Bias,
    layout: Layout,
    wait_reasons: WaitReasons,
    symbolizer: Symbolizer,
    facts: ProcessFacts,
}

pub(super) fn run(options: &Options) -> Result<(), Failure> {
    let proc = Proc::default();
    let failure = |why| match why {
        CensusError::Host(error) => Failure::Host(error),
        why => Failure::Census { pid: options.pid, why },
    };
    let subject = subject(&proc, options).map_err(failure)?;
    let detail = options.format.detail(!options.label.is_empty());
    let census = census(&proc, &subject, detail, options.timeout).map_err(failure)?;
    let names = Names::new(&subject.binary, &subject.symbolizer, subject.bias);
    let mut dump = Dump {
        census: &census,
        names: &names,
        wait_reasons: &subject.wait_reasons,
        process: &subject.facts,
        selected: Vec::new(),
        runtime_frames: options.system,
    };
    dump.selected = select(&dump, options);
    tell_what_is_missing(&census);
    match &options.output {
        None => write(&dump, options.format, &mut BufWriter::new(io::stdout().lock()))?,
        Some(path) => write(&dump, options.format, &mut BufWriter::new(create(path)?))?,
    }
    Ok(())
}

fn subject(proc: &Proc, options: &Options) -> Result<Subject, CensusError> {
    let pid = options.pid;
    let identity = proc.identity(pid)?;
    let exe = proc.executable_path(pid)?.display().to_string();
    let (binary, bias, file) = runtime(proc, pid, &exe)?;
    let layout = Layout::of(&binary)?;
    let wait_reasons = WaitReasons::of(&binary)?;
    let symbolizer = Symbolizer::new(Arc::clone(&binary), options.symbols.source())?;
    let build_id = binary.gnu_build_id().map(|id| id.iter().map(|byte| format!("{byte:02x}")).collect());
    let facts = ProcessFacts {
        pid,
        start_time: identity.start_time,
        go_version: binary.go_version().clone(),
        prints_labels: prints_labels(&binary),
        mappings: proc.code_mappings(pid)?,
        build_id: build_id.unwrap_or_default(),
        exe,
        runtime: file,
    };
    Ok(Subject { identity, binary, bias, layout, wait_reasons, symbolizer, facts })
}

/// The Go runtime of a process: its executable, else the first Go library among its code, with how far it was moved and
/// its path.
fn runtime(proc: &Proc, pid: u32, exe: &str) -> Result<(Arc<Binary>, Bias, String), CensusError> {
    let parse = |file| -> Result<Arc<Binary>, CensusError> {
        let (source, _) = FileSource::new(file)
            .map_err(|error| HostError::Unreadable { path: PathBuf::from(exe), why: error.to_string() })?;
        Ok(Arc::new(Binary::parse(Arc::new(source))?))
    };
    let not_loaded = || BinaryError::Unsupported { what: "program headers that are not loaded with the program" };
    let refusal = match parse(proc.open_executable(pid)?) {
        Ok(binary) => {
            let bias = proc.bias(pid, binary.program_headers_address().ok_or_else(not_loaded)?)?;
            return Ok((binary, bias, exe.to_owned()));
        }
        Err(why) => why,
    };
    if !matches!(refusal, CensusError::Binary(BinaryError::NotElf | BinaryError::NotGo)) {
        return Err(refusal);
    }
    for mapping in proc.code_mappings(pid)? {
        let Ok(binary) = proc.open_mapping(pid, &mapping).map_err(CensusError::from).and_then(parse) else { continue };
        if let Some(bias) = binary.bias_of_mapping(mapping.start, mapping.end, mapping.offset) {
            return Ok((binary, bias, mapping.path));
        }
    }
    Err(refusal)
}

/// Whether the runtime prints labels in its own dumps: from Go 1.27 on, unless the main module is older.
fn prints_labels(binary: &Binary) -> bool {
    let version = binary.go_version();
    let settings = binary.build_info().map(|info| info.settings.as_slice()).unwrap_or_default();
    let off = settings.iter().any(|(key, value)| key == "DefaultGODEBUG" && value.contains("tracebacklabels=0"));
    (version.major, version.minor) >= (1, 27) && !off
}

/// Takes the census in a thread of its own: a target can make any read of its memory hang (userfaultfd, FUSE), and then
/// only the end of this process ends it.
fn census(proc: &Proc, subject: &Subject, detail: Detail, timeout: Duration) -> Result<Census, CensusError> {
    let (sender, receiver) = mpsc::channel();
    let (proc, identity, bias) = (proc.clone(), subject.identity, subject.bias);
    let (binary, layout) = (Arc::clone(&subject.binary), subject.layout.clone());
    let witness = bias.to_runtime(binary.function_table_address());
    std::thread::Builder::new()
        .name("census".to_owned())
        .spawn(move || {
            let census = ProcessMemory::open(&proc, identity, witness)
                .map_err(CensusError::from)
                .and_then(|memory| Runtime::find(&memory, binary, bias, layout)?.census(&memory, detail));
            // Nobody listens any more after the time limit.
            let _ = sender.send(census);
        })
        .map_err(|error| HostError::Unreadable { path: PathBuf::from("census thread"), why: error.to_string() })?;
    receiver
        .recv_timeout(timeout)
        .unwrap_or(Err(CensusError::HeldBack { pid: identity.pid, seconds: timeout.as_secs() }))
}

/// The goroutines the user asked for.
fn select(dump: &Dump<'_>, options: &Options) -> Vec<usize> {
    let mut sites: HashMap<Origin, bool> = HashMap::new();
    let mut wanted = |goroutine: &Goroutine| {
        let census = dump.census;
        if census.is_system(goroutine) && !options.system {
            return false;
        }
        let has = |label: &(String, String)| {
            census.labels.get(goroutine.labels).any(|(key, value)| key == label.0 && value == label.1)
        };
        let in_state = |state: &String| goroutine.status.name() == state || dump.state(goroutine) == state.as_str();
        options.label.iter().all(has)
            && options.state.as_ref().is_none_or(in_state)
            && options.site.as_ref().is_none_or(|glob| {
                let origin = census.origin(goroutine);
                *sites.entry(origin).or_insert_with(|| site_matches(dump, origin, glob))
            })
    };
    let all = dump.census.goroutines.iter().enumerate();
    all.filter(|(_, goroutine)| wanted(goroutine)).map(|(index, _)| index).collect()
}

fn site_matches(dump: &Dump<'_>, origin: Origin, glob: &GlobMatcher) -> bool {
    let place = dump.names.creation(origin.gopc);
    let created_by = place.frames.last();
    created_by
        .is_some_and(|frame| glob.is_match(&frame.function) || glob.is_match(format!("{}:{}", frame.file, frame.line)))
        || glob.is_match(dump.names.start(origin.startpc))
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

/// A new file, or the old one emptied, that only its owner can read: stacks and labels may tell secrets.
fn create(path: &Path) -> io::Result<File> {
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    // It may have been there already, with other rights.
    let metadata = file.metadata()?;
    if metadata.is_file() {
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    }
    Ok(file)
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
