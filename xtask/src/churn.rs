//! `cargo xtask churn`: Go programs that come and go while the agent watches them all.

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

pub(crate) fn run(paths: &Paths, minutes: u64) -> Result<ExitCode> {
    if Privilege::find() != Privilege::Root {
        bail!("this attaches probes: run it as root");
    }
    let toolchain = setup::build(paths)?;
    let releases = go::TESTED.iter().map(|release| Ok((release.variable(), release.ensure(paths)?)));
    let releases = releases.collect::<Result<Vec<_>>>()?;
    let object = ebpf::build(paths, &toolchain)?;
    let binary = agent::build(paths, &object, Profile::Release)?;
    let mut command = Workspace::new(paths, &object)?.compiling("run");
    hush(&mut command)
        .args(["--package", "parkranger-tests", "--bin", "churn", "--"])
        .arg((minutes * 60).to_string())
        .env("PARKRANGER_BIN", &binary)
        .env("PARKRANGER_FIXTURES", paths.fixtures())
        .envs(releases);
    openly(&mut command, "not everything was seen")?;
    Ok(ExitCode::SUCCESS)
}
