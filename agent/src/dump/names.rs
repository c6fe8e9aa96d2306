//! Call sites in words, and which of them the runtime shows in its own dumps.

use std::{cell::RefCell, collections::HashMap, rc::Rc};

use crate::{
    address::{Bias, RuntimeAddr},
    binary::Binary,
    census::CallSite,
    symbols::{Frame, Symbolizer},
};

/// Places remembered; a dump asks for the same ones again and again.
const MAX_REMEMBERED: usize = 1 << 18;

/// One call site in words.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// The calls inlined there, innermost first; the physical function last. Empty where nothing is known.
    pub frames: Vec<Frame>,
    /// Bytes from the function's entry.
    pub offset: u64,
    /// The function was made by the compiler, to adapt a call.
    pub wrapper: bool,
    /// The first instruction of the function.
    pub entry: RuntimeAddr,
}

/// Names of addresses of one process.
pub struct Names<'a> {
    binary: &'a Binary,
    symbolizer: &'a Symbolizer,
    bias: Bias,
    places: RefCell<HashMap<CallSite, Rc<Place>>>,
}

impl<'a> Names<'a> {
    /// Names out of a binary that was loaded with `bias`.
    #[must_use]
    pub fn new(binary: &'a Binary, symbolizer: &'a Symbolizer, bias: Bias) -> Self {
        Self { binary, symbolizer, bias, places: RefCell::default() }
    }

    /// The words for a call site.
    pub fn place(&self, call: CallSite) -> Rc<Place> {
        if let Some(place) = self.places.borrow().get(&call) {
            return Rc::clone(place);
        }
        let place = Rc::new(self.look_up(call));
        let mut places = self.places.borrow_mut();
        if places.len() >= MAX_REMEMBERED {
            places.clear();
        }
        places.insert(call, Rc::clone(&place));
        place
    }

    /// The `go` statement that a goroutine comes from.
    pub fn creation(&self, gopc: RuntimeAddr) -> Rc<Place> {
        if gopc.0 == 0 { Rc::default() } else { self.place(CallSite::returning_to(gopc)) }
    }

    /// The function a goroutine started with, as the source has it.
    #[must_use]
    pub fn start(&self, startpc: RuntimeAddr) -> String {
        if startpc.0 == 0 {
            return String::new();
        }
        let frame = self.symbolizer.entry(self.bias.to_virt(startpc)).ok().flatten();
        frame.map_or_else(|| format!("(unknown {startpc})"), |frame| frame.function)
    }

    fn look_up(&self, call: CallSite) -> Place {
        let pc = self.bias.to_virt(call.pc());
        let frames = self.symbolizer.frames(self.bias.to_virt(call.return_address())).unwrap_or_default();
        // A return address belongs to the function of the call before it.
        let inside = if call.is_exact() { Some(pc.0) } else { pc.0.checked_sub(1) };
        let inside = inside.map(crate::address::VirtAddr);
        let function = inside.and_then(|pc| self.binary.function_at(pc).ok().flatten());
        match function {
            Some(function) => Place {
                frames,
                offset: pc.0.saturating_sub(function.entry.0),
                wrapper: function.wrapper,
                entry: self.bias.to_runtime(function.entry),
            },
            None => Place { frames, ..Place::default() },
        }
    }
}

/// True if the runtime shows a frame in a dump (`showfuncinfo`, `runtime/traceback.go`): everything but its own insides
/// and what the compiler put between two functions of the user.
pub(crate) fn is_shown(frame: &Frame, wrapper: bool, callee: Option<&str>) -> bool {
    if is_in_between(frame, wrapper, callee) {
        return false;
    }
    let name = frame.function.as_str();
    match name {
        "runtime.runFinalizers" | "runtime.runCleanups" => true,
        "runtime.gopanic" => callee.is_some(),
        _ => name.contains('.') && name.strip_prefix("runtime.").is_none_or(is_exported),
    }
}

/// True if a frame is of what the compiler put between two functions of the user, which neither dumps nor profiles have
/// (`elideWrapperCalling`, `runtime/traceback.go`): unless it panicked.
pub(crate) fn is_in_between(frame: &Frame, wrapper: bool, callee: Option<&str>) -> bool {
    let panicking =
        callee.is_some_and(|name| matches!(name, "runtime.gopanic" | "runtime.sigpanic" | "runtime.panicwrap"));
    wrapper && !frame.inlined && !panicking
}

/// True if a function of the runtime, named without the package, is one that users call (`isExportedRuntime`).
fn is_exported(name: &str) -> bool {
    let starts_upper = |text: &str| text.starts_with(|first: char| first.is_ascii_uppercase());
    match name.rsplit_once('.') {
        None => starts_upper(name),
        Some((receiver, method)) => {
            let receiver = receiver.strip_prefix("(*").and_then(|rest| rest.strip_suffix(')')).unwrap_or(receiver);
            starts_upper(method) && starts_upper(receiver)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(name: &str) -> bool {
        let frame = Frame::named(name.to_owned(), String::new(), 1, false);
        is_shown(&frame, false, Some("main.f"))
    }

    #[test]
    fn the_runtime_keeps_its_insides_to_itself() {
        for name in
            ["main.main", "sync.runtime_Semacquire", "runtime.Gosched", "runtime.(*Pinner).Pin", "runtime.gopanic"]
        {
            assert!(shown(name), "{name}");
        }
        for name in ["runtime.gopark", "runtime.chanrecv1", "runtime.(*timers).run", "runtime.(*Pinner).pin", "cgo"] {
            assert!(!shown(name), "{name}");
        }
    }

    #[test]
    fn a_wrapper_is_left_out_unless_it_panicked() {
        let frame = Frame::named("main.main.gowrap1".to_owned(), String::new(), 1, false);
        assert!(!is_shown(&frame, true, Some("main.f")));
        assert!(is_shown(&frame, true, Some("runtime.panicwrap")));
        assert!(is_shown(&Frame { inlined: true, ..frame }, true, Some("main.f")));
    }
}
