//! The goroutine profile as `go tool pprof` reads it (profile.proto), already inflated.

use std::collections::HashMap;

use prost::Message as _;

use super::profile::{Function, Location, Profile};
use super::{Saved, SavedError, frame, has_room};
use crate::history::population::{Kind, Kinds, Member, Population};

/// Calls of one stack; more are cut.
const MAX_FRAMES: usize = 4096;

/// Reads all samples.
pub(super) fn read(bytes: &[u8]) -> Result<Saved, SavedError> {
    let profile = Profile::decode(bytes).map_err(|_| SavedError::UnknownForm)?;
    if profile.sample_type.is_empty() || profile.string_table.first().is_none_or(|first| !first.is_empty()) {
        return Err(SavedError::UnknownForm);
    }
    let text = |number: i64| {
        usize::try_from(number).ok().and_then(|at| profile.string_table.get(at)).map_or("", String::as_str)
    };
    let counts = profile.sample_type.iter().position(|value| matches!(text(value.r#type), "goroutine" | "goroutines"));
    let counts = counts.ok_or_else(|| SavedError::Damaged {
        form: "profile",
        why: "it has no goroutines in it: another profile than /debug/pprof/goroutine".to_owned(),
    })?;
    let locations: HashMap<u64, &Location> = profile.location.iter().map(|one| (one.id, one)).collect();
    let functions: HashMap<u64, &Function> = profile.function.iter().map(|one| (one.id, one)).collect();
    let mut kinds = Kinds::default();
    let mut goroutines = Vec::new();
    for sample in &profile.sample {
        let count = sample.value.get(counts).and_then(|count| u32::try_from(*count).ok()).map_or(0, u64::from);
        let lines = sample.location_id.iter().filter_map(|id| locations.get(id)).flat_map(|location| &location.line);
        let frames = lines.take(MAX_FRAMES).map(|line| {
            let function = functions.get(&line.function_id);
            let (name, file) = function.map_or(("?", ""), |function| (text(function.name), text(function.filename)));
            frame(name, file.to_owned(), u32::try_from(line.line).unwrap_or(0))
        });
        let frames: Vec<_> = frames.collect();
        let labels =
            sample.label.iter().map(|label| (text(label.key).to_owned(), text(label.str).to_owned())).collect();
        let start_function = frames.last().map(|frame| frame.function.clone()).unwrap_or_default();
        let kind = kinds.intern(Kind { frames, labels, start_function, ..Kind::default() });
        has_room(&kinds)?;
        goroutines.push(Member::of_kind(kind, count));
    }
    let population = Population { goroutines, kinds: kinds.into_kinds(), ..Population::default() };
    Ok(Saved { population, numbered: false, has_creators: false })
}
