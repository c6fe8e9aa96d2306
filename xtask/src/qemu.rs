//! qemu's system emulators. Installed as a Debian package where that costs no other package; else the package and what it needs
//! are unpacked into the cache: a machine with a newer `qemu-utils` than its package sources have would lose that.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    apt,
    paths::{Paths, in_path},
    step::{fresh, note, quietly, step},
};

/// An emulator that can be run here.
pub(crate) struct Qemu {
    program: PathBuf,
    /// The folder it was unpacked into.
    root: Option<PathBuf>,
}

impl Qemu {
    /// Finds `program`, installs its `package`, or unpacks it.
    pub(crate) fn ensure(paths: &Paths, program: &str, package: &str) -> Result<Self> {
        if let Some(program) = in_path(program) {
            return Ok(Self { program, root: None });
        }
        let root = paths.cache.join(package);
        let unpacked = root.join("usr/bin").join(program);
        if !unpacked.is_file() {
            let Err(error) = apt::ensure(paths, &[package], "to boot another kernel") else {
                return Ok(Self { program: PathBuf::from(program), root: None });
            };
            note(
                "setup",
                &format!("{package} cannot be installed beside what there is: it is unpacked into the cache"),
            );
            step("setup", &format!("downloading {package} and what it needs"), || unpack(paths, package, &root))
                .with_context(|| format!("{error:#}"))?;
        }
        Ok(Self { program: unpacked, root: Some(root) })
    }

    /// The emulator, ready for its arguments, run by `timeout` for so many seconds at most.
    pub(crate) fn command(&self, seconds: &str) -> Command {
        let mut command = Command::new("timeout");
        command.arg(seconds).arg(&self.program);
        if let Some(root) = &self.root {
            let below = |folder: &str| root.join(format!("{folder}/{}-linux-gnu", std::env::consts::ARCH));
            let libraries = format!("{}:{}", below("usr/lib").display(), below("lib").display());
            command.env("QEMU_MODULE_DIR", below("usr/lib").join("qemu")).env("LD_LIBRARY_PATH", libraries);
            for folder in ["usr/share/qemu", "usr/share/seabios"] {
                command.arg("-L").arg(root.join(folder));
            }
        }
        command
    }
}

fn unpack(paths: &Paths, package: &str, root: &Path) -> Result<()> {
    let log = paths.log(package);
    fresh(&log)?;
    let (archives, partial) = (root.with_extension("archives"), root.with_extension("partial"));
    for folder in [&archives, &partial] {
        fs::remove_dir_all(folder).ok();
    }
    fs::create_dir_all(archives.join("partial"))?;
    fs::create_dir_all(&partial)?;
    let mut download = Command::new("apt-get");
    download
        .args(["install", "-y", "-qq", "--no-install-recommends", "--download-only", "-o", "Debug::NoLocking=1", "-o"])
        .arg(format!("Dir::Cache::archives={}", archives.display()))
        .arg(package);
    quietly(&mut download, &log)?;
    for entry in fs::read_dir(&archives)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            quietly(Command::new("dpkg").arg("-x").arg(&path).arg(&partial), &log)?;
        }
    }
    fs::remove_dir_all(&archives)?;
    fs::rename(&partial, root).with_context(|| format!("cannot make {}", root.display()))
}
