//! Proofs that take minutes: programs of the tests package that watch many Go programs with the agent as it ships.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::{
    agent::{self, Profile, Workspace, hush},
    apt::Privilege,
    go::Release,
    paths::Paths,
    step::openly,
};

/// Runs the program `name` of the tests package with these toolchains. `failure` is what its failing means.
pub(crate) fn run(
    paths: &Paths,
    name: &str,
    releases: &[Release],
    args: &[String],
    failure: &'static str,
) -> Result<ExitCode> {
    if Privilege::find() != Privilege::Root {
        bail!("{name} attaches probes: run it as root");
    }
    let releases = releases.iter().map(|release| Ok((release.variable(), release.ensure(paths)?)));
    let releases = releases.collect::<Result<Vec<_>>>()?;
    let binary = agent::build(paths, Profile::Release)?;
    let mut command = Workspace::new(paths)?.compiling("run");
    hush(&mut command)
        .args(["--package", "parkranger-tests", "--bin", name, "--"])
        .args(args)
        .env("PARKRANGER_BIN", &binary)
        .env("PARKRANGER_FIXTURES", paths.fixtures())
        .envs(releases);
    openly(&mut command, failure)?;
    Ok(ExitCode::SUCCESS)
}
