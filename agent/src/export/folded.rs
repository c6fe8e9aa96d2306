//! One line per different stack, outermost function first, and how many goroutines have it: input of flame graphs.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use crate::dump::Dump;

/// Writes the lines, in order of their text.
///
/// # Errors
///
/// Errors of writing to `out`.
pub fn write(dump: &Dump<'_>, out: &mut impl Write) -> io::Result<()> {
    let mut lines: BTreeMap<String, u64> = BTreeMap::new();
    for ((stack, _), group) in dump.by_stack() {
        let calls = stack.map_or(&[][..], |stack| dump.census.stacks.calls(stack));
        let mut functions: Vec<String> = Vec::new();
        for (call, place, frames) in dump.places(calls).iter().rev() {
            if place.frames.is_empty() {
                functions.push(format!("{:#x}", call.pc().0));
            }
            // A semicolon or a space would end the name.
            let frames = place.frames.get(frames.clone()).unwrap_or_default();
            functions.extend(frames.iter().rev().map(|frame| frame.function.replace([';', ' ', '\n'], "_")));
        }
        if functions.is_empty() {
            functions.push("[running]".to_owned());
        }
        *lines.entry(functions.join(";")).or_default() += group.count;
    }
    for (stack, count) in lines {
        writeln!(out, "{stack} {count}")?;
    }
    out.flush()
}
