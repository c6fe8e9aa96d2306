//! Which goroutines of a census are written.

use std::collections::HashMap;

use globset::GlobMatcher;

use crate::{
    census::{Goroutine, Origin, Status},
    dump::Dump,
    runtime::WaitReasons,
};

/// The conditions asked for; everything must hold.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Has all of these labels.
    pub labels: Vec<(String, String)>,
    /// Is in this state: a status ("waiting", "running") or a wait reason in the runtime's words.
    pub state: Option<String>,
    /// Comes from a site that matches: the function with the `go` statement, its file:line, or the function started.
    pub site: Option<GlobMatcher>,
    /// The runtime's own, too.
    pub system: bool,
}

impl Selection {
    /// A label out of `KEY=VALUE`.
    #[must_use]
    pub fn label(text: &str) -> Option<(String, String)> {
        let (key, value) = text.split_once('=')?;
        Some((key.to_owned(), value.to_owned()))
    }

    /// Refuses a state that no goroutine of a binary with these wait reasons can be in.
    ///
    /// # Errors
    ///
    /// A sentence that names those there are.
    pub fn check_state(&self, reasons: &WaitReasons) -> Result<(), String> {
        let Some(state) = &self.state else { return Ok(()) };
        let mut all: Vec<&str> = Status::ALL.into_iter().map(Status::name).collect();
        all.extend(reasons.names().filter(|name| !name.is_empty()));
        if all.contains(&state.as_str()) {
            return Ok(());
        }
        all.dedup();
        Err(format!("no goroutine can be in the state {state:?}; there are: {}", all.join(", ")))
    }

    /// The goroutines asked for, by their position in the census.
    #[must_use]
    pub fn of(&self, dump: &Dump<'_>) -> Vec<usize> {
        let mut sites: HashMap<Origin, bool> = HashMap::new();
        let mut wanted = |goroutine: &Goroutine| {
            let census = dump.census;
            if census.is_system(goroutine) && !goroutine.runs_user_code && !self.system {
                return false;
            }
            let has = |label: &(String, String)| {
                census.labels.get(goroutine.labels).any(|(key, value)| key == label.0 && value == label.1)
            };
            let in_state = |state: &String| goroutine.status.name() == state || dump.state(goroutine) == state.as_str();
            self.labels.iter().all(has)
                && self.state.as_ref().is_none_or(in_state)
                && self.site.as_ref().is_none_or(|glob| {
                    let origin = census.origin(goroutine);
                    *sites.entry(origin).or_insert_with(|| site_matches(dump, origin, glob))
                })
        };
        let all = dump.census.goroutines.iter().enumerate();
        all.filter(|(_, goroutine)| wanted(goroutine)).map(|(index, _)| index).collect()
    }
}

fn site_matches(dump: &Dump<'_>, origin: Origin, glob: &GlobMatcher) -> bool {
    let place = dump.names.creation(origin.gopc);
    let created_by = place.frames.last();
    created_by.is_some_and(|frame| matches_statement(glob, &frame.function, &frame.file, frame.line))
        || glob.is_match(dump.names.start(origin.startpc))
}

/// True if a pattern means a `go` statement: by its function, or by its file:line.
pub(crate) fn matches_statement(glob: &GlobMatcher, function: &str, file: &str, line: u32) -> bool {
    glob.is_match(function) || glob.is_match(format!("{file}:{line}"))
}
