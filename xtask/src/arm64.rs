//! `cargo xtask arm64`: the agent on a real arm64 Debian kernel, under software emulation: are its counts exact, and its
//! dumps the programs' own?

use std::process::ExitCode;

use anyhow::Result;

use crate::{
    agent::{self, Profile},
    cross,
    go::TESTED,
    guest::{self, ARM64, Guest},
    paths::Paths,
    step::step,
};

const TARGET: &str = "aarch64-unknown-linux-musl";
const SUITE: &str = "bookworm";

pub(crate) fn run(paths: &Paths) -> Result<ExitCode> {
    let guest = Guest::new(paths, &ARM64, SUITE, false)?;
    let target: cross::Target = TARGET.parse()?;
    target.ensure(paths)?;
    let binary = agent::build_for(paths, Profile::Release, Some(&target))?;
    guest::put(&binary, &guest.root().join("t/parkranger"))?;
    for release in TESTED {
        step("build", &format!("the test programs for arm64 with Go {}", release.version()), || {
            ["exercise", "crowd"].iter().try_for_each(|program| guest.program(&release, program))
        })?;
    }
    let console = step("arm64", "counting in the guest", || guest.boot())?;
    let versions = TESTED.map(|release| release.version()).join(",");
    guest::compare(paths, &[format!("{}:{versions}", console.display())])?;
    Ok(ExitCode::SUCCESS)
}
