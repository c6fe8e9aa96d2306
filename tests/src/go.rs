//! Go toolchains, and the test programs built with them.
//!
//! A toolchain is named by an environment variable such as `PARKRANGER_GO_1_27`, the path of a `go` executable. A
//! built program is kept under a name that holds the hash of its sources, its flags and the exact Go version, so it is
//! built once, whatever runs it, and never stale.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::executable;
use crate::skip::{self, Missing};

/// A Go toolchain.
#[derive(Debug, Clone)]
pub struct Toolchain {
    /// 24 for Go 1.24.
    pub minor: u32,
    go: PathBuf,
}

/// The programs under `programs/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Program {
    /// Does known numbers of things.
    Exercise,
    /// Leaks goroutines like a real service.
    Leaky,
    /// Runs fixed numbers of events for benchmarks.
    Bench,
    /// Has goroutines in every state, and dumps them itself.
    Crowd,
    /// Has `net/http/pprof` of its own.
    Served,
    /// Does one kind of work as fast as it can.
    Load,
    /// Waits in known ways for known times.
    Waits,
    /// Becomes another program, under a restriction.
    Launch,
    /// Changes the memory that its code is in.
    Moved,
    /// Is one of many small services, half of which leak.
    Leaks,
    /// Starts goroutines through helpers, from several places.
    Callers,
}

/// The ways to build a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Variant {
    /// `go build`.
    Plain,
    /// No symbol table, no DWARF (`-s -w`).
    Stripped,
    /// Position independent.
    Pie,
    /// Paths of source files cut (`-trimpath`).
    TrimPath,
    /// Without optimisation and inlining (`-N -l`), as debuggers like it.
    Unoptimized,
    /// Position independent, linked by the system's linker, which lays the file out its own way.
    PieExternal,
    /// With C code in it (`runtime/cgo`), dynamically linked.
    Cgo,
    /// With the race detector.
    Race,
    /// A shared object for programs in other languages: see [`crate::target::Exercise::start_in_python`].
    CShared,
    /// With a profile that makes the compiler inline `runtime.gopark` into `chanrecv` and `chansend` (Go ≥ 1.21).
    Pgo,
}

impl Program {
    fn directory(self) -> PathBuf {
        let name = match self {
            Program::Exercise => "exercise",
            Program::Leaky => "leaky",
            Program::Bench => "bench",
            Program::Crowd => "crowd",
            Program::Served => "served",
            Program::Load => "load",
            Program::Waits => "waits",
            Program::Launch => "launch",
            Program::Moved => "moved",
            Program::Leaks => "leaks",
            Program::Callers => "callers",
        };
        programs().join(name)
    }
}

impl Variant {
    /// What the matrix covers, in the order of its columns, with a short name for each.
    pub const MATRIX: [(Variant, &'static str); 9] = [
        (Variant::Plain, "plain"),
        (Variant::Stripped, "-s -w"),
        (Variant::TrimPath, "-trimpath"),
        (Variant::Pie, "PIE"),
        (Variant::PieExternal, "PIE ext"),
        (Variant::Cgo, "cgo"),
        (Variant::Race, "race"),
        (Variant::Pgo, "PGO"),
        (Variant::CShared, "c-shared"),
    ];

    fn flags(self) -> &'static [&'static str] {
        match self {
            Variant::Plain | Variant::Pgo | Variant::Cgo => &[],
            Variant::Stripped => &["-ldflags=-s -w"],
            Variant::Pie => &["-buildmode=pie"],
            Variant::TrimPath => &["-trimpath"],
            Variant::Unoptimized => &["-gcflags=all=-N -l"],
            Variant::PieExternal => &["-buildmode=pie", "-ldflags=-linkmode=external"],
            Variant::Race => &["-race"],
            Variant::CShared => &["-buildmode=c-shared"],
        }
    }

    /// Whether a C compiler takes part.
    fn needs_cgo(self) -> bool {
        matches!(self, Variant::PieExternal | Variant::Cgo | Variant::Race | Variant::CShared)
    }
}

/// A built program.
#[derive(Debug, Clone)]
pub struct Fixture {
    /// The executable. Other tests run it at the same time.
    pub path: PathBuf,
}

impl Fixture {
    /// A copy of the executable: the same bytes, but an inode that no other process runs.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn private_copy(&self) -> Result<(tempfile::TempDir, PathBuf)> {
        let directory = tempfile::tempdir_in(fixtures()?)?;
        let copy = directory.path().join("program");
        executable::copy(&self.path, &copy)?;
        Ok((directory, copy))
    }
}

impl Toolchain {
    /// The toolchain of Go 1.`minor`.
    ///
    /// # Errors
    /// When no variable names it.
    pub fn find(minor: u32) -> Result<Toolchain, Missing> {
        let variable = format!("PARKRANGER_GO_1_{minor}");
        match std::env::var_os(&variable) {
            Some(go) => Ok(Toolchain { minor, go: go.into() }),
            None => Err(Missing(format!("{variable} names no Go toolchain"))),
        }
    }

