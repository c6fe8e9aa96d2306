//! The goroutine profile as text, as `debug=1` of net/http/pprof prints it, with the memory of the stacks in comments.

use std::{
    io::{self, Write},
    ops::Range,
    rc::Rc,
};

use crate::dump::{Dump, Place};
use crate::{
    census::{CallSite, Depth},
    symbols::Frame,
};

/// Writes the profile, the most frequent stack first.
///
/// # Errors
///
/// Errors of writing to `out`.
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
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let labels = dump.census.labels.get(labels).map(|(key, value)| format!("{}:{}", quoted(key), quoted(value)));
        let mut labels: Vec<String> = labels.collect();
        labels.sort_unstable();
        if !labels.is_empty() {
            writeln!(out, "# labels: {{{}}}", labels.join(", "))?;
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
    let places = dump.places(calls);
    let shown =
        |place: &Rc<Place>, frames: &Range<usize>| place.frames.get(frames.clone()).unwrap_or_default().to_vec();
    let all = dump.runtime_frames || places.iter().all(|(_, place, frames)| shown(place, frames).iter().all(hidden));
    let mut show = all;
    for (call, place, frames) in &places {
        let pc = call.pc().0;
        if place.frames.is_empty() {
            writeln!(out, "#\t{pc:#x}")?;
            show = true;
        }
        for frame in shown(place, frames) {
            show |= !hidden(&frame);
            if show {
                writeln!(out, "#\t{pc:#x}\t{}+{:#x}\t{}:{}", frame.function, place.offset, frame.file, frame.line)?;
            }
        }
    }
    Ok(())
}
