//! Programs built by the Go versions that no toolchain can be had of: old releases of esbuild, from npm.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    apt,
    paths::{Paths, in_path, is_executable},
    step::{fresh, quietly, step},
};

/// The variable that tells the test harness where it is, the npm package, and the file in it.
const RELEASES: [(&str, &str, &str); 2] = [
    ("PARKRANGER_ESBUILD_GO_1_18", "esbuild-linux-64@0.14.38", "package/bin/esbuild"),
    ("PARKRANGER_ESBUILD_GO_1_20", "@esbuild/linux-x64@0.19.2", "package/bin/esbuild"),
];

/// The executables with their variables, downloaded where they are missing. A person may set one to bring their own.
pub(crate) fn ensure(paths: &Paths) -> Result<Vec<(String, PathBuf)>> {
    let each = |(variable, package, file): (&str, &str, &str)| {
        if let Some(own) = std::env::var_os(variable) {
            return Ok((variable.to_owned(), own.into()));
        }
        let folder = paths.cache.join("esbuild").join(package.replace('/', "-"));
        let program = folder.join(file);
        if !is_executable(&program) {
            download(paths, package, &folder)?;
        }
        Ok((variable.to_owned(), program))
    };
    // For amd64 only: the other architecture has no test of it.
    if std::env::consts::ARCH != "x86_64" {
        return Ok(Vec::new());
    }
    RELEASES.into_iter().map(each).collect()
}

fn download(paths: &Paths, package: &str, folder: &Path) -> Result<()> {
    if in_path("npm").is_none() {
        apt::ensure(paths, &["npm"], "to download programs that were built by old Go versions")?;
    }
    let log = paths.log("esbuild");
    // Beside its final place: a half-made one never counts.
    let partial = folder.with_extension(format!("partial-{}", std::process::id()));
    fs::create_dir_all(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
    let result = step("setup", &format!("downloading {package} (npm), built by an old Go"), || {
        fresh(&log)?;
        let pack = ["pack", "--silent", "--pack-destination", ".", package];
        quietly(Command::new("npm").args(pack).current_dir(&partial), &log)
            .context("npm could not download it: this needs the network once")?;
        let archive = fs::read_dir(&partial)?.next().context("npm left no archive")??.path();
        quietly(Command::new("tar").arg("xzf").arg(&archive).current_dir(&partial), &log)?;
        fs::remove_file(&archive)?;
        match fs::rename(&partial, folder) {
            // Another clone on this machine may have been faster.
            Err(_) if folder.is_dir() => Ok(()),
            result => result.with_context(|| format!("cannot write {}", folder.display())),
        }
    });
    fs::remove_dir_all(&partial).ok();
    result
}
