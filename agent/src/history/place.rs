//! Places: the owner of the code of a frame, the origin of a goroutine, the line it waits at.
//!
//! A creation site alone blames the wrong function where a helper starts goroutines for many (`sync.WaitGroup.Go`, errgroup,
//! a service's own `safego.Go`). The helper's goroutine then calls a function literal, and its name says which function it
//! was written in: that is the caller.

use std::sync::Arc;

use super::population::Kind;
use crate::symbols::Frame;

/// Owner of a function's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Of the program's main module.
    Own,
    /// Of a module it uses.
    Dependency,
    /// Of the standard library or the runtime.
    Standard,
}

/// A line of code.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Location {
    /// Function, as the runtime prints it.
    pub function: Arc<str>,
    /// File as the compiler recorded it.
    pub file: Arc<str>,
    /// Line; 0 where it is not known.
    pub line: u32,
}

impl Location {
    fn of(frame: &Frame) -> Self {
        Self { function: frame.function.as_str().into(), file: frame.file.as_str().into(), line: frame.line }
    }

    /// `function file.go:12`, the file without its folders.
    #[must_use]
    pub fn short(&self) -> String {
        let file = self.file.rsplit('/').next().unwrap_or_default();
        format!("{} {}:{}", self.function, file, self.line)
    }
}

/// Origin of goroutines: a creation site, and whom a helper started them for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site {
    /// The `go` statement; all empty where there is none.
    pub created_at: Location,
    /// The function started.
    pub start_function: Arc<str>,
    /// The function whose literal the helper runs, where the `go` statement is a helper's; "" else.
    pub caller: Arc<str>,
}

/// Kind of a wait, whatever the Go version calls it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Wait {
    /// An operation on a nil channel.
    NilChannel,
    /// `select {}`.
    EmptySelect,
    /// Sending to a channel.
    Send,
    /// Receiving from a channel.
    Receive,
    /// One of several channels.
    Select,
    /// `sync.Mutex`.
    Mutex,
    /// `sync.RWMutex`, to read.
    ReadLock,
    /// `sync.RWMutex`, to write.
    WriteLock,
    /// `sync.WaitGroup`.
    WaitGroup,
    /// `sync.Cond`.
    Cond,
    /// Another semaphore of the runtime.
    Semaphore,
    /// A file or connection.
    Io,
    /// A time.
    Sleep,
    /// A system call.
    Syscall,
    /// Nothing: it runs or could.
    Running,
    /// Something else.
    #[default]
    Other,
}

impl Wait {
    /// True for a wait for a lock.
    #[must_use]
    pub fn is_lock(self) -> bool {
        matches!(self, Self::Mutex | Self::ReadLock | Self::WriteLock)
    }

    /// True for a wait for a channel.
    #[must_use]
    pub fn is_channel(self) -> bool {
        matches!(self, Self::Send | Self::Receive | Self::Select)
    }

    fn of(kind: &Kind) -> Self {
        let state = kind.state.trim_end_matches(" (leaked)").trim_end_matches(" (durable)");
        match state {
            "chan send (nil chan)" | "chan receive (nil chan)" => Self::NilChannel,
            "select (no cases)" => Self::EmptySelect,
            "chan send" => Self::Send,
            "chan receive" => Self::Receive,
            "select" => Self::Select,
            "IO wait" => Self::Io,
            "sleep" => Self::Sleep,
            "syscall" => Self::Syscall,
            "running" | "runnable" | "preempted" => Self::Running,
            "sync.Mutex.Lock"
            | "sync.RWMutex.RLock"
            | "sync.RWMutex.Lock"
            | "sync.WaitGroup.Wait"
            | "sync.Cond.Wait"
            | "semacquire"
            | "waiting"
            | "" => Self::of_stack(kind, state),
            _ => Self::Other,
        }
    }

    /// Before Go 1.20 a lock is a "semacquire", and a group one up to 1.24: the stack says which. A read lock that waits for
    /// a writer, and a writer that waits for another, wait for the mutex inside.
    fn of_stack(kind: &Kind, state: &str) -> Self {
        let leading = kind.frames.iter().take_while(|frame| is_machinery(&frame.function));
        let sync = leading.filter_map(|frame| {
            let name =
                frame.function.strip_prefix("sync.").or_else(|| frame.function.strip_prefix("internal/sync."))?;
            Some(match name {
                "(*RWMutex).RLock" => Self::ReadLock,
                "(*RWMutex).Lock" => Self::WriteLock,
                "(*Mutex).Lock" | "(*Mutex).lockSlow" => Self::Mutex,
                "(*WaitGroup).Wait" => Self::WaitGroup,
                "(*Cond).Wait" => Self::Cond,
                _ => return None,
            })
        });
        // The outermost of them: `(*RWMutex).Lock` calls `(*Mutex).Lock`.
        let found = sync.last();
        found.unwrap_or(match state {
            "sync.Mutex.Lock" => Self::Mutex,
            "sync.RWMutex.RLock" => Self::ReadLock,
            "sync.RWMutex.Lock" => Self::WriteLock,
            "sync.WaitGroup.Wait" => Self::WaitGroup,
            "sync.Cond.Wait" => Self::Cond,
            "semacquire" => Self::Semaphore,
            _ => Self::Other,
        })
    }
}

