//! The tester of API descriptions, from PyPI, in a folder of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    go::python_with_pip,
    paths::{Paths, is_executable},
    step::{fresh, quietly, step},
};

const VERSION: &str = "4.32.5";

/// The variable that tells the test harness where it is. A person may set it to bring their own.
pub(crate) const VARIABLE: &str = "PARKRANGER_SCHEMATHESIS";

/// The `schemathesis` executable, installed if it is missing. It finds its modules in the folder above its own.
pub(crate) fn ensure(paths: &Paths) -> Result<PathBuf> {
    if let Some(own) = std::env::var_os(VARIABLE) {
        return Ok(own.into());
    }
    let folder = paths.cache.join("schemathesis").join(VERSION);
    let program = folder.join("bin/schemathesis");
    if !is_executable(&program) {
        install(paths, &folder)?;
    }
    Ok(program)
}

fn install(paths: &Paths, folder: &Path) -> Result<()> {
    let python = python_with_pip(paths)?;
    let log = paths.log("schemathesis");
    // Beside its final place: a half-made one never counts.
    let partial = folder.with_extension(format!("partial-{}", std::process::id()));
    fs::create_dir_all(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
    let result =
        step("setup", "downloading schemathesis (PyPI), needed to test the HTTP API by its description", || {
            fresh(&log)?;
            let release = format!("schemathesis=={VERSION}");
            let mut install = Command::new(&python);
            install.args(["-m", "pip", "install", "-q", "--disable-pip-version-check", &release, "--target"]);
            quietly(install.arg(&partial), &log).context("pip could not install it: this needs the network once")?;
            match fs::rename(&partial, folder) {
                // Another clone on this machine may have been faster.
                Err(_) if is_executable(&folder.join("bin/schemathesis")) => Ok(()),
                result => result.with_context(|| format!("cannot write {}", folder.display())),
            }
        });
    fs::remove_dir_all(&partial).ok();
    result
}
