//! `parkranger check`: what is possible here, without doing it.

use std::{collections::BTreeMap, io::Write as _};

use clap::Args;

use super::{
    exit::Failure,
    target::{AttachOptions, TargetOptions},
};
use crate::{
    host::{HostError, Proc},
    kernel::{Capability, Kernel, Method, Sizes},
    printable,
    program::{Binaries, Refusal, Target, find},
    views::check::{KernelReport, ProbeReport, Report, TargetReport},
    watch::WatchError,
};

const EXAMPLES: &str = "\
Examples:
  parkranger check               what the kernel and these privileges allow
  parkranger check --pid 4242    what would be probed in a process, or why not";

#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Options {
    #[command(flatten)]
    target: TargetOptions,
    #[command(flatten)]
    attach: AttachOptions,
    /// Print one object of JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: &Options) -> Result<(), Failure> {
    let proc = Proc::default();
    let kernel = kernel_report(&proc, options.attach.method);
    let target = options.target.target();
    let mut not_looked_at = BTreeMap::new();
    let targets = target_reports(&proc, &target, options, &mut not_looked_at)?;
    let report = Report::new(kernel, targets, not_looked_at);
    let mut out = printable::Lines::new(std::io::stdout().lock());
    if options.json {
        report.write_json(&mut out)?;
    } else {
        out.write_all(report.to_text().as_bytes())?;
    }
    out.flush()?;
    if let Some(reason) = report.kernel.reason {
        Err(Failure::Kernel(reason))
    } else if report.targets.iter().any(|target| target.watchable) {
        Ok(())
    } else if let [only] = report.targets.as_slice() {
        let reason = only.reason.as_deref().unwrap_or("no reason known");
        Err(Failure::NothingToWatch(format!("process {} ({}) cannot be watched: {reason}", only.pid, only.exe)))
    } else {
        Err(Failure::NothingToWatch(format!("no Go process {} that could be watched", target.describe())))
    }
}

fn kernel_report(proc: &Proc, attach: Option<Method>) -> KernelReport {
    let capability = Capability::ask(proc.root());
    // Only loading the programs tells for sure; nothing is attached to any process.
    let sizes = Sizes::default();
    let loaded = Kernel::load(&capability, sizes, attach);
    let method = loaded.as_ref().ok().map(Kernel::method);
    let namespace = (!proc.is_initial_pid_namespace()).then(|| WatchError::PidNamespace.to_string());
    let reason = loaded.err().map(|error| error.to_string()).or(namespace);
    KernelReport {
        release: capability.release.clone(),
        usable: reason.is_none(),
        method: method.map(Method::name),
        fallback: method.and_then(Method::fallback),
        max_sites: sizes.sites,
        max_processes: sizes.processes,
        map_bytes: sizes.kernel_bytes(),
        reason,
        uprobe_multi: capability.uprobe_multi.ok(),
        perf_uprobes: capability.perf_uprobes,
        capabilities: capability.capabilities.into_iter().collect(),
    }
}

fn target_reports(
    proc: &Proc,
    target: &Target,
    options: &Options,
    not_looked_at: &mut BTreeMap<String, u64>,
) -> Result<Vec<TargetReport>, Failure> {
    let mut binaries = Binaries::new(options.target.go_binaries());
    let named = !target.pids().is_empty();
    let pids = if named { target.pids().to_vec() } else { proc.pids()? };
    let mut reports = Vec::new();
    for pid in pids {
        match target_report(proc, target, &mut binaries, pid) {
            Ok(Some(report)) => reports.push(report),
            Ok(None) => {}
            Err(error) if named => return Err(error.into()),
            Err(error) => {
                if let Some(why) = error.left_out() {
                    *not_looked_at.entry(why).or_default() += 1;
                }
            }
        }
    }
    Ok(reports)
}

fn target_report(
    proc: &Proc,
    target: &Target,
    binaries: &mut Binaries,
    pid: u32,
) -> Result<Option<TargetReport>, HostError> {
    proc.identity(pid)?;
    let path = proc.executable_path(pid)?;
    if !target.wants(proc, pid, &path)? {
        return Ok(None);
    }
    let mut report = TargetReport {
        pid,
        exe: printable::path(&path),
        library: None,
        go_version: None,
        watchable: false,
        reason: None,
        layout: None,
        probes: Vec::new(),
        notes: Vec::new(),
    };
    let found = find::find(proc, binaries, pid, path, find::Age::Old)?;
    match found.map(|found| (binaries.get(found.file), found)) {
        Ok((Some(binary), found)) => {
            report.library = found.library_path().map(str::to_owned);
            report.watchable = true;
            report.go_version = Some(binary.go.binary.go_version().to_string());
            report.layout = Some(binary.go.layout.source.to_string());
            report.notes.clone_from(&binary.plan.notes);
            report.notes.extend(binary.plan.run.as_ref().err().map(|why| format!("no story can be told: {why}")));
            report.probes = binary
                .plan
                .points
                .iter()
                .map(|point| ProbeReport {
                    event: point.event.name(),
                    function: point.function.clone(),
                    file_offset: point.offset.0,
                    address: point.address.0,
                    instruction: point.instruction.clone(),
                })
                .collect();
        }
        Ok((None, _)) => {}
        Err(Refusal::NotGo) if target.pids().is_empty() => return Ok(None),
        Err(why) => report.reason = Some(why.to_string()),
    }
    Ok(Some(report))
}
