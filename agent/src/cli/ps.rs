//! `parkranger ps`: every Go process of the host, what it is, and whether and how it can be watched.

use std::{
    collections::{BTreeMap, HashMap},
    io::Write as _,
    sync::Arc,
    time::Duration,
};

use clap::Args;

use super::{exit::Failure, target::TargetOptions};
use crate::{
    binary::Binary,
    host::{Environment, FileId, FileSource, HostError, Identity, Limits, Proc},
    printable,
    program::{Binaries, Refusal, Target, find},
    runtime::{Allowance, Settings},
    views::ps::{Build, List, Row},
};

const EXAMPLES: &str = "\
Examples:
  parkranger ps           all of this host
  parkranger ps --json    for programs";

#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Options {
    #[command(flatten)]
    target: TargetOptions,
    /// Print one object of JSON (see docs/json.md).
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: &Options) -> Result<(), Failure> {
    let list = Lister::new(Proc::default(), options).list(&options.target.target())?;
    let mut out = printable::Lines::new(std::io::stdout().lock());
    if options.json {
        list.write_json(&mut out)?;
    } else {
        out.write_all(list.to_text().as_bytes())?;
    }
    out.flush()?;
    if list.processes.is_empty() {
        return Err(Failure::NothingToWatch("no Go process was found".to_owned()));
    }
    Ok(())
}

/// What is said of a binary, for each of its processes.
#[derive(Clone, Default)]
struct Facts {
    go_version: Option<crate::binary::GoVersion>,
    main_package: Option<String>,
    module: Option<String>,
    version: Option<String>,
    default_godebug: Option<String>,
    build: Build,
}

struct Lister {
    proc: Proc,
    binaries: Binaries,
    facts: HashMap<FileId, Arc<Facts>>,
    not_looked_at: BTreeMap<String, u64>,
}

impl Lister {
    fn new(proc: Proc, options: &Options) -> Self {
        let binaries = Binaries::new(options.target.go_binaries());
        Self { proc, binaries, facts: HashMap::new(), not_looked_at: BTreeMap::new() }
    }

    fn list(mut self, target: &Target) -> Result<List, HostError> {
        let named = !target.pids().is_empty();
        let pids = if named { target.pids().to_vec() } else { self.proc.pids()? };
        let mut rows = Vec::new();
        for pid in pids {
            match self.row(pid, target) {
                Ok(row) => rows.extend(row),
                Err(error) if named => return Err(error),
                Err(error) => {
                    if let Some(why) = error.left_out() {
                        *self.not_looked_at.entry(why).or_default() += 1;
                    }
                }
            }
        }
        Ok(List::new(rows, self.not_looked_at))
    }

    fn row(&mut self, pid: u32, target: &Target) -> Result<Option<Row>, HostError> {
        let identity = self.proc.identity(pid)?;
        let exe = self.proc.executable_path(pid)?;
        if !target.wants(&self.proc, pid, &exe)? {
            return Ok(None);
        }
        let found = find::find(&self.proc, &mut self.binaries, pid, exe.clone(), find::Age::Old)?;
        let reason = match &found {
            Ok(_) => None,
            Err(Refusal::NotGo) => return Ok(None),
            Err(why) => Some(why.to_string()),
        };
        let watchable = found.as_ref().ok().and_then(|found| self.binaries.get(found.file));
        let library = found.as_ref().ok().and_then(|found| found.library_path().map(str::to_owned));
        let facts = self.facts(pid, watchable.as_ref().map(|watchable| &*watchable.go.binary), library.is_some())?;
        let environment = self.proc.environment(pid)?;
        let cgroup = self.proc.cgroup(pid)?;
        let limits = cgroup.limits(&self.proc.cgroup_root());
        let allowance = self.allowance(pid, limits)?;
        // Another process by now would have had its words mixed with this one's.
        if self.proc.identity(pid)? != identity {
            return Ok(None);
        }
        Ok(Some(Row {
            pid,
            start_time: identity.start_time,
            started: self.started(identity),
            exe: printable::path(&exe),
            library,
            go_version: facts.go_version.as_ref().map(ToString::to_string),
            main_package: facts.main_package.clone(),
            module: facts.module.clone(),
            version: facts.version.clone(),
            build: facts.build.clone(),
            container: cgroup.container_id().map(str::to_owned),
            unit: cgroup.unit(),
            warnings: self.stopped(pid).into_iter().chain(warnings(&facts, &environment, &allowance)).collect(),
            environment: environment.iter().map(|(name, value)| (name, value.to_owned())).collect(),
            watchable: watchable.is_some(),
            reason,
            layout: watchable.map(|watchable| watchable.go.layout.source.to_string()),
        }))
    }

