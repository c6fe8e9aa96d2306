//! Frames out of gopclntab and its inline trees: what the Go runtime itself prints, in every Go binary, stripped or not.
//!
//! Refuses an inline chain that does not end within [`MAX_INLINE_DEPTH`] or leaves its function.

use super::{Frame, SymbolError};
use crate::{
    address::VirtAddr,
    binary::{Binary, BinaryError, code, pclntab::Record},
};

/// Deeper than the compiler's inlining budget allows.
pub(super) const MAX_INLINE_DEPTH: usize = 256;

/// The frames at `pc` itself, innermost first; empty outside Go code and in the padding between functions.
pub(super) fn frames_at(binary: &Binary, pc: VirtAddr) -> Result<Vec<Frame>, SymbolError> {
    match binary.record_at(pc)? {
        Some(record) => frames_in(binary, &record, pc),
        None => Ok(Vec::new()),
    }
}

fn frames_in(binary: &Binary, record: &Record, pc: VirtAddr) -> Result<Vec<Frame>, SymbolError> {
    let (image, table) = (binary.image(), binary.table());
    let mut positions = table.positions(image, record);
    let mut frames = Vec::new();
    let mut at = pc.0;
    loop {
        let Some(position) = positions.at(at)? else { return Ok(frames) };
        let call = position.inlined;
        let name_offset = call.map_or(record.name_offset, |call| call.name_offset);
        let symbol = table.name(image, name_offset)?;
        frames.push(Frame::of_symbol(symbol, position.file, position.line, call.is_some()));
        let Some(call) = call else { return Ok(frames) };
        at = record.entry + u64::from(call.parent_offset);
        if at >= record.end || frames.len() >= MAX_INLINE_DEPTH {
            return Err(BinaryError::malformed("inline chain", pc.0).into());
        }
    }
}

/// The start of the function at `start_pc`, or of the one it wraps.
///
/// `go f(x)` makes a wrapper without arguments (`gowrap1`, before 1.22 `func1`) and mostly records the entry of `f` with
/// it; method values (`f-fm`) and, before 1.22, the wrappers of function literals have no record, but one call.
/// A wrapper of a wrapper is followed, not for ever.
pub(super) fn unwrapped(binary: &Binary, start_pc: VirtAddr) -> Result<Option<VirtAddr>, SymbolError> {
    const MAX_WRAPPERS: usize = 8;
    let mut pc = start_pc;
    for _ in 0..MAX_WRAPPERS {
        let Some(record) = binary.record_at(pc)? else { return Ok(None) };
        let wrapped = match binary.table().wrapped(binary.image(), &record)? {
            Some(wrapped) => Some(VirtAddr(wrapped)),
            None => only_call(binary, &record)?,
        };
        match wrapped {
            // Only the very start of a function is worth following.
            Some(wrapped) if binary.record_at(wrapped)?.is_some_and(|to| to.entry == wrapped.0) => pc = wrapped,
            _ => return Ok(Some(pc)),
        }
    }
    Ok(Some(pc))
}

/// The function a wrapper calls, if it is the only one beside the runtime's own (which grow the stack and check for
/// nil).
fn only_call(binary: &Binary, record: &Record) -> Result<Option<VirtAddr>, SymbolError> {
    let function = binary.function(record)?;
    if !function.wrapper || function.entry.0 != record.entry {
        return Ok(None);
    }
    let mut only = None;
    for called in code::direct_calls(binary, &function)? {
        let Some(to) = binary.function_at(called)? else { continue };
        if to.name.starts_with("runtime.") {
            continue;
        }
        if only.replace(called).is_some() {
            return Ok(None);
        }
    }
    Ok(only)
}

/// A function name as the runtime prints it: the type arguments of a generic function become "...". `None` where there
/// are none.
///
/// `funcNameForPrint` (`runtime/symtab.go`); before Go 1.21 the linker did it already.
pub(super) fn printed(name: &str) -> Option<String> {
    let ((before, _), (inside, after)) = (name.split_once('[')?, name.rsplit_once(']')?);
    (inside.len() > before.len()).then(|| format!("{before}[...]{after}"))
}

#[cfg(test)]
mod tests {
    use super::printed;

    #[test]
    fn type_arguments_are_shortened() {
        let print = |name: &str| printed(name).unwrap_or_else(|| name.to_owned());
        assert_eq!(print("main.spawn[go.shape.int].func1"), "main.spawn[...].func1");
        assert_eq!(print("main.(*Set[go.shape.[]int,go.shape.map[int]string]).add"), "main.(*Set[...]).add");
        assert_eq!(print("main.spawn[...]"), "main.spawn[...]");
        assert_eq!(print("main.main"), "main.main");
        assert_eq!(print("odd]name["), "odd]name[");
        assert_eq!(print("odd[name"), "odd[name");
    }
}