/// Place where goroutines wait.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Kind of the wait.
    pub wait: Wait,
    /// The innermost call in the program's own code; of a dependency's, or the innermost at all, where there is none.
    pub at: Location,
    /// The innermost call outside runtime and sync: as `net/http.(*persistConn).readLoop`.
    pub inner: Arc<str>,
}

/// Owner of a function's code, in a program of this main module ("" where it is not known).
#[must_use]
pub fn owner(function: &str, main_module: &str) -> Owner {
    /// Of the standard library; a module's path without a dot could be anything, so they are named.
    const STANDARD: &str = " archive bufio bytes cmp compress container context crypto database debug embed encoding \
                            errors expvar flag fmt go hash html image index internal io iter log maps math mime net os \
                            path plugin reflect regexp runtime slices sort strconv strings structs sync syscall testing \
                            text time unicode unique unsafe vendor weak ";
    if function.starts_with("main.") {
        return Owner::Own;
    }
    // A dot in an element of the path but the last is escaped in symbol names; a version or a domain has one.
    let is_under = |module: &str| function.strip_prefix(module).is_some_and(|rest| rest.starts_with(['/', '.']));
    if !main_module.is_empty() && is_under(main_module) {
        return Owner::Own;
    }
    let first = function.split(['/', '.']).next().unwrap_or_default();
    let has_domain = function.split('/').next().is_some_and(|element| function.contains('/') && element.contains('.'));
    if !has_domain && STANDARD.split(' ').any(|name| name == first) {
        return Owner::Standard;
    }
    if has_domain || !main_module.is_empty() { Owner::Dependency } else { Owner::Own }
}

/// The function that a function literal was written in: `main.f` of `main.f.func1.2`, of `main.f.gowrap1` and of
/// `main.f.func1.g.func2` (where `g` was inlined). `None` where it is no literal.
#[must_use]
pub fn written_in(function: &str) -> Option<&str> {
    let package_end = function.rfind('/').map_or(0, |slash| slash + 1);
    let mut depth = 0usize;
    let bytes = function.as_bytes();
    for (at, byte) in bytes.iter().enumerate().skip(package_end) {
        match byte {
            b'[' | b'(' => depth += 1,
            b']' | b')' => depth = depth.saturating_sub(1),
            b'.' if depth == 0 => {
                let rest = function.get(at + 1..)?;
                let numbered = |prefix: &str| {
                    rest.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
                };
                if numbered("func") || numbered("gowrap") || numbered("deferwrap") || rest.starts_with("func1") {
                    return function.get(..at);
                }
            }
            _ => {}
        }
    }
    None
}

fn outer(function: &str) -> &str {
    let function = function.strip_suffix("-fm").unwrap_or(function);
    written_in(function).unwrap_or(function)
}

/// Frames that only wait: the runtime's and the locks' own.
fn is_machinery(function: &str) -> bool {
    ["runtime.", "sync.", "internal/sync.", "internal/poll.", "internal/runtime/", "syscall.", "internal/syscall/"]
        .iter()
        .any(|prefix| function.starts_with(prefix))
}

/// Origin of a goroutine.
#[must_use]
pub fn site(kind: &Kind, main_module: &str) -> Site {
    let created_at = kind.created_by.as_ref().map(Location::of).unwrap_or_default();
    let start_function: Arc<str> = kind.start_function.as_str().into();
    let caller = caller(kind, &created_at.function, main_module).unwrap_or_default();
    Site { created_at, start_function, caller: caller.into() }
}

/// Whom a helper started a goroutine for.
fn caller<'a>(kind: &'a Kind, creator: &str, main_module: &str) -> Option<&'a str> {
    let creator = outer(creator);
    // Outermost first, without `goexit`.
    let mut calls = kind.frames.iter().rev().map(|frame| frame.function.as_str());
    let mut calls = calls.by_ref().filter(|name| *name != "runtime.goexit" && *name != "runtime.main").peekable();
    // What the helper itself adds around.
    while calls.peek().is_some_and(|name| !creator.is_empty() && outer(name) == creator) {
        calls.next();
    }
    let first = *calls.peek()?;
    let creator_owner = owner(creator, main_module);
    if creator.is_empty() || creator_owner == Owner::Own {
        // A helper of one's own: it runs a literal that another function has. One that was started itself by a `go`
        // statement in its own function never comes here.
        let start = kind.start_function.as_str();
        let is_helpers = start.is_empty() || start == first || outer(start) == creator;
        let other = written_in(first).filter(|writer| *writer != creator)?;
        return (is_helpers && !creator.is_empty() && owner(first, main_module) == Owner::Own).then_some(other);
    }
    // A library's: the outermost function of one's own.
    let own = calls.find(|name| owner(name, main_module) == Owner::Own)?;
    Some(outer(own))
}