    /// What the binary says of itself: the one understood, or the executable as far as it can be read.
    fn facts(&mut self, pid: u32, binary: Option<&Binary>, library: bool) -> Result<Arc<Facts>, HostError> {
        let file = self.proc.open_executable(pid)?;
        let Ok((source, id)) = FileSource::new(file) else { return Ok(Arc::default()) };
        if let Some(binary) = binary.filter(|_| library) {
            return Ok(Arc::new(Facts::of(binary, true)));
        }
        if let Some(facts) = self.facts.get(&id) {
            return Ok(Arc::clone(facts));
        }
        let facts = match binary {
            Some(binary) => Facts::of(binary, false),
            None => Binary::parse(Arc::new(source)).map(|binary| Facts::of(&binary, false)).unwrap_or_default(),
        };
        let facts = Arc::new(facts);
        self.facts.insert(id, Arc::clone(&facts));
        Ok(facts)
    }

    fn allowance(&self, pid: u32, limits: Limits) -> Result<Allowance, HostError> {
        let cpus = self.proc.allowed_cpus(pid)?;
        Ok(Allowance { cpu_quota: limits.cpu, cpus, memory_bytes: limits.memory_bytes })
    }

    fn stopped(&self, pid: u32) -> Option<String> {
        self.proc.is_stopped(pid).then(|| "is stopped (SIGSTOP, or a debugger): nothing in it runs".to_owned())
    }

    fn started(&self, identity: Identity) -> Option<String> {
        let booted = self.proc.boot_time()?;
        let time = booted.checked_add(Duration::from_millis(identity.start_time.checked_mul(10)?))?;
        Some(crate::export::schema::rfc3339(time))
    }
}

impl Facts {
    fn of(binary: &Binary, library: bool) -> Self {
        let info = binary.build_info();
        let setting = |key: &str| info.and_then(|info| info.setting(key)).filter(|value| !value.is_empty());
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let has = |name: &str| binary.functions_named(name).ok().map(|functions| !functions.is_empty());
        let version = info.and_then(|info| text(&info.version)).map(|version| match setting("vcs.revision") {
            // A version made from the revision already holds its first 12 digits.
            Some(revision) if version == "(devel)" => {
                let revision: String = revision.chars().take(12).collect();
                let dirty = if setting("vcs.modified") == Some("true") { "+dirty" } else { "" };
                format!("{version} {revision}{dirty}")
            }
            _ => version,
        });
        Self {
            go_version: Some(binary.go_version().clone()),
            main_package: info.and_then(|info| text(&info.path)),
            module: info.and_then(|info| text(&info.module)),
            version,
            default_godebug: setting("DefaultGODEBUG").map(str::to_owned),
            build: Build {
                stripped: Some(!binary.has_symbol_table()),
                no_dwarf: Some(!binary.has_dwarf()),
                pie: Some(binary.is_position_independent() && !library),
                r#static: (!library).then(|| !binary.is_dynamic()),
                // C code calls Go through it; it is in every program that has a C part.
                cgo: has("crosscall2"),
                pgo: info.map(|_| setting("-pgo").is_some()),
                // The race detector's entry points are written in assembly and linked with it only.
                race: setting("-race").map(|value| value == "true").or_else(|| has("runtime.racefuncenter")),
                mode: setting("-buildmode").map(str::to_owned),
            },
        }
    }
}

fn warnings(facts: &Facts, environment: &Environment, allowance: &Allowance) -> Vec<String> {
    let settings = Settings {
        godebug: environment.get("GODEBUG"),
        default_godebug: facts.default_godebug.as_deref(),
        gogc: environment.get("GOGC"),
        gomaxprocs: environment.get("GOMAXPROCS"),
        gomemlimit: environment.get("GOMEMLIMIT"),
        gotraceback: environment.get("GOTRACEBACK"),
    };
    settings.warnings(&facts.go_version.clone().unwrap_or_default(), allowance)
}
