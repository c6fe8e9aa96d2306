//! bpf-linker, built against an LLVM that reads what the eBPF half's rustc writes.
//!
//! LLVM reads the bitcode of older versions, never of newer ones ("Invalid record"), so the linker's LLVM must be at
//! least rustc's.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::{
    apt,
    paths::{Paths, in_path},
    rust::{Surroundings, Version, cargo},
    step::{fresh, output_of, quietly, step},
};

/// The release that is installed, and the oldest that is accepted from `PATH`.
const RELEASE: Version = Version(0, 13, 0);

/// The LLVM majors that this release can be built against: its Cargo features `llvm-N`.
const LLVM_MAJORS: [u32; 3] = [21, 22, 23];

/// A bpf-linker that runs here.
pub(super) struct Linker {
    pub(super) path: PathBuf,
    /// Major version of the LLVM inside.
    pub(super) llvm: u32,
}

/// Finds a linker for bitcode of LLVM `major`, or builds one into the cache.
pub(super) fn ensure(paths: &Paths, major: u32) -> Result<Linker> {
    if let Some(linker) = from_path(major) {
        return Ok(linker);
    }
    if !LLVM_MAJORS.contains(&major) {
        bail!(
            "this rustc has LLVM {major}, and bpf-linker {RELEASE} builds against LLVM {LLVM_MAJORS:?} only: put a \
             bpf-linker with LLVM {major} into PATH, or use a Rust toolchain with one of those"
        );
    }
    let root = paths.cache.join(format!("bpf-linker-{RELEASE}-llvm-{major}"));
    let path = root.join("bin/bpf-linker");
    if version(&path).is_none() {
        let packages = [&format!("llvm-{major}-dev"), &format!("libpolly-{major}-dev"), "libzstd-dev", "zlib1g-dev"];
        let why = format!("to build bpf-linker against LLVM {major}, the LLVM of the eBPF half's rustc");
        apt::ensure(paths, &packages, &why)?;
        // It may have lacked only LLVM's shared library, where a cache came from another machine.
        if version(&path).is_none() {
            install(paths, &root, major)?;
        }
    }
    Ok(Linker { path, llvm: major })
}

fn install(paths: &Paths, root: &Path, major: u32) -> Result<()> {
    let log = paths.log("bpf-linker");
    let llvm = format!("/usr/lib/llvm-{major}");
    if !Path::new(&llvm).is_dir() {
        bail!("LLVM {major} is not at {llvm}, where Debian's llvm-{major}-dev puts it");
    }
    let mut command = cargo(Surroundings::Clean);
    command
        .args(["install", "bpf-linker", "--version", &RELEASE.to_string(), "--locked", "--force"])
        .args(["--no-default-features", "--features", &format!("llvm-{major}"), "--root"])
        .arg(root)
        .env("LLVM_PREFIX", &llvm)
        .env(format!("LLVM_SYS_{major}1_PREFIX"), &llvm);
    step(
        "setup",
        &format!("compiling bpf-linker {RELEASE} with LLVM {major}, which links the eBPF half (one to three minutes)"),
        || {
            fresh(&log)?;
            quietly(&mut command, &log)
        },
    )
    .context("bpf-linker could not be installed from crates.io: it needs the network once, and a C compiler")?;
    version(&root.join("bin/bpf-linker")).map(drop).ok_or_else(|| anyhow!("the new bpf-linker does not run"))
}

/// A person's own bpf-linker, if it is new enough in both respects.
fn from_path(major: u32) -> Option<Linker> {
    let path = in_path("bpf-linker")?;
    let llvm = llvm_inside(&fs::read(&path).ok()?)?;
    (version(&path)? >= RELEASE && llvm >= major).then_some(Linker { path, llvm })
}

fn version(path: &Path) -> Option<Version> {
    output_of(Command::new(path).arg("--version"))?.split_whitespace().nth(1)?.parse().ok()
}

/// The LLVM major of a linker, which `--version` does not tell: from the name of the shared library that it needs
/// (`libLLVM.so.22.1`, `libLLVM-22.so`), or from the mark that a built-in LLVM writes into bitcode (`LLVM22.1.8`).
fn llvm_inside(executable: &[u8]) -> Option<u32> {
    executable.windows(4).enumerate().filter(|(_, bytes)| bytes == b"LLVM").find_map(|(start, _)| {
        let rest = &executable[start + 4..];
        let rest = rest.strip_prefix(b".so.").or_else(|| rest.strip_prefix(b"-")).unwrap_or(rest);
        let digits: Vec<u8> = rest.iter().copied().take_while(u8::is_ascii_digit).take(4).collect();
        let follows = rest.get(digits.len());
        let major = std::str::from_utf8(&digits).ok()?.parse().ok()?;
        (follows == Some(&b'.') && (10..1000).contains(&major)).then_some(major)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linker_shows_its_llvm() {
        assert_eq!(llvm_inside(b"\0libLLVM.so.22.1\0"), Some(22));
        assert_eq!(llvm_inside(b"\0libLLVM-21.so.1\0"), Some(21));
        assert_eq!(llvm_inside(b"LLVM_SYS LLVM ERROR: \0LLVM23.1.0-rust-1.99.0"), Some(23));
        assert_eq!(llvm_inside(b"LLVM LLVMX LLVM-"), None);
        assert_eq!(llvm_inside(b""), None);
    }
}
