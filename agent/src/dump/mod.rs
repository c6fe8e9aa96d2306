//! One process, read once on request, without probes: what `dump`, `leaks` and the HTTP server are made of.
//!
//! Any Go process can be read, watched or not. What is known of its binary is kept ([`GoBinaries`]), so that asking again
//! costs no parsing. Refuses what a census refuses, with [`CensusError`].

pub(crate) mod contents;
pub(crate) mod names;

use std::{fs::File, path::PathBuf, sync::Arc, time::Duration};

use crate::{
    address::Bias,
    binary::{Binary, BinaryError},
    census::{Census, CensusError, Detail, Runtime},
    go_binary::{GoBinaries, GoBinary},
    host::{FileSource, HostError, Identity, Proc, ProcessMemory, Threads, patience},
    printable,
    runtime::WaitReasons,
};
pub use contents::{Dump, ProcessFacts, state};
pub use names::{Names, Place};

/// Makes processes of a host ready to be read.
pub struct GoProcesses {
    proc: Proc,
    go_binaries: Arc<GoBinaries>,
}

/// One process, ready to have its goroutines read.
pub struct GoProcess {
    proc: Proc,
    identity: Identity,
    bias: Bias,
    go: Arc<GoBinary>,
    facts: ProcessFacts,
}

impl GoProcesses {
    /// Those of a host; what their binaries are is remembered in `go_binaries`.
    #[must_use]
    pub fn new(proc: Proc, go_binaries: Arc<GoBinaries>) -> Self {
        Self { proc, go_binaries }
    }

    /// Understands process `pid`.
    ///
    /// # Errors
    ///
    /// [`CensusError::Host`], and what is wrong with its binary.
    pub fn subject(&self, pid: u32) -> Result<GoProcess, CensusError> {
        let proc = &self.proc;
        let identity = proc.identity(pid)?;
        let exe = printable::path(&proc.executable_path(pid)?);
        let (go, bias, file) = self.runtime(pid, &exe)?;
        let binary = &go.binary;
        let build_id = binary.gnu_build_id().map(|id| id.iter().map(|byte| format!("{byte:02x}")).collect());
        let facts = ProcessFacts {
            pid,
            start_time: identity.start_time,
            go_version: binary.go_version().clone(),
            prints_labels: prints_labels(binary),
            mappings: proc.code_mappings(pid)?,
            build_id: build_id.unwrap_or_default(),
            exe,
            runtime: file,
        };
        Ok(GoProcess { proc: proc.clone(), identity, bias, go, facts })
    }

    /// The Go runtime of a process: its executable, else the first Go library among its code, with how far it was moved
    /// and its path.
    fn runtime(&self, pid: u32, exe: &str) -> Result<(Arc<GoBinary>, Bias, String), CensusError> {
        let proc = &self.proc;
        let understand = |file: Arc<File>| -> Result<Arc<GoBinary>, CensusError> {
            let (source, id) = FileSource::new(file)
                .map_err(|error| HostError::Unreadable { path: PathBuf::from(exe), why: error.to_string() })?;
            Ok(self.go_binaries.of(source, id)?)
        };
        let not_loaded = || BinaryError::Unsupported { what: "program headers that are not loaded with the program" };
        let refusal = match understand(proc.open_executable(pid)?) {
            Ok(go) => {
                let headers = go.binary.program_headers_address().ok_or_else(not_loaded)?;
                return Ok((go, proc.bias(pid, headers)?, exe.to_owned()));
            }
            Err(why) => why,
        };
        if !matches!(&refusal, CensusError::GoBinary(why) if why.is_not_go()) {
            return Err(refusal);
        }
        for mapping in proc.code_mappings(pid)? {
            let found = proc.open_mapping(pid, &mapping).map_err(CensusError::from).and_then(understand);
            let Ok(go) = found else { continue };
            if let Some(bias) = go.binary.bias_of_mapping(mapping.start, mapping.end, mapping.offset) {
                return Ok((go, bias, mapping.path));
            }
        }
        Err(refusal)
    }
}

/// True if the runtime prints labels in its own dumps: from Go 1.27 on, unless the main module is older.
fn prints_labels(binary: &Binary) -> bool {
    let version = binary.go_version();
    let settings = binary.build_info().map(|info| info.settings.as_slice()).unwrap_or_default();
    let off = settings.iter().any(|(key, value)| key == "DefaultGODEBUG" && value.contains("tracebacklabels=0"));
    (version.major, version.minor) >= (1, 27) && !off
}

impl GoProcess {
    /// Which process it is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The load bias of its binary: runtime address minus address in the file.
    #[must_use]
    pub fn bias(&self) -> Bias {
        self.bias
    }

    /// Its executable as it sees it.
    #[must_use]
    pub fn exe(&self) -> &str {
        &self.facts.exe
    }

    /// Path of the main module of its program; "" where the binary does not say.
    #[must_use]
    pub fn main_module(&self) -> &str {
        self.go.binary.build_info().map(|info| info.module.as_str()).unwrap_or_default()
    }

    /// The binary that holds its runtime, understood.
    #[must_use]
    pub fn go_binary(&self) -> &Arc<GoBinary> {
        &self.go
    }

