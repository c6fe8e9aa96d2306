//! Cargo on the main workspace, with the flags that the active rustc needs.

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Result, bail};

use crate::{
    cross::Target,
    paths::Paths,
    rust::{Rustc, Surroundings, Userspace, cargo},
    step::{cannot_start, openly},
};

/// How the agent is compiled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Profile {
    Release,
    Debug,
}

/// Subcommands that compile the workspace, and so take features.
const COMPILING: [&str; 15] =
    ["b", "bench", "build", "c", "check", "clippy", "d", "doc", "fix", "r", "run", "rustc", "rustdoc", "t", "test"];

/// Makes cargo commands for the workspace.
pub(crate) struct Workspace<'a> {
    paths: &'a Paths,
    userspace: Userspace,
}

impl<'a> Workspace<'a> {
    pub(crate) fn new(paths: &'a Paths) -> Result<Self> {
        Ok(Self { paths, userspace: Userspace::for_rustc(Rustc::active()?.version) })
    }

    /// `cargo SUBCOMMAND` with everything that compiling the agent needs.
    pub(crate) fn compiling(&self, subcommand: &str) -> Command {
        self.compiling_with(subcommand, &[])
    }

    /// The same with more flags for rustc.
    pub(crate) fn compiling_with(&self, subcommand: &str, flags: &[&str]) -> Command {
        let mut command = self.bare(flags);
        command.arg(subcommand).arg("--ignore-rust-version");
        command
    }

    fn bare(&self, flags: &[&str]) -> Command {
        let mut command = cargo(Surroundings::Active);
        command.current_dir(&self.paths.root);
        self.userspace.apply(&mut command, flags);
        command
    }
}

/// Cargo's own progress is for a person at a terminal; elsewhere it is noise, and warnings and errors are enough.
pub(crate) fn hush(command: &mut Command) -> &mut Command {
    if !io::stderr().is_terminal() {
        command.arg("--quiet");
    }
    command
}

/// Builds the `parkranger` binary and returns its path.
pub(crate) fn build(paths: &Paths, profile: Profile) -> Result<PathBuf> {
    build_for(paths, profile, None)
}

/// The same, for another machine than this one where there is a `target`.
pub(crate) fn build_for(paths: &Paths, profile: Profile, target: Option<&Target>) -> Result<PathBuf> {
    let mut command = Workspace::new(paths)?.compiling("build");
    if let Some(target) = target {
        target.apply(&mut command)?;
    }
    command.args(["--package", "parkranger", "--bin", "parkranger"]);
    let folder = match profile {
        Profile::Release => {
            command.arg("--release");
            "release"
        }
        Profile::Debug => "debug",
    };
    openly(hush(&mut command), "the agent did not compile")?;
    let root = target.map_or_else(|| paths.target.clone(), |target| paths.target.join(&target.triple));
    Ok(root.join(folder).join("parkranger"))
}

/// `cargo xtask cargo -- ARGS`.
pub(crate) fn pass_through(paths: &Paths, args: &[String]) -> Result<ExitCode> {
    let Some((subcommand, rest)) = args.split_first() else { bail!("which cargo subcommand?") };
    let workspace = Workspace::new(paths)?;
    let mut command = if COMPILING.contains(&subcommand.as_str()) {
        workspace.compiling(subcommand)
    } else {
        let mut command = workspace.bare(&[]);
        command.arg(subcommand);
        command
    };
    let status = command.args(rest).status().map_err(|error| cannot_start(&command, &error))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
