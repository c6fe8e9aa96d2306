//! `cargo xtask lint`: formatting of both workspaces, and clippy with warnings as errors.

use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::{
    agent::Workspace,
    paths::{Paths, in_path},
    rust::{Surroundings, add_component, cargo},
    step::{note, openly, output_of},
};

pub(crate) fn run(paths: &Paths) -> Result<ExitCode> {
    for (tool, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        let works = output_of(cargo(Surroundings::Active).args([tool, "--version"])).is_some();
        if !works || in_path(&format!("cargo-{tool}")).is_none() {
            add_component(paths, component, "to lint")?;
        }
    }
    // Each check runs whatever the one before it found: one run shows everything there is to mend.
    let mut complaints = 0;
    let mut check = |command: &mut Command, good: &str, bad: &str| match openly(command, bad) {
        Ok(()) => note("lint", good),
        Err(error) => {
            note("lint", &format!("{error:#}"));
            complaints += 1;
        }
    };
    for (what, manifest) in [("the workspace", "Cargo.toml"), ("ebpf/", "ebpf/Cargo.toml")] {
        let mut command = cargo(Surroundings::Active);
        command.current_dir(&paths.root).args(["fmt", "--all", "--check", "--manifest-path", manifest]);
        let bad = format!("{what} is not formatted (`cargo fmt --all --manifest-path {manifest}`)");
        check(&mut command, &format!("{what} is formatted"), &bad);
    }
    // Clippy compiles, so it needs what a build needs.
    let mut command = Workspace::new(paths)?.compiling("clippy");
    command.args(["--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    check(&mut command, "clippy is content", "clippy has complaints");
    if complaints > 0 {
        bail!("{complaints} of 3 checks failed");
    }
    Ok(ExitCode::SUCCESS)
}
