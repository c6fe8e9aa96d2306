//! `cargo xtask matrix`: every supported Go version by every way to build, the agent's counts against the program's own.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::{
    agent::{self, Profile, Workspace, hush},
    apt::Privilege,
    ebpf, go,
    paths::Paths,
    setup,
    step::openly,
};

pub(crate) fn run(paths: &Paths, args: &[String]) -> Result<ExitCode> {
    if Privilege::find() != Privilege::Root {
        bail!("the matrix attaches probes: run it as root");
    }
    let toolchain = setup::build(paths)?;
    go::ensure_c_compiler(paths)?;
    let releases = go::MATRIX.iter().map(|release| Ok((release.variable(), release.ensure(paths)?)));
    let releases = releases.collect::<Result<Vec<_>>>()?;
    let object = ebpf::build(paths, &toolchain)?;
    let binary = agent::build(paths, &object, Profile::Release)?;
    let mut command = Workspace::new(paths, &object)?.compiling("run");
    hush(&mut command)
        .args(["--package", "parkranger-tests", "--bin", "matrix", "--"])
        .args(args)
        .env("PARKRANGER_BIN", &binary)
        .env("PARKRANGER_FIXTURES", paths.fixtures())
        .envs(releases);
    openly(&mut command, "the matrix is not all exact")?;
    Ok(ExitCode::SUCCESS)
}
