//! Proofs that take minutes: programs of the tests package that watch many Go programs with the agent as it ships.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::{
    agent::{self, Profile, Workspace, hush},
    apt::Privilege,
    ebpf,
    go::Release,
    paths::Paths,
    setup,
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
    let toolchain = setup::build(paths)?;
    let releases = releases.iter().map(|release| Ok((release.variable(), release.ensure(paths)?)));
    let releases = releases.collect::<Result<Vec<_>>>()?;
    let object = ebpf::build(paths, &toolchain)?;
    let binary = agent::build(paths, &object, Profile::Release)?;
    let mut command = Workspace::new(paths, &object)?.compiling("run");
    hush(&mut command)
        .args(["--package", "parkranger-tests", "--bin", name, "--"])
        .args(args)
        .env("PARKRANGER_BIN", &binary)
        .env("PARKRANGER_FIXTURES", paths.fixtures())
        .envs(releases);
    openly(&mut command, failure)?;
    Ok(ExitCode::SUCCESS)
}
