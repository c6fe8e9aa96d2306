//! Rust compilers: which there are, and what parkranger's userspace half needs of the active one.

use std::{
    env,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::step::output_of;

/// The first rustc with `Result::map_or_default`, and so the first that compiles aya 0.16 as it is.
pub(crate) const FIRST_RUSTC_FOR_AYA: Version = Version(1, 98, 0);

/// Opens that one feature to an older rustc; together with `RUSTC_BOOTSTRAP=1`.
const FLAG_FOR_OLDER_RUSTC: &str = "-Zcrate-attr=feature(result_option_map_or_default)";

/// Major, minor, patch; what follows a dash is dropped, so a nightly counts as its release.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Version(pub(crate) u32, pub(crate) u32, pub(crate) u32);

impl FromStr for Version {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = text.split(['-', '+', ' ']).next().unwrap_or_default();
        let mut parts = number.split('.').map(str::parse::<u32>);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor)), None, _) => Ok(Self(major, minor, 0)),
            (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch)), None) => Ok(Self(major, minor, patch)),
            _ => Err(anyhow!("`{text}` is not a version")),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// A Rust compiler and the LLVM inside it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Rustc {
    pub(crate) path: PathBuf,
    pub(crate) version: Version,
    pub(crate) llvm: Version,
}

impl Rustc {
    /// The compiler that plain `cargo` uses in this folder.
    pub(crate) fn active() -> Result<Self> {
        Self::ask(Path::new(&env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())), Surroundings::Active)
    }

    /// Asks the compiler at `path` what it is.
    pub(crate) fn ask(path: &Path, surroundings: Surroundings) -> Result<Self> {
        let mut command = Command::new(path);
        surroundings.apply(command.arg("-vV"));
        let text = output_of(&mut command).with_context(|| format!("`{} -vV` does not run", path.display()))?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self> {
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                .with_context(|| format!("`{} -vV` names no {name}", path.display()))
        };
        Ok(Self { path: path.into(), version: field("release")?.parse()?, llvm: field("LLVM version")?.parse()? })
    }

    /// Does it have the source of `core`, which an eBPF target must be built from?
    pub(crate) fn has_source(&self, surroundings: Surroundings) -> bool {
        let mut command = Command::new(&self.path);
        surroundings.apply(command.args(["--print", "sysroot"]));
        output_of(&mut command).is_some_and(|sysroot| {
            Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file()
        })
    }
}

/// What of our own environment a child may see. `cargo run` and rustup leave variables there that bend another cargo.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Surroundings {
    /// The active toolchain, with the user's own flags: what they would get by typing the command.
    Active,
    /// The active toolchain, without anyone's flags, wrappers or target folder.
    Clean,
    /// Clean, and without rustup: for a compiler that is not rustup's.
    Foreign,
}

impl Surroundings {
    /// Takes from `command` the variables that it must not see.
    pub(crate) fn apply(self, command: &mut Command) -> &mut Command {
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(|name| self.hides(name)) {
                command.env_remove(name);
            }
        }
        command
    }

    fn hides(self, name: &str) -> bool {
        let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
        // `cargo run` describes xtask itself in these.
        let ours = starts(&["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"])
            || matches!(name, "LD_LIBRARY_PATH" | "OUT_DIR" | "CARGO_RUSTC_CURRENT_DIR");
        let bending = starts(&["RUSTC", "RUSTFLAGS", "RUSTDOC", "CARGO_TARGET", "CARGO_BUILD", "CARGO_ENCODED"])
            || starts(&["CARGO_PROFILE_"]);
        match self {
            Self::Active => ours,
            Self::Clean => ours || bending,
            Self::Foreign => ours || bending || name == "CARGO" || name.starts_with("RUSTUP_"),
        }
    }
}

/// The active toolchain's cargo.
pub(crate) fn cargo(surroundings: Surroundings) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    surroundings.apply(&mut command);
    command
}

/// How the userspace half is compiled with the active rustc.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Userspace {
    /// As it is.
    Plain,
    /// With the one feature that aya uses opened by flag.
    OlderRustc,
}

impl Userspace {
    pub(crate) fn for_rustc(version: Version) -> Self {
        if version >= FIRST_RUSTC_FOR_AYA { Self::Plain } else { Self::OlderRustc }
    }

