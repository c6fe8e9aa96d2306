//! `cargo xtask lint`: formatting of both workspaces, and clippy with warnings as errors.

use std::process::ExitCode;

use anyhow::Result;

use crate::{
    agent::Workspace,
    ebpf,
    paths::{Paths, in_path},
    rust::{Surroundings, add_component, cargo},
    setup,
    step::{note, openly, output_of},
};

pub(crate) fn run(paths: &Paths) -> Result<ExitCode> {
    for (tool, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        let works = output_of(cargo(Surroundings::Active).args([tool, "--version"])).is_some();
        if !works || in_path(&format!("cargo-{tool}")).is_none() {
            add_component(paths, component, "to lint")?;
        }
    }
    let by_hand = "run `cargo fmt` there";
    for (what, manifest) in [("the workspace", "Cargo.toml"), ("ebpf/", "ebpf/Cargo.toml")] {
        let mut command = cargo(Surroundings::Active);
        command.current_dir(&paths.root).args(["fmt", "--all", "--check", "--manifest-path", manifest]);
        openly(&mut command, &format!("{what} is not formatted ({by_hand})"))?;
    }
    note("lint", "formatting is right");

    // Clippy compiles, so it needs what a build needs.
    let toolchain = setup::build(paths)?;
    let object = ebpf::build(paths, &toolchain)?;
    let mut command = Workspace::new(paths, &object)?.compiling("clippy");
    command.args(["--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    openly(&mut command, "clippy has complaints")?;
    note("lint", "clippy is content");
    Ok(ExitCode::SUCCESS)
}
