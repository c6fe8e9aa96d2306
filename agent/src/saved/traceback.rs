//! The runtime's own dump (`runtime/traceback.go`, `goroutineheader`, `traceback1`).

use std::time::Duration;

use super::{Saved, file_and_line, frame};
use crate::{
    history::population::{Kind, Kinds, Member, Population},
    symbols::Frame,
};

/// Reads all goroutines; what is no part of one is passed over.
pub(super) fn read(text: &str) -> Saved {
    let mut kinds = Kinds::default();
    let mut goroutines = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(header) = Header::parse(line) else { continue };
        let mut kind = Kind { state: header.state.to_owned(), labels: header.labels, ..Kind::default() };
        let mut parent_goid = 0;
        // A blank line ends it, or the next header where that is missing.
        while let Some(line) = lines.next_if(|line| !line.trim().is_empty() && Header::parse(line).is_none()) {
            if line.starts_with("[originating from") {
                // Its ancestors, which are other goroutines.
                while lines.next_if(|line| !line.trim().is_empty()).is_some() {}
                break;
            }
            if line.starts_with(['\t', ' ']) || line.starts_with("...") {
                continue;
            }
            let (file, number) = lines.next_if(|line| line.starts_with('\t')).map_or((String::new(), 0), file_and_line);
            if let Some(creator) = line.strip_prefix("created by ") {
                let (function, goid) = creator.split_once(" in goroutine ").unwrap_or((creator, ""));
                parent_goid = goid.trim().parse().unwrap_or(0);
                kind.created_by = Some(frame(function.trim(), file, number));
            } else {
                kind.frames.push(frame(function(line), file, number));
            }
        }
        kind.start_function =
            kind.frames.iter().rev().find(is_started).map(|frame| frame.function.clone()).unwrap_or_default();
        goroutines.push(Member {
            count: 1,
            goid: header.goid,
            parent_goid,
            kind: kinds.intern(kind),
            run_mark: None,
            waited: header.minutes.map(|minutes| Duration::from_secs(minutes.saturating_mul(60))),
            stack_bytes: 0,
            waits_on: (0, 0),
        });
    }
    let population = Population { goroutines, kinds: kinds.into_kinds(), ..Population::default() };
    Saved { population, numbered: true, has_creators: true }
}

fn is_started(frame: &&Frame) -> bool {
    frame.function != "runtime.goexit"
}

/// `main.(*T).f(0x1, {0x2, 0x3})` ▶ `main.(*T).f`.
fn function(line: &str) -> &str {
    let line = line.trim();
    match line.rfind('(') {
        Some(at) if line.ends_with(')') && at > 0 => line.get(..at).unwrap_or(line),
        _ => line,
    }
}

struct Header<'a> {
    goid: u64,
    state: &'a str,
    minutes: Option<u64>,
    labels: Vec<(String, String)>,
}

impl<'a> Header<'a> {
    /// `goroutine 7 gp=0xc0 m=nil [chan receive, 5 minutes, locked to thread]{a: b}:`
    fn parse(line: &'a str) -> Option<Self> {
        let rest = line.strip_prefix("goroutine ")?;
        let (goid, rest) = rest.split_once(' ')?;
        let goid = goid.parse().ok()?;
        let (_, rest) = rest.split_once('[')?;
        let (inside, after) = rest.split_once(']')?;
        let mut parts = inside.split(", ");
        let state = parts.next()?;
        let minutes = parts.find_map(|part| part.strip_suffix(" minutes")?.parse().ok());
        let labels = after.trim().trim_end_matches(':').trim();
        let labels = labels.strip_prefix('{').and_then(|labels| labels.strip_suffix('}')).unwrap_or_default();
        let labels = labels.split(", ").filter_map(|label| {
            let (key, value) = label.split_once(": ").or_else(|| label.split_once(':'))?;
            let plain = |text: &str| text.trim().trim_matches('"').to_owned();
            Some((plain(key), plain(value)))
        });
        Some(Self { goid, state, minutes, labels: labels.collect() })
    }
}
