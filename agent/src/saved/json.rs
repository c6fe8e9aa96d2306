//! Dumps as `parkranger dump --format json` writes them (docs/json.md).

use std::time::Duration;

use serde::Deserialize;

use super::{Saved, SavedError, frame, has_room};
use crate::history::population::{Kind, Kinds, Member, Population};

#[derive(Deserialize)]
struct Document {
    sites: Vec<Site>,
    stacks: Vec<Stack>,
    goroutines: Vec<Goroutine>,
}

#[derive(Deserialize)]
struct Site {
    function: String,
    file: String,
    line: u32,
    start_function: String,
    #[serde(default)]
    system: bool,
}

#[derive(Deserialize)]
struct Stack {
    frames: Vec<Call>,
}

#[derive(Deserialize)]
struct Call {
    function: String,
    file: String,
    line: u32,
}

#[derive(Deserialize)]
struct Goroutine {
    goid: u64,
    state: String,
    site: usize,
    #[serde(default)]
    parent: u64,
    waited_ns: Option<u64>,
    stack: Option<usize>,
    #[serde(default)]
    stack_bytes: u64,
}

/// Reads it.
pub(super) fn read(bytes: &[u8]) -> Result<Saved, SavedError> {
    let document: Document = serde_json::from_slice(bytes)
        .map_err(|error| SavedError::Damaged { form: "JSON of parkranger dump", why: error.to_string() })?;
    let mut kinds = Kinds::default();
    let mut goroutines = Vec::new();
    for one in document.goroutines {
        let site = document.sites.get(one.site);
        let stack = one.stack.and_then(|stack| document.stacks.get(stack));
        let mut frames: Vec<_> = stack
            .map(|stack| stack.frames.iter().map(|call| frame(&call.function, call.file.clone(), call.line)).collect())
            .unwrap_or_default();
        // What the compiler put around the start function is on the stack here and in no other form.
        let started = site.and_then(|site| frames.iter().rposition(|frame| frame.function == site.start_function));
        frames.truncate(started.map_or(frames.len(), |at| at + 1));
        let created_by = site.filter(|site| !site.function.is_empty() && one.goid != 1);
        let kind = Kind {
            created_by: created_by.map(|site| frame(&site.function, site.file.clone(), site.line)),
            start_function: site.map(|site| site.start_function.clone()).unwrap_or_default(),
            state: one.state,
            frames,
            system: site.is_some_and(|site| site.system),
            labels: Vec::new(),
        };
        let kind = kinds.intern(kind);
        has_room(&kinds)?;
        goroutines.push(Member {
            count: 1,
            goid: one.goid,
            parent_goid: one.parent,
            kind,
            run_mark: None,
            waited: one.waited_ns.map(Duration::from_nanos),
            stack_bytes: one.stack_bytes,
            waits_on: (0, 0),
        });
    }
    let population = Population { goroutines, kinds: kinds.into_kinds(), ..Population::default() };
    Ok(Saved { population, numbered: true, has_creators: true })
}
