//! The goroutine profile as text (`runtime/pprof/pprof.go`, `printCountProfile`): equal stacks counted.

use super::{Saved, file_and_line, frame};
use crate::history::population::{Kind, Kinds, Member, Population};

/// Reads all stacks; what is no part of one is passed over.
pub(super) fn read(text: &str) -> Saved {
    let mut kinds = Kinds::default();
    let mut goroutines = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let Some((count, _)) = line.split_once(" @") else { continue };
        let Ok(count) = count.trim().parse::<u32>() else { continue };
        let count = u64::from(count);
        let mut kind = Kind::default();
        let mut stack_bytes = 0;
        while let Some(line) = lines.next_if(|line| line.starts_with('#')) {
            if let Some(labels) = line.strip_prefix("# labels: ") {
                let labels: std::collections::BTreeMap<String, String> =
                    serde_json::from_str(labels).unwrap_or_default();
                kind.labels = labels.into_iter().collect();
            } else if let Some(bytes) = line.strip_prefix("# stacks: ") {
                let bytes = bytes.split(' ').next().and_then(|bytes| bytes.parse::<u64>().ok());
                stack_bytes = bytes.unwrap_or(0) / count.max(1);
            } else {
                // "#\t0x45\tmain.f+0x1d\t/src/x.go:12"; inlined calls have no address of their own in some versions.
                let mut fields = line.split('\t').skip(1).filter(|field| !field.is_empty());
                let (Some(_), Some(function), Some(place)) = (fields.next(), fields.next(), fields.next()) else {
                    continue;
                };
                let name = function.rsplit_once("+0x").map_or(function, |(name, _)| name);
                let (file, line) = file_and_line(place);
                kind.frames.push(frame(name, file, line));
            }
        }
        kind.start_function = kind.frames.last().map(|frame| frame.function.clone()).unwrap_or_default();
        let kind = kinds.intern(kind);
        goroutines.push(Member { stack_bytes, ..Member::of_kind(kind, count) });
    }
    let population = Population { goroutines, kinds: kinds.into_kinds(), ..Population::default() };
    Saved { population, numbered: false, has_creators: false }
}