    /// The binary that holds its runtime.
    #[must_use]
    pub fn binary(&self) -> &Arc<Binary> {
        &self.go.binary
    }

    /// Names of its wait reasons.
    #[must_use]
    pub fn wait_reasons(&self) -> &WaitReasons {
        &self.go.wait_reasons
    }

    /// Names of its addresses.
    #[must_use]
    pub fn names(&self) -> Names<'_> {
        Names::new(&self.go.binary, &self.go.symbolizer, self.bias)
    }

    /// A census of it in words, nothing selected yet.
    #[must_use]
    pub fn dump<'a>(&'a self, census: &'a Census, names: &'a Names<'a>) -> Dump<'a> {
        Dump {
            census,
            names,
            wait_reasons: &self.go.wait_reasons,
            process: &self.facts,
            selected: Vec::new(),
            runtime_frames: false,
            next: None,
        }
    }

    /// Takes a census in a thread of its own: a target can make any read of its memory hang (userfaultfd, FUSE), and then
    /// only the end of this process ends it. `guard` is dropped when that thread ends, which may be never.
    ///
    /// # Errors
    ///
    /// [`CensusError`]; [`CensusError::HeldBack`] after `timeout`.
    pub fn census(&self, detail: Detail, timeout: Duration, guard: impl Send + 'static) -> Result<Census, CensusError> {
        let (proc, identity, bias) = (self.proc.clone(), self.identity, self.bias);
        let (binary, layout) = (Arc::clone(&self.go.binary), self.go.layout.clone());
        let witness = bias.to_runtime(binary.function_table_address());
        let read = move || {
            let census = ProcessMemory::open(&proc, identity, witness).map_err(CensusError::from).and_then(|memory| {
                let runtime = Runtime::find(&memory, binary, bias, layout)?;
                runtime.census_with_running(&memory, detail, &Threads::of(proc, identity))
            });
            drop(guard);
            census
        };
        let answer = patience::begin("census", read)
            .map_err(|error| HostError::Unreadable { path: PathBuf::from("census thread"), why: error.to_string() })?;
        let mut census = answer
            .within(timeout)
            .unwrap_or(Err(CensusError::HeldBack { pid: identity.pid, seconds: timeout.as_secs() }))?;
        let ahead_ns = self.proc.clock_ahead_ns(identity.pid);
        census.monotonic_ns = census.monotonic_ns.zip(ahead_ns).and_then(|(now, ahead)| now.checked_add_signed(ahead));
        Ok(census)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader},
        process::{Child, Command, Stdio},
    };

    use super::*;
    use crate::{
        binary::testing::{Variant, toolchains},
        export::{self, Selection},
        symbols::SymbolSource,
    };

    struct Killed(Child);

    impl Drop for Killed {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// The explanation of a memory leak: nothing is freed any more.
    const BLOCKED_FINALIZER: &str = "package main\nimport (\"runtime\"; \"time\"; \"os\"; \"fmt\"; \"strings\")\n\
        type thing struct { _ [64]byte; next *thing }\n\
        //go:noinline\nfunc blocked(*thing) { select {} }\n\
        //go:noinline\nfunc lose() { runtime.SetFinalizer(new(thing), blocked) }\n\
        func main() { lose(); for i := 0; i < 20; i++ { runtime.GC(); time.Sleep(10 * time.Millisecond) }\n\
        b := make([]byte, 1<<16); b = b[:runtime.Stack(b, true)]\n\
        fmt.Fprintln(os.Stdout, runtime.NumGoroutine(), strings.Count(string(b), \"\\n\\ngoroutine \")+1); time.Sleep(time.Hour) }\n";

    #[test]
    #[ignore = "reads real Go programs: `cargo xtask test` builds them"]
    fn a_finalizer_that_runs_user_code_is_the_users() {
        for toolchain in toolchains() {
            let program = toolchain.build_source(BLOCKED_FINALIZER, Variant::Stripped);
            let mut child = Killed(Command::new(&program.path).stdout(Stdio::piped()).spawn().unwrap());
            let mut own = String::new();
            BufReader::new(child.0.stdout.take().unwrap()).read_line(&mut own).unwrap();
            let processes = GoProcesses::new(Proc::default(), Arc::new(GoBinaries::new(SymbolSource::Auto)));
            let process = processes.subject(child.0.id()).unwrap();
            let detail = Detail { stacks: true, ..Detail::default() };
            let census = process.census(detail, Duration::from_secs(20), ()).unwrap();
            let names = process.names();
            let mut dump = process.dump(&census, &names);
            dump.selected = Selection::default().of(&dump);
            // What NumGoroutine counts, and what the runtime's own dump shows.
            let said = format!("{} {}", census.users(), dump.selected.len());
            assert_eq!((own.trim(), dump.selected.len()), (said.as_str(), 2), "1.{}", toolchain.minor);
            let mut text = Vec::new();
            export::text::write(&dump, &mut text).unwrap();
            let text = String::from_utf8(text).unwrap();
            assert!(text.contains("main.blocked(...)"), "1.{}: {text}", toolchain.minor);
        }
    }
}
