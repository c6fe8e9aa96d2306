//! The runtime's own dump, as `debug=2` of net/http/pprof and SIGQUIT print it, so that what reads those reads this.
//!
//! Two differences: arguments are not printed (`(...)` where a function has any or not), and stacks are whole where the
//! runtime leaves out the middle of a deep one.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use crate::dump::{Dump, names::is_shown};
use crate::{
    census::{CallSite, Depth, Goroutine, Status},
    symbols::Frame,
};

/// Writes the dump.
///
/// # Errors
///
/// Errors of writing to `out`.
pub fn write(dump: &Dump<'_>, out: &mut impl Write) -> io::Result<()> {
    let mut text = String::new();
    for goroutine in dump.goroutines() {
        text.clear();
        one(dump, goroutine, &mut text);
        out.write_all(text.as_bytes())?;
    }
    out.flush()
}

fn one(dump: &Dump<'_>, goroutine: &Goroutine, text: &mut String) {
    header(dump, goroutine, text);
    let calls = dump.calls(goroutine);
    match goroutine.stack {
        Some(stack) => {
            // A stack without a frame of the user's is shown with those of the runtime, as the runtime does.
            let mut any = dump.runtime_frames;
            if !any {
                any = frames(dump, calls, false, text);
            }
            if dump.runtime_frames || !any {
                frames(dump, calls, true, text);
            }
            if dump.census.stacks.depth(stack) != Depth::Whole {
                text.push_str("...additional frames elided...\n");
            }
        }
        None if goroutine.status == Status::Running => {
            text.push_str("\tgoroutine running on other thread; stack unavailable\n");
        }
        None => text.push_str("\tgoroutine changing; stack unavailable\n"),
    }
    created_by(dump, goroutine, text);
    text.push('\n');
}

fn header(dump: &Dump<'_>, goroutine: &Goroutine, text: &mut String) {
    let _ = write!(text, "goroutine {} [{}", goroutine.goid, dump.state(goroutine));
    let waits = matches!(goroutine.status, Status::Waiting | Status::Syscall);
    let minutes = dump.census.waited(goroutine).filter(|_| waits).map_or(0, |waited| waited.as_secs() / 60);
    if minutes >= 1 {
        let _ = write!(text, ", {minutes} minutes");
    }
    if goroutine.locked {
        text.push_str(", locked to thread");
    }
    text.push(']');
    if dump.process.prints_labels {
        labels(dump, goroutine, text);
    }
    text.push_str(":\n");
}

/// Labels as Go 1.27 prints them: quoted where they have anything but letters, digits, dots, slashes, underscores.
fn labels(dump: &Dump<'_>, goroutine: &Goroutine, text: &mut String) {
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"./_".contains(&byte));
    let word = |word: &str| if plain(word) { word.to_owned() } else { format!("{word:?}") };
    for (number, (key, value)) in dump.census.labels.get(goroutine.labels).enumerate() {
        let _ = write!(text, "{}{}: {}", if number == 0 { " {" } else { ", " }, word(key), word(value));
    }
    if dump.census.labels.get(goroutine.labels).next().is_some() {
        text.push('}');
    }
}

/// Writes the frames, and tells whether there was one to write.
fn frames(dump: &Dump<'_>, calls: &[CallSite], runtime: bool, text: &mut String) -> bool {
    let mut callee: Option<String> = None;
    let mut any = false;
    for call in calls {
        let place = dump.names.place(*call);
        if place.frames.is_empty() {
            let _ = writeln!(text, "non-Go function at pc={:x}", call.pc().0);
            any = true;
        }
        for frame in &place.frames {
            let shown = runtime || is_shown(frame, place.wrapper, callee.as_deref());
            callee = Some(frame.function.clone());
            if shown {
                let offset = (!frame.inlined).then_some(place.offset);
                self::frame(frame, offset, text);
                any = true;
            }
        }
    }
    any
}

fn frame(frame: &Frame, offset: Option<u64>, text: &mut String) {
    let _ = writeln!(text, "{}(...)", printed(&frame.function));
    let _ = write!(text, "\t{}:{}", frame.file, frame.line);
    end(offset, text);
}

/// `panic` is what users know `runtime.gopanic` as.
fn printed(function: &str) -> &str {
    if function == "runtime.gopanic" { "panic" } else { function }
}

fn end(offset: Option<u64>, text: &mut String) {
    if let Some(offset) = offset.filter(|&offset| offset > 0) {
        let _ = write!(text, " +{offset:#x}");
    }
    text.push('\n');
}

fn created_by(dump: &Dump<'_>, goroutine: &Goroutine, text: &mut String) {
    let place = dump.names.creation(dump.census.origin(goroutine).gopc);
    // The first goroutine was made by no one the user knows.
    let Some(physical) = place.frames.last().filter(|_| goroutine.goid != 1) else { return };
    if !dump.runtime_frames && !is_shown(physical, place.wrapper, None) {
        return;
    }
    let _ = write!(text, "created by {}", printed(&physical.function));
    if goroutine.parent_goid != 0 {
        let _ = write!(text, " in goroutine {}", goroutine.parent_goid);
    }
    let _ = write!(text, "\n\t{}:{}", physical.file, physical.line);
    end(Some(place.offset), text);
}
