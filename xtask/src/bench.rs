//! `cargo xtask bench`: the benchmarks of the tests package, with the agent as it ships.

use std::process::ExitCode;

use anyhow::Result;

use crate::{
    agent::{self, Profile, Workspace, hush},
    apt::Privilege,
    paths::Paths,
    setup,
    step::{note, openly},
};

pub(crate) fn run(paths: &Paths, args: &[String]) -> Result<ExitCode> {
    let go = setup::bench(paths)?;
    if Privilege::find() != Privilege::Root {
        note("bench", "not root: benchmarks that load eBPF programs cannot run");
    }
    let binary = agent::build(paths, Profile::Release)?;
    let mut command = Workspace::new(paths)?.compiling("bench");
    // By name: `--benches` would hand the arguments to the test harness of each binary, too, which has no --quick.
    command
        .args(["--package", "parkranger-tests", "--bench", "*"])
        .env("PARKRANGER_BIN", &binary)
        .env("PARKRANGER_FIXTURES", paths.fixtures())
        .envs(go.iter().map(|(name, path)| (name, path)));
    openly(hush(&mut command).arg("--").args(args), "the benchmarks failed")?;
    Ok(ExitCode::SUCCESS)
}
