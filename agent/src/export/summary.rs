//! The goroutine profile as text, as `debug=1` of net/http/pprof prints it, with the memory of the stacks in comments.

use std::io::{self, Write};

use super::Dump;
use crate::{
    census::{CallSite, Depth},
    symbols::Frame,
};

/// Writes the profile, the most frequent stack first.
///
/// # Errors
///
/// What writing says.
pub fn write(dump: &Dump<'_>, out: &mut impl Write) -> io::Result<()> {
    let mut groups: Vec<_> = dump.by_stack().into_iter().collect();
    groups.sort_by_key(|(key, group)| (std::cmp::Reverse(group.count), *key));
    let total: u64 = groups.iter().map(|(_, group)| group.count).sum();
    let bytes: u64 = groups.iter().map(|(_, group)| group.stack_bytes).sum();
    let used: u64 = groups.iter().map(|(_, group)| group.used_bytes).sum();
    writeln!(out, "goroutine profile: total {total}")?;
    writeln!(out, "# stacks: {bytes} bytes, {used} in use\n")?;
    for ((stack, labels), group) in groups {
        let calls = stack.map_or(&[][..], |stack| dump.census.stacks.calls(stack));
        write!(out, "{} @", group.count)?;
        for call in calls {
            write!(out, " {:#x}", call.return_address().0)?;
        }
        writeln!(out)?;
        let labels: serde_json::Map<String, serde_json::Value> =
            dump.census.labels.get(labels).map(|(key, value)| (key.to_owned(), value.into())).collect();
        if !labels.is_empty() {
            writeln!(out, "# labels: {}", serde_json::Value::from(labels))?;
        }
        writeln!(out, "# stacks: {} bytes, {} in use", group.stack_bytes, group.used_bytes)?;
        match stack {
            None => writeln!(out, "#\trunning, or changing too fast to read its stack")?,
            Some(stack) => {
                records(dump, calls, out)?;
                if dump.census.stacks.depth(stack) != Depth::Whole {
                    writeln!(out, "#\t... deeper frames not read")?;
                }
            }
        }
        writeln!(out)?;
    }
    out.flush()
}

/// `printStackRecord` (`runtime/pprof/pprof.go`): the runtime's functions at the beginning are left out, unless there is
/// nothing else.
fn records(dump: &Dump<'_>, calls: &[CallSite], out: &mut impl Write) -> io::Result<()> {
    let hidden =
        |frame: &Frame| frame.function.starts_with("runtime.") || frame.function.starts_with("internal/runtime/");
    let places: Vec<_> = calls.iter().map(|call| (*call, dump.names.place(*call))).collect();
    let all = dump.runtime_frames || places.iter().flat_map(|(_, place)| &place.frames).all(hidden);
    let mut show = all;
    for (call, place) in &places {
        if place.frames.is_empty() {
            writeln!(out, "#\t{:#x}", call.pc().0)?;
            show = true;
        }
        for frame in &place.frames {
            show |= !hidden(frame);
            if show {
                let pc = call.pc().0;
                writeln!(out, "#\t{pc:#x}\t{}+{:#x}\t{}:{}", frame.function, place.offset, frame.file, frame.line)?;
            }
        }
    }
    Ok(())
}
