//! Real Go programs to read, built once per test run by every toolchain that is at hand.
//!
//! A toolchain is named by `PARKRANGER_GO_<MAJOR>_<MINOR>`: its `GOROOT`, or its `go` command. Without any, the tests
//! that need one say so and pass.

use std::{
    collections::HashMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use super::Binary;

/// A program with what symbols stumble over: generics, methods, closures, wrappers, inlining, a large standard library.
const SOURCE: &str = r#"package main

import (
	"fmt"
	"net/http"
	"os"
	"sync"
)

//go:noinline
func work(n int, wg *sync.WaitGroup) { defer wg.Done(); fmt.Fprintln(os.Stderr, n) }

func outer(wg *sync.WaitGroup) { inner(wg) }

func inner(wg *sync.WaitGroup) {
	wg.Add(1)
	wg.Done()
}

//go:noinline
func spawnGeneric[T any](v T, wg *sync.WaitGroup) {
	wg.Add(1)
	go func() { defer wg.Done(); fmt.Fprintln(os.Stderr, v) }()
}

type task struct{ n int }

//go:noinline
func (t *task) run(wg *sync.WaitGroup) { work(t.n, wg) }

func main() {
	var wg sync.WaitGroup
	outer(&wg)
	wg.Add(2)
	go work(1, &wg)
	t := &task{2}
	go t.run(&wg)
	spawnGeneric("x", &wg)
	spawnGeneric(3, &wg)
	if len(os.Args) > 1 {
		http.ListenAndServe(os.Args[1], nil)
	}
	wg.Wait()
}
"#;

/// How a program is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Variant {
    Plain,
    Stripped,
    StrippedPie,
    Trimmed,
    /// Stripped, for arm64.
    Arm64,
    /// For arm64, with symbols.
    Arm64Plain,
}

pub(crate) const VARIANTS: [Variant; 5] =
    [Variant::Plain, Variant::Stripped, Variant::StrippedPie, Variant::Trimmed, Variant::Arm64];

/// For tests that inflate a lot: all symbolizers share what is held, and would take it from each other.
pub(crate) fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Toolchain {
    pub(crate) minor: u32,
    go: PathBuf,
}

/// One built program, with its file for tools that want a path.
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) bytes: Vec<u8>,
    _directory: tempfile::TempDir,
}

impl Program {
    pub(crate) fn binary(&self) -> Arc<Binary> {
        Arc::new(Binary::parse(Arc::new(self.bytes.clone())).expect("a Go binary"))
    }
}

/// The toolchains at hand, oldest first; prints a line where there are none.
pub(crate) fn toolchains() -> Vec<Toolchain> {
    let named = (18..=40).filter_map(|minor| {
        let path = PathBuf::from(env::var_os(format!("PARKRANGER_GO_1_{minor}"))?);
        let go = if path.is_dir() { path.join("bin/go") } else { path };
        Some(Toolchain { minor, go })
    });
    let found: Vec<_> = named.collect();
    if found.is_empty() {
        println!("skipped: no Go toolchain in PARKRANGER_GO_<MAJOR>_<MINOR>");
    }
    found
}

impl Toolchain {
    /// The test program, built at the first call.
    pub(crate) fn program(&self, variant: Variant) -> Arc<Program> {
        type Built = Mutex<HashMap<(Toolchain, Variant), Arc<OnceLock<Arc<Program>>>>>;
        static BUILT: OnceLock<Built> = OnceLock::new();
        let slot = {
            let mut built = BUILT.get_or_init(Mutex::default).lock().expect("no test panics here");
            Arc::clone(built.entry((self.clone(), variant)).or_default())
        };
        Arc::clone(slot.get_or_init(|| Arc::new(self.build(variant))))
    }

    fn build(&self, variant: Variant) -> Program {
        self.build_source(SOURCE, variant)
    }

    /// Builds a program of one file.
    pub(crate) fn build_source(&self, source: &str, variant: Variant) -> Program {
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::write(directory.path().join("main.go"), source).expect("the source is written");
        fs::write(directory.path().join("go.mod"), "module example.com/probe\n\ngo 1.19\n").expect("go.mod is written");
        let path = directory.path().join("probe");
        let mut command = self.command();
        command.current_dir(directory.path()).args(["build", "-p", "2", "-o"]).arg(&path);
        match variant {
            Variant::Plain => {}
            Variant::Stripped => _ = command.arg("-ldflags=-s -w"),
            Variant::StrippedPie => _ = command.args(["-buildmode=pie", "-ldflags=-s -w"]),
            Variant::Trimmed => _ = command.arg("-trimpath"),
            Variant::Arm64 => _ = command.arg("-ldflags=-s -w").env("GOARCH", "arm64"),
            Variant::Arm64Plain => _ = command.env("GOARCH", "arm64"),
        }
        let output = command.arg(".").output().expect("go runs");
        assert!(output.status.success(), "go 1.{}: {}", self.minor, String::from_utf8_lossy(&output.stderr));
        let bytes = fs::read(&path).expect("the program is there");
        Program { path, bytes, _directory: directory }
    }

    /// Runs `go tool` on a file, `input` being its standard input, and returns what it prints.
    pub(crate) fn tool(&self, tool: &str, file: &Path, input: &str) -> String {
        use std::{io::Write, process::Stdio};
        let mut command = self.command();
        command.args(["tool", tool]).arg(file).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("go tool runs");
        let mut stdin = child.stdin.take().expect("a pipe");
        let input = input.to_owned();
        let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output().expect("go tool ends");
        writer.join().expect("the writer ends").expect("go tool reads");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.go);
        for inherited in ["GOROOT", "GOFLAGS", "GOEXPERIMENT"] {
            command.env_remove(inherited);
        }
        command.env("GOTOOLCHAIN", "local").env("GOPROXY", "off").env("CGO_ENABLED", "0").env("GOFLAGS", "-mod=mod");
        command
    }
}
