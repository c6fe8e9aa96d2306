//! Cargo on the main workspace, with the flags that the active rustc needs and the eBPF object that was built.

use std::{
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Result, bail};

use crate::{
    cross::Target,
    ebpf,
    paths::Paths,
    rust::{Rustc, Surroundings, Userspace, cargo},
    setup,
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
    object: &'a Path,
    userspace: Userspace,
}

impl<'a> Workspace<'a> {
    pub(crate) fn new(paths: &'a Paths, object: &'a Path) -> Result<Self> {
        Ok(Self { paths, object, userspace: Userspace::for_rustc(Rustc::active()?.version) })
    }

    /// `cargo SUBCOMMAND` with everything that compiling the agent needs.
    pub(crate) fn compiling(&self, subcommand: &str) -> Command {
        self.compiling_with(subcommand, &[])
    }

    /// The same with more flags for rustc.
    pub(crate) fn compiling_with(&self, subcommand: &str, flags: &[&str]) -> Command {
        let mut command = self.bare(flags);
        command.arg(subcommand).args(["--ignore-rust-version", "--features", "parkranger/kernel"]);
        command
    }

    fn bare(&self, flags: &[&str]) -> Command {
        let mut command = cargo(Surroundings::Active);
        command.current_dir(&self.paths.root).env("PARKRANGER_EBPF_OBJECT", self.object);
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
pub(crate) fn build(paths: &Paths, object: &Path, profile: Profile) -> Result<PathBuf> {
    build_for(paths, object, profile, None)
}

/// The same, for another machine than this one where there is a `target`.
pub(crate) fn build_for(paths: &Paths, object: &Path, profile: Profile, target: Option<&Target>) -> Result<PathBuf> {
    let mut command = Workspace::new(paths, object)?.compiling("build");
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
    let toolchain = setup::build(paths)?;
    let object = ebpf::build(paths, &toolchain)?;
    let workspace = Workspace::new(paths, &object)?;
    let mut command = if COMPILING.contains(&subcommand.as_str()) && has_the_agent(rest) {
        workspace.compiling(subcommand)
    } else {
        let mut command = workspace.bare(&[]);
        command.arg(subcommand);
        command
    };
    let status = command.args(rest).status().map_err(|error| cannot_start(&command, &error))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Is the agent among the selected packages, or below one of them? Only then can its features be named.
fn has_the_agent(args: &[String]) -> bool {
    let cargo_args = args.split(|arg| arg == "--").next().unwrap_or_default();
    let mut packages = cargo_args.iter().enumerate().filter_map(|(index, arg)| match arg.as_str() {
        "-p" | "--package" => cargo_args.get(index + 1).map(String::as_str),
        _ => arg.strip_prefix("--package=").or_else(|| arg.strip_prefix("-p")),
    });
    packages.next().is_none_or(|first| {
        [first].into_iter().chain(packages).any(|name| matches!(name, "parkranger" | "parkranger-tests"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_features_are_named_only_where_it_is_built() {
        let ask = |line: &str| has_the_agent(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        for line in ["", "--workspace", "-p parkranger", "-p xtask -p parkranger-tests", "--all-targets -- -p xtask"] {
            assert!(ask(line), "{line}");
        }
        for line in ["-p xtask", "-pxtask", "--package=parkranger-common", "--package xtask -- -D warnings"] {
            assert!(!ask(line), "{line}");
        }
    }
}
