//! What `parkranger ps` found, as a table and as JSON.

use std::{fmt::Write as _, io, path::Path};

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

use crate::export::schema::SCHEMA;

/// The Go processes of a host.
#[derive(Debug, Serialize)]
pub struct List {
    /// The schema's version.
    pub schema: u32,
    /// By pid.
    pub processes: Vec<Row>,
    /// Processes that could not be looked at: by reason, how many.
    pub not_looked_at: std::collections::BTreeMap<String, u64>,
}

/// One Go process.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Its pid.
    pub pid: u32,
    /// When it was started: clock ticks after boot, as in /proc/PID/stat.
    pub start_time: u64,
    /// The same as a time of day, UTC.
    pub started: Option<String>,
    /// Its executable as it sees it; " (deleted)" is the kernel's mark.
    pub exe: String,
    /// The shared object with the Go runtime, where that is not the executable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub library: Option<String>,
    /// "go1.27.3"; `None` where the binary could not be read that far.
    pub go_version: Option<String>,
    /// Import path of the main package.
    pub main_package: Option<String>,
    /// Path of the main module.
    pub module: Option<String>,
    /// Version of the main module: a tag, "(devel)", or with the revision where the build knew it.
    pub version: Option<String>,
    /// How it was built.
    pub build: Build,
    /// The container's id.
    pub container: Option<String>,
    /// The systemd unit.
    pub unit: Option<String>,
    /// Variables of the environment that the Go runtime reads.
    pub environment: std::collections::BTreeMap<&'static str, String>,
    /// Whether it can be watched.
    pub watchable: bool,
    /// Why not.
    pub reason: Option<String>,
    /// Where the offsets of the runtime's structs come from.
    pub layout: Option<String>,
    /// Settings that bite.
    pub warnings: Vec<String>,
}

/// How a binary was built. `None` where nothing says so.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Build {
    /// No symbol table.
    pub stripped: Option<bool>,
    /// Without DWARF.
    pub no_dwarf: Option<bool>,
    /// Position independent.
    pub pie: Option<bool>,
    /// Without a dynamic loader.
    pub r#static: Option<bool>,
    /// With cgo.
    pub cgo: Option<bool>,
    /// With a profile.
    pub pgo: Option<bool>,
    /// With the race detector.
    pub race: Option<bool>,
    /// `exe`, `pie`, `c-shared`, …: the build mode.
    pub mode: Option<String>,
}

impl Build {
    /// The facts that are true, in a few words.
    fn words(&self) -> String {
        let facts = [
            (self.stripped, "stripped"),
            (self.no_dwarf.filter(|_| self.stripped != Some(true)), "no DWARF"),
            (self.pie, "PIE"),
            (self.r#static, "static"),
            (self.cgo, "cgo"),
            (self.pgo, "PGO"),
            (self.race, "race"),
        ];
        let mut words: Vec<&str> =
            facts.into_iter().filter(|(fact, _)| *fact == Some(true)).map(|(_, word)| word).collect();
        words.extend(self.mode.as_deref().filter(|mode| !matches!(*mode, "exe" | "pie")));
        words.join(" ")
    }
}

impl List {
    /// A new one for this schema.
    #[must_use]
    pub fn new(processes: Vec<Row>, not_looked_at: std::collections::BTreeMap<String, u64>) -> Self {
        Self { schema: SCHEMA, processes, not_looked_at }
    }

    /// Writes it as one line of JSON.
    ///
    /// # Errors
    ///
    /// What writing says.
    pub fn write_json(&self, mut out: impl io::Write) -> io::Result<()> {
        serde_json::to_writer(&mut out, self)?;
        out.write_all(b"\n")
    }

