//! `cargo xtask symbols`: DWARF and gopclntab say the same of every pc of every function of three large programs.
//!
//! The programs are the toolchain's own, built with DWARF by the newest Go (DWARF 5) and by one that wrote DWARF 4. The
//! comparison is the one of the agent's own tests, which have it in short.

use std::{env, fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};

use crate::{
    agent::{Workspace, hush},
    go::{NEWEST, Release, TESTED},
    paths::Paths,
    step::{fresh, openly, quietly, step},
};

/// Largest last: all of them have a good deal of inlining and of generated code.
const PROGRAMS: [&str; 3] = ["link", "go", "compile"];

pub(crate) fn run(paths: &Paths) -> Result<ExitCode> {
    let mut files = Vec::new();
    for release in [&NEWEST, &TESTED[1]] {
        for program in PROGRAMS {
            files.push(build(paths, release, program)?);
        }
    }
    let mut command = Workspace::new(paths)?.compiling("test");
    // Millions of questions: a build without optimisations would take an hour.
    hush(&mut command)
        .args(["--release", "--package", "parkranger", "--lib", "--"])
        .args(["symbols::tests::dwarf_and_gopclntab_agree", "--exact", "--ignored", "--nocapture"])
        .env("PARKRANGER_SYMBOLS_OF", env::join_paths(&files)?);
    openly(&mut command, "DWARF and gopclntab disagree")?;
    Ok(ExitCode::SUCCESS)
}

/// One of the toolchain's own programs, built once with DWARF.
fn build(paths: &Paths, release: &Release, program: &str) -> Result<PathBuf> {
    let folder = paths.fixtures().join("tools").join(release.version());
    let file = folder.join(program);
    if file.is_file() {
        return Ok(file);
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let log = paths.log(&format!("go-{}-{program}", release.version()));
    step("build", &format!("cmd/{program} of Go {}", release.version()), || {
        fresh(&log)?;
        let partial = folder.join(format!("{program}-{}", std::process::id()));
        let mut command = release.command(paths)?;
        command.args(["build", "-p", "2", "-o"]).arg(&partial).arg(format!("cmd/{program}"));
        quietly(&mut command, &log)?;
        fs::rename(&partial, &file).with_context(|| format!("cannot write {}", file.display()))
    })?;
    Ok(file)
}
