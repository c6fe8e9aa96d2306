//! The one place through which text passes on its way to a terminal or a log.
//!
//! Names of files, functions, modules and processes are chosen by whoever builds a container, and root reads them. Control
//! characters would move the cursor, rename the terminal or forge lines; marks of writing direction would show a name as
//! another one. Both are written as their number, `\u001b`, which is what JSON has for them, too.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, Write},
    path::Path,
};

/// A name as one piece of a line: line breaks are written as numbers, too.
#[must_use]
pub fn name(text: &str) -> Cow<'_, str> {
    if !text.chars().any(|c| is_harmful(c) || c == '\n' || c == '\t') {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        push(&mut shown, c, is_harmful(c) || c == '\n' || c == '\t');
    }
    Cow::Owned(shown)
}

/// A path that somebody else chose, as one piece of a line. Bytes that are no UTF-8 are replaced.
#[must_use]
pub fn path(path: &Path) -> String {
    name(&path.to_string_lossy()).into_owned()
}

/// True for what a terminal obeys instead of showing it: control characters but for line feed and tab, and marks of writing
/// direction (Unicode's Bidi_Control).
fn is_harmful(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        c => c.is_control(),
    }
}

fn push(text: &mut String, c: char, as_number: bool) {
    if as_number {
        let _ = write!(text, "\\u{:04x}", u32::from(c));
    } else {
        text.push(c);
    }
}

/// Lines for a terminal or a log: passes text on to `W`, and what a terminal would obey as a number.
#[derive(Debug)]
pub struct Lines<W: Write> {
    inner: W,
    /// The beginning of a letter whose other bytes have not come yet.
    begun: Vec<u8>,
}

impl<W: Write> Lines<W> {
    /// Writes to `inner`.
    pub fn new(inner: W) -> Self {
        Self { inner, begun: Vec::new() }
    }
}

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut all = std::mem::take(&mut self.begun);
        all.extend_from_slice(bytes);
        let mut shown = String::with_capacity(all.len());
        let mut chunks = all.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            for c in chunk.valid().chars() {
                push(&mut shown, c, is_harmful(c));
            }
            let invalid = chunk.invalid();
            if chunks.peek().is_none() && is_begun(invalid) {
                self.begun = invalid.to_vec();
            } else if !invalid.is_empty() {
                shown.push(char::REPLACEMENT_CHARACTER);
            }
        }
        self.inner.write_all(shown.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// True where more bytes can make a letter of these.
fn is_begun(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(pieces: &[&[u8]]) -> String {
        let mut out = Vec::new();
        let mut lines = Lines::new(&mut out);
        for piece in pieces {
            lines.write_all(piece).unwrap();
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_name_is_one_piece_of_a_line() {
        assert_eq!(name("main.(*Server).läuft[go.shape.int]"), "main.(*Server).läuft[go.shape.int]");
        assert_eq!(
            name("a\x1b]0;x\x07\r\nb\u{202e}c\u{9b}d\x7f"),
            "a\\u001b]0;x\\u0007\\u000d\\u000ab\\u202ec\\u009bd\\u007f"
        );
        assert_eq!(path(Path::new("/srv/a\nb")), "/srv/a\\u000ab");
    }

    #[test]
    fn lines_stay_lines_and_letters_come_in_pieces() {
        assert_eq!(written(&[b"a\tb\n", b"c\x1b[2J\n"]), "a\tb\nc\\u001b[2J\n");
        let letter = "ä…".as_bytes();
        assert_eq!(written(&[&letter[..1], &letter[1..3], &letter[3..]]), "ä…");
        // C1 in UTF-8 that is cut in two, and alone.
        assert_eq!(written(&[b"\xc2", b"\x9b1m"]), "\\u009b1m");
        assert_eq!(written(&[b"\x9b1m"]), "\u{fffd}1m");
    }

    /// Whatever goes in, cut wherever it may be: nothing comes out that a terminal obeys.
    #[test]
    fn nothing_but_text_comes_out() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let harmful = ["\x1b", "\r", "\x07", "\u{9b}", "\u{202e}", "\u{2066}", "\u{200f}", "\u{61c}", "ä", "\n"];
        for _ in 0..2000 {
            let mut bytes = Vec::new();
            for _ in 0..next() % 24 {
                match next() % 3 {
                    0 => bytes.extend_from_slice(harmful[(next() % harmful.len() as u64) as usize].as_bytes()),
                    1 => bytes.push((next() & 0xff) as u8),
                    _ => bytes.push(b'a'),
                }
            }
            let cut = if bytes.is_empty() { 0 } else { (next() % bytes.len() as u64) as usize };
            let text = written(&[&bytes[..cut], &bytes[cut..]]);
            assert!(!text.chars().any(is_harmful), "{bytes:?} gave {text:?}");
            assert!(!name(&text).contains('\n'));
        }
    }
}