/// Place where a goroutine waits.
#[must_use]
pub fn place(kind: &Kind, main_module: &str) -> Place {
    let own = kind.frames.iter().find(|frame| owner(&frame.function, main_module) == Owner::Own);
    let theirs = || kind.frames.iter().find(|frame| owner(&frame.function, main_module) == Owner::Dependency);
    let inner = kind.frames.iter().find(|frame| !is_machinery(&frame.function));
    let at = own.or_else(theirs).or(inner).or_else(|| kind.frames.first());
    Place {
        wait: Wait::of(kind),
        at: at.map(Location::of).unwrap_or_default(),
        inner: inner.map(|frame| frame.function.as_str()).unwrap_or_default().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(function: &str, line: u32) -> Frame {
        Frame::named(function.to_owned(), "/src/x.go".to_owned(), line, false)
    }

    fn kind(creator: &str, start: &str, frames: &[&str], state: &str) -> Kind {
        Kind {
            created_by: Some(frame(creator, 7)),
            start_function: start.to_owned(),
            state: state.to_owned(),
            frames: frames.iter().zip(1..).map(|(name, line)| frame(name, line)).collect(),
            ..Kind::default()
        }
    }

    #[test]
    fn literals_say_where_they_were_written() {
        for (name, writer) in [
            ("main.f.func1", Some("main.f")),
            ("main.(*S).Serve.func2.1", Some("main.(*S).Serve")),
            ("main.(*S).Serve.gowrap1", Some("main.(*S).Serve")),
            ("main.Map[...].func1", Some("main.Map[...]")),
            ("example.com/a.b/pkg.Run.func3", Some("example.com/a.b/pkg.Run")),
            ("main.f", None),
            ("main.functional", None),
        ] {
            assert_eq!(written_in(name), writer, "{name}");
        }
    }

    #[test]
    fn whose_code_it_is() {
        for (name, module, whose) in [
            ("main.main", "", Owner::Own),
            ("net/http.(*Server).Serve", "", Owner::Standard),
            ("shop/internal/cart.Add", "shop", Owner::Own),
            ("golang.org/x/sync/errgroup.(*Group).Go", "shop", Owner::Dependency),
            ("github.com/a/b.F", "github.com/a/b", Owner::Own),
            ("github.com/a/bc.F", "github.com/a/b", Owner::Dependency),
            ("runtime.gopark", "", Owner::Standard),
            ("vendor/golang.org/x/net/http2.F", "shop", Owner::Standard),
        ] {
            assert_eq!(owner(name, module), whose, "{name}");
        }
    }

    #[test]
    fn a_helper_is_looked_through() {
        let stack =
            ["runtime.gopark", "main.query", "main.(*API).list.func1", "sync.(*WaitGroup).Go.func1", "runtime.goexit"];
        let through = kind("sync.(*WaitGroup).Go", "sync.(*WaitGroup).Go.func1", &stack, "chan send");
        assert_eq!(&*site(&through, "").caller, "main.(*API).list");
        assert_eq!(&*place(&through, "").at.function, "main.query");

        let stack = ["runtime.gopark", "main.handle.func2", "main.safely.func1"];
        let own = kind("main.safely", "main.safely.func1", &stack, "select");
        assert_eq!(&*site(&own, "").caller, "main.handle");

        // A literal that runs another one of the same function through a retry is nobody's helper.
        let stack = ["runtime.gopark", "main.handle.func1.1", "main.retry", "main.handle.func1"];
        assert_eq!(&*site(&kind("main.handle", "main.handle.func1", &stack, "select"), "").caller, "");

        let stack = ["net/http.(*persistConn).roundTrip", "main.proxy", "net/http.(*conn).serve"];
        let handler = kind("net/http.(*Server).Serve", "net/http.(*conn).serve", &stack, "select");
        assert_eq!(&*site(&handler, "").caller, "main.proxy");
    }

    #[test]
    fn a_wait_is_one_in_every_version() {
        let new = [
            "internal/sync.runtime_SemacquireMutex",
            "internal/sync.(*Mutex).lockSlow",
            "internal/sync.(*Mutex).Lock",
            "sync.(*Mutex).Lock",
            "sync.(*RWMutex).Lock",
            "main.f",
        ];
        assert_eq!(place(&kind("main.g", "main.f", &new, "sync.Mutex.Lock"), "").wait, Wait::WriteLock);
        let old = ["sync.runtime_SemacquireMutex", "sync.(*Mutex).lockSlow", "sync.(*RWMutex).Lock", "main.f"];
        assert_eq!(place(&kind("main.g", "main.f", &old, "semacquire"), "").wait, Wait::WriteLock);
        let group = ["sync.runtime_Semacquire", "sync.(*WaitGroup).Wait", "main.f"];
        assert_eq!(place(&kind("main.g", "main.f", &group, "semacquire"), "").wait, Wait::WaitGroup);
        assert_eq!(place(&kind("main.g", "main.f", &[], "sync.Mutex.Lock"), "").wait, Wait::Mutex);
    }
}
