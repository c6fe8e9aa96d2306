//! What `parkranger check` found, as text and JSON.

use std::{collections::BTreeMap, fmt::Write as _, io};

use serde::Serialize;

use crate::export::schema::SCHEMA;

/// Everything `check` found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The schema's version.
    pub schema: u32,
    /// What the kernel and the privileges allow.
    pub kernel: KernelReport,
    /// The target's Go processes.
    pub targets: Vec<TargetReport>,
    /// Processes that could not be looked at: by reason, how many.
    pub not_looked_at: BTreeMap<String, u64>,
}

/// The kernel's side.
#[derive(Debug, Serialize)]
pub struct KernelReport {
    /// `uname -r`.
    pub release: String,
    /// Whether anything can be attached.
    pub usable: bool,
    /// Why not.
    pub reason: Option<String>,
    /// How probes are attached.
    pub method: Option<&'static str>,
    /// What is not as with the best way to attach, and why.
    pub fallback: Option<&'static str>,
    /// Creation sites that the maps hold on this machine unless told otherwise.
    pub max_sites: u32,
    /// Processes likewise.
    pub max_processes: u32,
    /// About what the maps take of the kernel's memory then.
    pub map_bytes: u64,
    /// Whether uprobe_multi links can be made; `None` where the kernel would not say.
    pub uprobe_multi: Option<bool>,
    /// Whether perf-event uprobes can be made.
    pub perf_uprobes: bool,
    /// Effective capabilities that matter.
    pub capabilities: BTreeMap<&'static str, bool>,
}

/// One process.
#[derive(Debug, Serialize)]
pub struct TargetReport {
    /// Its pid.
    pub pid: u32,
    /// Its executable.
    pub exe: String,
    /// The shared object with the Go runtime, where that is not the executable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub library: Option<String>,
    /// Its Go version; `None` where it could not be told.
    pub go_version: Option<String>,
    /// Whether it can be watched.
    pub watchable: bool,
    /// Why not.
    pub reason: Option<String>,
    /// Where the offsets of the runtime's structs come from.
    pub layout: Option<String>,
    /// What would be probed.
    pub probes: Vec<ProbeReport>,
    /// Where and why the plan is not the usual one.
    pub notes: Vec<String>,
}

/// One probe.
#[derive(Debug, Serialize)]
pub struct ProbeReport {
    /// birth, park, exit.
    pub event: &'static str,
    /// The function.
    pub function: String,
    /// Where the instruction is in the file, in bytes.
    pub file_offset: u64,
    /// Its address in the file's own space.
    pub address: u64,
    /// Its text.
    pub instruction: String,
}

impl Report {
    /// Writes it as one line of JSON.
    ///
    /// # Errors
    ///
    /// What writing says.
    pub fn write_json(&self, mut out: impl io::Write) -> io::Result<()> {
        serde_json::to_writer(&mut out, self)?;
        out.write_all(b"\n")
    }

    /// A new one for this schema.
    #[must_use]
    pub fn new(kernel: KernelReport, targets: Vec<TargetReport>, not_looked_at: BTreeMap<String, u64>) -> Self {
        Self { schema: SCHEMA, kernel, targets, not_looked_at }
    }

    /// As text for people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let kernel = &self.kernel;
        let _ = writeln!(text, "kernel {}", kernel.release);
        let answer = |known: Option<bool>| match known {
            Some(true) => "yes",
            Some(false) => "no",
            None => "not permitted to ask",
        };
        let _ = writeln!(text, "  uprobe_multi links   {}", answer(kernel.uprobe_multi));
        let _ = writeln!(text, "  perf-event uprobes   {}", answer(Some(kernel.perf_uprobes)));
        let missing: Vec<&str> = kernel.capabilities.iter().filter(|(_, has)| !**has).map(|(name, _)| *name).collect();
        let held = if missing.is_empty() { "all".to_owned() } else { format!("without {}", missing.join(", ")) };
        let _ = writeln!(text, "  capabilities         {held}");
        let _ = match (&kernel.reason, kernel.method) {
            (Some(reason), _) => writeln!(text, "  result               cannot watch: {reason}"),
            (None, method) => writeln!(text, "  result               attaches through {}", method.unwrap_or("nothing")),
        };
        let _ = writeln!(
            text,
            "  maps                 {} sites, {} processes: {} MiB of kernel memory",
            kernel.max_sites,
            kernel.max_processes,
            kernel.map_bytes.div_ceil(1 << 20)
        );
        if let Some(fallback) = kernel.fallback {
            let _ = writeln!(text, "  fallback             {fallback}");
        }
        for target in &self.targets {
            let version = target.go_version.as_deref().unwrap_or("Go version unknown");
            let _ = writeln!(text, "\nprocess {}  {}  {version}", target.pid, target.exe);
            if let Some(library) = &target.library {
                let _ = writeln!(text, "  its Go runtime is in {library}");
            }
            if let Some(reason) = &target.reason {
                let _ = writeln!(text, "  cannot be watched: {reason}");
            }
            for probe in &target.probes {
                let _ = writeln!(
                    text,
                    "  {:<6} {:<18} {:<14} at {:#x}, file offset {:#x}",
                    probe.event, probe.function, probe.instruction, probe.address, probe.file_offset
                );
            }
            if let Some(layout) = &target.layout {
                let _ = writeln!(text, "  layout of the runtime's structs from {layout}");
            }
            for note in &target.notes {
                let _ = writeln!(text, "  note: {note}");
            }
        }
        for (why, count) in &self.not_looked_at {
            let _ = writeln!(text, "\n{count} process{} not looked at: {why}", if *count == 1 { "" } else { "es" });
        }
        text
    }
}
