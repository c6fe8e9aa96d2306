//! Which rustc and linker build the eBPF half.
//!
//! An eBPF target has no prebuilt `core`, so the compiler must have its source beside it. There are two ways to one:
//! the active toolchain, if it is new enough, with rustup's `rust-src`; or Debian's `rustc-web`, which Debian keeps new
//! for browsers, with `rust-web-src`. Either way bpf-linker must understand what that rustc's LLVM writes.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, anyhow};

use super::linker;
use crate::{
    apt,
    paths::Paths,
    rust::{self, FIRST_RUSTC_FOR_AYA, Rustc, Surroundings, Version},
    step::{note, output_of},
};

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// The oldest rustc that is known to compile aya-ebpf 0.3, whatever aya-ebpf declares.
const FIRST_RUSTC_FOR_EBPF: Version = Version(1, 96, 0);

/// Whose rustc it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Active,
    Debian,
}

/// A rustc with the source of `core`, and a linker that reads its LLVM's bitcode.
pub(crate) struct Toolchain {
    way: Way,
    rustc: Rustc,
    pub(super) linker: PathBuf,
    linker_llvm: u32,
}

impl Toolchain {
    /// Finds or installs one. The ways are tried in order; the first that can be had is taken.
    pub(crate) fn ensure(paths: &Paths) -> Result<Self> {
        let active = Rustc::active()?;
        let debian_is_possible = apt::available() || Path::new(DEBIAN_CARGO).is_file();
        let mut failures = Vec::new();
        for way in ways(active.version, debian_is_possible) {
            match Self::by(paths, way, &active) {
                Ok(toolchain) => return Ok(toolchain),
                Err(error) => {
                    note("setup", &format!("{} cannot build the eBPF half here", way.shown()));
                    failures.push(format!("{}: {error:#}", way.shown()));
                }
            }
        }
        Err(anyhow!(
            "no Rust compiler for the eBPF half. The active rustc is {}; rustc {FIRST_RUSTC_FOR_AYA} or newer would do \
             (`rustup update stable`){}{}",
            active.version,
            if debian_is_possible { "" } else { ", or Debian's packages rustc-web, cargo-web and rust-web-src" },
            failures.iter().map(|failure| format!("\n- {failure}")).collect::<String>(),
        ))
    }

    fn by(paths: &Paths, way: Way, active: &Rustc) -> Result<Self> {
        let why = "as an eBPF target's `core` is built from source";
        let rustc = match way {
            Way::Active => {
                if !active.has_source(Surroundings::Active) {
                    rust::add_component(paths, "rust-src", why)?;
                }
                active.clone()
            }
            Way::Debian => match debian_rustc() {
                Ok(rustc) => rustc,
                Err(_) => {
                    let why = format!("to build the eBPF half: the active rustc is {}", active.version);
                    let packages =
                        DEBIAN_PACKAGES.map(|name| apt::Package { name, at_least: Some(FIRST_RUSTC_FOR_EBPF) });
                    apt::ensure_versions(paths, &packages, &why)?;
                    debian_rustc()?
                }
            },
        };
        let linker = linker::ensure(paths, rustc.llvm.0)?;
        Ok(Self { way, rustc, linker: linker.path, linker_llvm: linker.llvm })
    }

    /// This toolchain's cargo, sheltered from the environment of the cargo that runs us.
    pub(super) fn cargo(&self) -> Command {
        match self.way {
            Way::Active => rust::cargo(Surroundings::Clean),
            Way::Debian => {
                let mut command = Command::new(DEBIAN_CARGO);
                Surroundings::Foreign.apply(&mut command).env("RUSTC", DEBIAN_RUSTC);
                command
            }
        }
    }
}

impl Toolchain {
    /// The compiler as the lock names it.
    pub(super) fn compiler(&self) -> String {
        format!("rustc {} (LLVM {})", self.rustc.version, self.rustc.llvm)
    }

    /// The linker as the lock names it.
    pub(super) fn linker_version(&self) -> Result<String> {
        let printed = output_of(Command::new(&self.linker).arg("--version"))
            .ok_or_else(|| anyhow!("{} does not run", self.linker.display()))?;
        Ok(format!("{} (LLVM {})", printed.trim(), self.linker_llvm))
    }

    /// The folder that the source of `core` is below.
    pub(super) fn sysroot(&self) -> Result<PathBuf> {
        let surroundings = match self.way {
            Way::Active => Surroundings::Clean,
            Way::Debian => Surroundings::Foreign,
        };
        let mut command = Command::new(&self.rustc.path);
        surroundings.apply(command.args(["--print", "sysroot"]));
        let sysroot = output_of(&mut command).ok_or_else(|| anyhow!("{} does not run", self.rustc.path.display()))?;
        Ok(PathBuf::from(sysroot.trim()))
    }

    /// LLVM's tool that leaves sections out, of the version that the linker is built against.
    pub(super) fn objcopy(&self) -> PathBuf {
        let of_debian = PathBuf::from(format!("/usr/lib/llvm-{}/bin/llvm-objcopy", self.linker_llvm));
        if of_debian.is_file() { of_debian } else { PathBuf::from("llvm-objcopy") }
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} {} (LLVM {}) and bpf-linker (LLVM {})",
            self.way.shown(),
            self.rustc.version,
            self.rustc.llvm,
            self.linker_llvm
        )
    }
}

impl Way {
    fn shown(self) -> &'static str {
        match self {
            Self::Active => "the active rustc",
            Self::Debian => "Debian's rustc",
        }
    }
}

/// Debian's rustc, if it is there, new enough, and has its source and its cargo beside it.
fn debian_rustc() -> Result<Rustc> {
    let rustc = Rustc::ask(Path::new(DEBIAN_RUSTC), Surroundings::Foreign)?;
    if rustc.version < FIRST_RUSTC_FOR_EBPF {
        return Err(anyhow!(
            "{DEBIAN_RUSTC} is {}, and the eBPF half needs {FIRST_RUSTC_FOR_EBPF} or newer: Debian 12's security updates \
             have it",
            rustc.version
        ));
    }
    if !Path::new(DEBIAN_CARGO).is_file() || !rustc.has_source(Surroundings::Foreign) {
        return Err(anyhow!("{DEBIAN_RUSTC} has no cargo or no source of `core` beside it"));
    }
    Ok(rustc)
}

fn ways(active: Version, debian_is_possible: bool) -> Vec<Way> {
    let mut ways = Vec::new();
    if active >= FIRST_RUSTC_FOR_AYA {
        ways.push(Way::Active);
    }
    if debian_is_possible {
        ways.push(Way::Debian);
    }
    ways
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_active_rustc_comes_first_if_it_is_new_enough() {
        assert_eq!(ways(Version(1, 98, 0), true), [Way::Active, Way::Debian]);
        assert_eq!(ways(Version(1, 98, 1), false), [Way::Active]);
        assert_eq!(ways(Version(1, 95, 0), true), [Way::Debian]);
        assert!(ways(Version(1, 95, 0), false).is_empty());
    }
}