    /// As a table for people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(["PID", "NAME", "GO", "MODULE", "VERSION", "BUILD", "STARTED", "IN", "WATCH"]);
        for row in &self.processes {
            table.add_row([
                Cell::new(row.pid).set_alignment(CellAlignment::Right),
                Cell::new(row.name()),
                Cell::new(
                    row.go_version.as_deref().map_or("?", |version| version.strip_prefix("go").unwrap_or(version)),
                ),
                Cell::new(row.module.as_deref().or(row.main_package.as_deref()).unwrap_or("-")),
                Cell::new(row.version.as_deref().unwrap_or("-")),
                Cell::new(row.build.words()),
                Cell::new(row.started.as_deref().unwrap_or("-")),
                Cell::new(row.place()),
                Cell::new(row.how()),
            ]);
        }
        let mut text = String::new();
        if self.processes.is_empty() {
            text.push_str("No Go process was found.\n");
        } else {
            for line in table.to_string().lines() {
                let _ = writeln!(text, "{}", line.trim_end());
            }
        }
        for row in &self.processes {
            let notes =
                row.reason.iter().map(|reason| format!("cannot be watched: {reason}")).chain(row.warnings.clone());
            for note in notes {
                let _ = writeln!(text, "{} ({}): {note}", row.name(), row.pid);
            }
        }
        for (why, count) in &self.not_looked_at {
            let _ = writeln!(text, "{count} process{} not looked at: {why}", if *count == 1 { "" } else { "es" });
        }
        text
    }
}

impl Row {
    fn name(&self) -> String {
        let base =
            |path: &str| Path::new(path).file_name().map_or_else(|| path.to_owned(), |n| n.to_string_lossy().into());
        match &self.library {
            Some(library) => format!("{} [{}]", base(&self.exe), base(library)),
            None => base(&self.exe),
        }
    }

    fn place(&self) -> String {
        const SHORT_ID: usize = 12;
        match (&self.container, &self.unit) {
            (Some(id), _) => format!("container {}", id.get(..SHORT_ID).unwrap_or(id)),
            (None, Some(unit)) => unit.clone(),
            (None, None) => "-".to_owned(),
        }
    }

    fn how(&self) -> String {
        match &self.layout {
            Some(layout) if self.watchable => format!("yes, layout from {layout}"),
            _ if self.watchable => "yes".to_owned(),
            _ => "no".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row {
            pid: 42,
            start_time: 7,
            started: Some("2026-11-21T01:02:03Z".to_owned()),
            exe: "/srv/bin/api (deleted)".to_owned(),
            library: None,
            go_version: Some("go1.27.3".to_owned()),
            main_package: Some("example.org/api/cmd/api".to_owned()),
            module: Some("example.org/api".to_owned()),
            version: Some("v1.2.3".to_owned()),
            build: Build { stripped: Some(true), pie: Some(false), cgo: Some(true), ..Build::default() },
            container: Some("0123456789abcdef".repeat(4)),
            unit: None,
            environment: std::collections::BTreeMap::new(),
            watchable: true,
            reason: None,
            layout: Some("DWARF".to_owned()),
            warnings: vec!["GOGC=off without GOMEMLIMIT: garbage is never collected".to_owned()],
        }
    }

    #[test]
    fn a_row_says_what_it_is_and_what_bites() {
        let text = List::new(vec![row()], std::collections::BTreeMap::new()).to_text();
        assert!(text.contains("api (deleted)"), "{text}");
        assert!(text.contains("stripped cgo"), "{text}");
        assert!(text.contains("container 0123456789ab "), "{text}");
        assert!(text.contains("api (deleted) (42): GOGC=off"), "{text}");
    }

    #[test]
    fn what_cannot_be_watched_says_why() {
        let refused = Row {
            watchable: false,
            reason: Some("too old".to_owned()),
            library: Some("/x/libgo.so".to_owned()),
            ..row()
        };
        let text = List::new(vec![refused], [("run as root".to_owned(), 3)].into()).to_text();
        assert!(text.contains("[libgo.so]") && text.contains("cannot be watched: too old"), "{text}");
        assert!(text.contains("3 processes not looked at: run as root"), "{text}");
    }
}
