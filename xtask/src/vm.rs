//! `cargo xtask vm`: the agent, as it ships, on the kernels of Debian's releases, under software emulation. Each attaches
//! probes in another way, or counts memory in another.

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    agent::{self, Profile},
    go::{NEWEST, OLDEST, Release},
    guest::{self, AMD64, Guest},
    paths::Paths,
    step::{output_of, step},
};

/// A suite of Debian, what its kernel's version begins with, and what `parkranger check` is to say of it.
struct Kernel {
    suite: &'static str,
    version: &'static str,
    method: &'static str,
}

const KERNELS: [Kernel; 4] = [
    Kernel { suite: "bullseye", version: "5.10.", method: "perf-event uprobes" },
    Kernel { suite: "bookworm", version: "6.1.", method: "perf-event uprobes with cookies" },
    Kernel { suite: "trixie", version: "6.12.", method: "uprobe_multi" },
    Kernel { suite: "sid", version: "7.", method: "uprobe_multi" },
];

#[derive(Args)]
pub(crate) struct Options {
    /// Only the oldest kernel, and only the newest Go: a minute
    #[arg(long)]
    short: bool,
    /// Download kernels anew: the ones that the package index has today
    #[arg(long)]
    update: bool,
}

pub(crate) fn run(paths: &Paths, options: &Options) -> Result<ExitCode> {
    let (kernels, releases): (&[Kernel], &[Release]) =
        if options.short { (&KERNELS[..1], &[NEWEST]) } else { (&KERNELS, &[OLDEST, NEWEST]) };
    let agent = agent::build(paths, Profile::Release)?;
    let versions: Vec<&str> = releases.iter().map(Release::version).collect();
    let mut how = Vec::new();
    for kernel in kernels {
        let guest = Guest::new(paths, &AMD64, kernel.suite, options.update)?;
        guest::put(&agent, &guest.root().join("t/parkranger"))?;
        libraries(&agent, &guest.root())?;
        guest::put(&paths.root.join("tests/vm/kernel.sh"), &guest.root().join("kernel.sh"))?;
        for release in releases {
            ["exercise", "crowd"].iter().try_for_each(|program| guest.program(release, program))?;
        }
        ["load", "launch", "waits"].iter().try_for_each(|program| guest.program(&NEWEST, program))?;
        let console = step("vm", &format!("Debian {}", kernel.suite), || guest.boot())?;
        how.push(format!("{}:{}:{}:{}", console.display(), versions.join(","), kernel.version, kernel.method));
    }
    guest::compare(paths, &how)?;
    Ok(ExitCode::SUCCESS)
}

/// Copies the libraries that a program is linked with to where it looks for them.
fn libraries(program: &Path, root: &Path) -> Result<()> {
    let printed = output_of(Command::new("ldd").arg(program)).context("ldd does not run")?;
    let mut found = false;
    for library in printed.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from) {
        let to = root.join(library.strip_prefix("/")?);
        std::fs::create_dir_all(to.parent().context("a folder")?)?;
        guest::put(&library, &to)?;
        found = true;
    }
    if found { Ok(()) } else { bail!("{} is linked with nothing: ldd printed {printed}", program.display()) }
}
