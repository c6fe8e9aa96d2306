//! Builds the eBPF half and puts the object where the agent's build script finds it.

mod linker;
mod toolchain;

use std::{
    env::consts::ARCH,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

pub(crate) use self::toolchain::Toolchain;
use crate::{
    paths::Paths,
    rust::encode_flags,
    step::{note, openly},
};

const TARGET: &str = "bpfel-unknown-none";
const OBJECT: &str = "parkranger-ebpf";

/// Compiles `ebpf/` for this machine's architecture and returns the object's path.
pub(crate) fn build(paths: &Paths, toolchain: &Toolchain) -> Result<PathBuf> {
    build_for(paths, toolchain, ARCH)
}

/// The same for another architecture: `pt_regs` differs, so there is one object for each.
pub(crate) fn build_for(paths: &Paths, toolchain: &Toolchain, arch: &str) -> Result<PathBuf> {
    let own_target = paths.target.join("ebpf-build");
    let mut command = command(toolchain, &own_target, arch)?;
    openly(command.current_dir(paths.root.join("ebpf")), "the eBPF half did not compile")?;

    let built = own_target.join(TARGET).join("release").join(OBJECT);
    let object = paths.target.join("ebpf").join(arch).join(OBJECT);
    copy_if_changed(&built, &object)?;
    note("ebpf", &format!("{}, built by {toolchain}", paths.shown(&object)));
    Ok(object)
}

fn command(toolchain: &Toolchain, own_target: &Path, arch: &str) -> Result<Command> {
    if !matches!(arch, "x86_64" | "aarch64") {
        bail!("parkranger knows the registers of x86_64 and aarch64, not of {arch}");
    }
    let linker = toolchain.linker.to_str().context("the path of bpf-linker is not UTF-8")?;
    let flags = [
        &format!("-Clinker={linker}"),
        &format!("--cfg=bpf_target_arch=\"{arch}\""),
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
    ];
    let mut command = toolchain.cargo();
    command
        .args(["build", "--quiet", "--release", "--ignore-rust-version", "-Z", "build-std=core", "--target", TARGET])
        .arg("--target-dir")
        .arg(own_target)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", encode_flags(flags));
    Ok(command)
}

/// Cargo rebuilds the agent when the object is newer: it is replaced only by other bytes, and in one move.
fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("the eBPF build left no {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let folder = to.parent().with_context(|| format!("{} has no folder", to.display()))?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let partial = to.with_extension("partial");
    fs::write(&partial, bytes)
        .and_then(|()| fs::rename(&partial, to))
        .with_context(|| format!("cannot write {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_equal_object_is_left_alone() -> Result<()> {
        let folder = std::env::temp_dir().join(format!("xtask-copy-{}", std::process::id()));
        let (from, to) = (folder.join("from"), folder.join("deep/to"));
        fs::create_dir_all(&folder)?;
        fs::write(&from, "one")?;
        copy_if_changed(&from, &to)?;
        let first = fs::metadata(&to)?.modified()?;
        std::thread::sleep(std::time::Duration::from_millis(20));
        copy_if_changed(&from, &to)?;
        assert_eq!(fs::metadata(&to)?.modified()?, first);
        fs::write(&from, "two")?;
        copy_if_changed(&from, &to)?;
        assert_eq!(fs::read(&to)?, b"two");
        fs::remove_dir_all(&folder)?;
        Ok(())
    }
}