    /// Why Go 1.`minor` has no such builds; `None` where it has.
    pub fn lacks(minor: u32, variant: Variant) -> Option<&'static str> {
        (variant == Variant::Pgo && minor < 21).then_some("Go has PGO since 1.21")
    }

    /// Every toolchain that a variable names, oldest first.
    pub fn all() -> Vec<Toolchain> {
        (19..100).filter_map(|minor| Toolchain::find(minor).ok()).collect()
    }

    /// The program, built now or earlier.
    ///
    /// # Errors
    /// When the build fails: with the compiler's words.
    pub fn build(&self, program: Program, variant: Variant) -> Result<Fixture> {
        let fixtures = fixtures()?;
        let directory = program.directory();
        let mut sources = Vec::new();
        for directory in [directory.clone(), programs().join("talk")] {
            for source in self::sources(&directory)? {
                sources.push((source.file_name().map(ToOwned::to_owned), fs::read(&source)?));
            }
        }
        let path = self.path_of(&fixtures, &format!("{program:?}"), variant, &(program, sources))?;
        // What it is profiled with; built first, because there is one build at a time.
        let plain = if variant == Variant::Pgo { Some(self.build(program, Variant::Plain)?) } else { None };
        build_once(&fixtures, path, |_, built| {
            let mut args = vec!["build", "-o", built.to_str().context("path")?];
            args.extend(variant.flags());
            match &plain {
                Some(plain) => self.build_with_gopark_inlined(&fixtures, program, plain, &args, built),
                None => self.run_with(&fixtures, &directory, &args, variant.needs_cgo()).map(drop),
            }
        })
    }

    /// A program that is generated: its files by their paths, `go.mod` among them.
    ///
    /// # Errors
    /// When the build fails: with the compiler's words.
    pub fn build_sources(&self, name: &str, files: &[(String, String)], variant: Variant) -> Result<Fixture> {
        let fixtures = fixtures()?;
        let path = self.path_of(&fixtures, name, variant, &files)?;
        build_once(&fixtures, path, |scratch, built| {
            for (file, text) in files {
                let file = scratch.join(file);
                fs::create_dir_all(file.parent().context("a folder")?)?;
                fs::write(file, text)?;
            }
            // Paths are cut, so that the compiler's work is used again for the next variant.
            let mut args = vec!["build", "-trimpath", "-o", built.to_str().context("path")?];
            args.extend(variant.flags());
            self.run(&fixtures, scratch, &args).map(drop)
        })
    }

    /// The tests of a package of the standard library.
    ///
    /// # Errors
    /// When the build fails: with the compiler's words.
    pub fn build_tests(&self, package: &str) -> Result<Fixture> {
        let fixtures = fixtures()?;
        let path = self.path_of(&fixtures, &package.replace('/', "-"), Variant::Plain, &"tests")?;
        build_once(&fixtures, path, |scratch, built| {
            let args = ["test", "-c", "-o", built.to_str().context("path")?, package];
            self.run(&fixtures, scratch, &args).map(drop)
        })
    }

    /// Where the toolchain is, with the standard library's source.
    ///
    /// # Errors
    /// When it does not say.
    pub fn goroot(&self) -> Result<PathBuf> {
        Ok(self.run(&fixtures()?, Path::new("/"), &["env", "GOROOT"])?.trim().into())
    }

    /// Where a program is kept, by everything it is made from.
    fn path_of(&self, fixtures: &Path, name: &str, variant: Variant, made_from: &impl Hash) -> Result<PathBuf> {
        let version = self.run(fixtures, Path::new("/"), &["version"])?;
        let mut hasher = DefaultHasher::new();
        (&version, made_from, variant).hash(&mut hasher);
        let name = format!("{name}-{variant:?}-1.{}-{:016x}", self.minor, hasher.finish()).to_lowercase();
        Ok(fixtures.join(name))
    }

    /// What `go tool` says.
    ///
    /// # Errors
    /// When it fails: with its words.
    pub fn tool(&self, args: &[&str]) -> Result<String> {
        let args: Vec<&str> = std::iter::once("tool").chain(args.iter().copied()).collect();
        self.run(&fixtures()?, Path::new("/"), &args)
    }

    /// What is hot in a profile is a matter of samples, and on a busy machine there are few: a longer one then does.
    fn build_with_gopark_inlined(
        &self,
        fixtures: &Path,
        program: Program,
        plain: &Fixture,
        args: &[&str],
        built: &Path,
    ) -> Result<()> {
        let profile = built.with_extension("profile");
        let with_profile = format!("-pgo={}", profile.display());
        let args: Vec<&str> = args.iter().copied().chain([with_profile.as_str()]).collect();
        let mut result = Ok(());
        for seconds in [4, 8, 16, 32] {
            record_profile(&plain.path, &profile, seconds)?;
            self.run(fixtures, &program.directory(), &args)?;
            result = self.check_gopark_is_inlined(fixtures, built);
            if result.is_ok() {
                break;
            }
        }
        result
    }

    /// Where `gopark` is inlined, its callers call `mcall` themselves.
    fn check_gopark_is_inlined(&self, fixtures: &Path, built: &Path) -> Result<()> {
        for function in ["chanrecv", "chansend"] {
            let pattern = format!("^runtime.{function}$");
            let binary = built.to_str().context("path")?;
            let code = self.run(fixtures, Path::new("/"), &["tool", "objdump", "-s", &pattern, binary])?;
            ensure!(code.contains("CALL runtime.mcall"), "the profile did not get gopark inlined into {function}");
        }
        Ok(())
    }

    fn run(&self, fixtures: &Path, directory: &Path, args: &[&str]) -> Result<String> {
        self.run_with(fixtures, directory, args, false)
    }

    fn run_with(&self, fixtures: &Path, directory: &Path, args: &[&str], cgo: bool) -> Result<String> {
        let output = Command::new(&self.go)
            .args(args)
            .current_dir(directory)
            .env("GOTOOLCHAIN", "local")
            .env("GOFLAGS", "-mod=mod")
            .env("GOPROXY", "off")
            .env("CGO_ENABLED", if cgo { "1" } else { "0" })
            .env("GOCACHE", fixtures.join("cache"))
            .env("GOPATH", fixtures.join("gopath"))
            .output()
            .with_context(|| format!("running {}", self.go.display()))?;
        if !output.status.success() {
            bail!("go {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// Where built programs are kept; the Go build cache is kept there too.
fn fixtures() -> Result<PathBuf> {
    let directory = std::env::var_os("PARKRANGER_FIXTURES")
        .map_or_else(|| std::env::temp_dir().join("parkranger-fixtures"), PathBuf::from);
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    Ok(fs::canonicalize(directory)?)
}

/// Where the sources are; `talk` is what they share.
fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("programs")
}

/// Has `build` make a program from a folder of its own, unless there is one; it is told the folder, and where the
/// program is to be.
fn build_once(fixtures: &Path, path: PathBuf, build: impl FnOnce(&Path, &Path) -> Result<()>) -> Result<Fixture> {
    if path.exists() {
        return Ok(Fixture { path });
    }
    // One build at a time, in this process and in others: builds use every core there is anyway.
    let lock = File::create(fixtures.join("lock"))?;
    lock.lock()?;
    // Somebody else may have built it meanwhile.
    if !path.exists() {
        let scratch = tempfile::tempdir_in(fixtures)?;
        let built = scratch.path().join("program");
        build(scratch.path(), &built)?;
        fs::rename(&built, &path)?;
    }
    Ok(Fixture { path })
}

fn sources(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut sources = Vec::new();
    for entry in fs::read_dir(directory)? {
        sources.push(entry?.path());
    }
    sources.sort();
    Ok(sources)
}

/// Has the program write a CPU profile of itself blocking on channels. On one processor there is no waking of other
/// threads among the samples.
fn record_profile(program: &Path, profile: &Path, seconds: u32) -> Result<()> {
    let mut command = Command::new(program);
    command.env("GOMAXPROCS", "1").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let mut input = child.stdin.take().context("stdin")?;
    writeln!(input, "profile {} {seconds}\nquit", profile.display())?;
    drop(input);
    let status = child.wait()?;
    ensure!(status.success() && profile.exists(), "no profile from {}: {status}", program.display());
    Ok(())
}

/// Runs a test with one Go version, or records that it cannot.
pub fn with_go(
    test: &str,
    minor: u32,
    needs: fn() -> Result<(), Missing>,
    body: impl FnOnce(&Toolchain) -> Result<()>,
) {
    let test = format!("{test} (Go 1.{minor})");
    match (Toolchain::find(minor), needs()) {
        (Err(missing), _) | (_, Err(missing)) => skip::skip(&test, &missing),
        (Ok(go), Ok(())) => skip::run(&test, Ok(()), || body(&go)),
    }
}

/// Makes one test per Go version out of each function `fn(&Toolchain) -> Result<()>`: `million` becomes
/// `million::go_1_19` and so on. `needs` is checked first, see [`crate::skip`].
#[macro_export]
macro_rules! on_every_go {
    ($needs:path: $($test:ident),+ $(,)?) => {
        $crate::on_these_go!($needs: [(go_1_19, 19), (go_1_21, 21), (go_1_24, 24), (go_1_27, 27)] $($test),+);
    };
}

/// [`on_every_go`], but only with the versions that have PGO (and coroutines are a year younger still).
#[macro_export]
macro_rules! on_pgo_go {
    ($needs:path: $($test:ident),+ $(,)?) => {
        $crate::on_these_go!($needs: [(go_1_21, 21), (go_1_24, 24), (go_1_27, 27)] $($test),+);
    };
}

/// What [`on_every_go`] and [`on_pgo_go`] share.
#[macro_export]
macro_rules! on_these_go {
    ($needs:path: $versions:tt $($test:ident),+) => {
        $($crate::on_these_go!(@one $needs, $test, $versions);)+
    };
    (@one $needs:path, $test:ident, [$(($version:ident, $minor:expr)),+]) => {
        mod $test {
            use super::*;
            $(#[test]
            fn $version() {
                $crate::go::with_go(
                    concat!(module_path!(), "::", stringify!($version)), $minor, $needs, super::$test,
                );
            })+
        }
    };
}