    /// Sets the environment of `command`, with `more` flags for rustc. The user's own `RUSTFLAGS` stay in force.
    pub(crate) fn apply(self, command: &mut Command, more: &[&str]) {
        let mut ours = more.to_vec();
        if self == Self::OlderRustc {
            command.env("RUSTC_BOOTSTRAP", "1");
            ours.push(FLAG_FOR_OLDER_RUSTC);
        }
        if ours.is_empty() {
            return;
        }
        let theirs = env::var_os("CARGO_ENCODED_RUSTFLAGS")
            .or_else(|| env::var("RUSTFLAGS").ok().map(|flags| encode_flags(flags.split_whitespace())));
        let mut flags = theirs.filter(|flags| !flags.is_empty()).map_or_else(OsString::new, |mut flags| {
            flags.push("\u{1f}");
            flags
        });
        flags.push(encode_flags(ours));
        command.env("CARGO_ENCODED_RUSTFLAGS", flags);
    }
}

/// The form of `CARGO_ENCODED_RUSTFLAGS`: flags may hold spaces.
pub(crate) fn encode_flags<'a>(flags: impl IntoIterator<Item = &'a str>) -> OsString {
    flags.into_iter().collect::<Vec<_>>().join("\u{1f}").into()
}

/// Adds a component to the active rustup toolchain.
pub(crate) fn add_component(paths: &crate::paths::Paths, component: &str, why: &str) -> Result<()> {
    let way_out = format!("run `rustup component add {component}`, then run this again");
    if crate::paths::in_path("rustup").is_none() {
        bail!("the Rust component {component} is missing, needed {why}, and there is no rustup to add it: {way_out}");
    }
    let log = paths.log("rustup");
    crate::step::step("setup", &format!("adding the Rust component {component}, needed {why}"), || {
        crate::step::fresh(&log)?;
        let mut command = Command::new("rustup");
        crate::step::quietly(Surroundings::Active.apply(command.args(["component", "add", component])), &log)
    })
    .with_context(|| format!("the Rust component {component} could not be added; {way_out}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERBOSE: &str = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\nbinary: rustc\n\
                           host: x86_64-unknown-linux-gnu\nrelease: 1.96.0\nLLVM version: 22.1.8\n";

    #[test]
    fn a_compiler_tells_its_version_and_llvm() -> Result<()> {
        let rustc = Rustc::parse(Path::new("/usr/bin/rustc"), VERBOSE)?;
        assert_eq!((rustc.version, rustc.llvm), (Version(1, 96, 0), Version(22, 1, 8)));
        let nightly = VERBOSE.replace("release: 1.96.0", "release: 1.99.0-nightly").replace("22.1.8", "23.0");
        let rustc = Rustc::parse(Path::new("rustc"), &nightly)?;
        assert_eq!((rustc.version, rustc.llvm), (Version(1, 99, 0), Version(23, 0, 0)));
        assert!(Rustc::parse(Path::new("rustc"), "rustc 1.96.0\n").is_err());
        Ok(())
    }

    #[test]
    fn versions_compare_by_number() -> Result<()> {
        assert!("1.100.0".parse::<Version>()? > FIRST_RUSTC_FOR_AYA);
        assert!("1.9.9".parse::<Version>()? < FIRST_RUSTC_FOR_AYA);
        for bad in ["", "1", "1.x", "1.2.3.4", "one.two.three"] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
        Ok(())
    }

    #[test]
    fn only_older_compilers_get_the_flag() {
        assert_eq!(Userspace::for_rustc(Version(1, 95, 0)), Userspace::OlderRustc);
        assert_eq!(Userspace::for_rustc(Version(1, 98, 0)), Userspace::Plain);
    }

    #[test]
    fn a_foreign_compiler_sees_nothing_of_ours() {
        for name in ["CARGO", "RUSTUP_TOOLCHAIN", "RUSTFLAGS", "RUSTC", "CARGO_TARGET_DIR", "CARGO_ENCODED_RUSTFLAGS"] {
            assert!(Surroundings::Foreign.hides(name), "{name}");
            assert!(!Surroundings::Active.hides(name), "{name}");
        }
        for name in ["CARGO_HOME", "CARGO_HTTP_CAINFO", "CARGO_NET_OFFLINE", "PATH", "HOME"] {
            assert!(!Surroundings::Foreign.hides(name), "{name}");
        }
        assert!(Surroundings::Active.hides("CARGO_MANIFEST_DIR"));
        assert!(!Surroundings::Clean.hides("RUSTUP_TOOLCHAIN"));
    }
}
