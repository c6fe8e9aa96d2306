//! Chores of the parkranger repository: set-up, build, test, demo, benchmarks, lint.
//!
//! Every command brings what it needs by itself, says in one line each what it installs and why, and stops with the name
//! of the missing thing and a way out where it may not install. What runs how is in the module named after the command;
//! the other modules are what they share: [`paths`], [`step`], [`apt`], [`rust`], [`ebpf`], [`agent`], [`go`].

mod agent;
mod apt;
mod arm64;
mod bench;
mod churn;
mod cross;
mod demo;
#[cfg(test)]
mod documented;
mod ebpf;
mod esbuild;
mod fuzz;
mod go;
mod guest;
mod layouts;
mod leaks;
mod lint;
mod matrix;
mod others;
mod paths;
mod proof;
mod qemu;
mod rust;
mod schemathesis;
mod setup;
mod step;
mod symbols;
mod test;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::{agent::Profile, paths::Paths, setup::Purpose};

/// Chores of the parkranger repository. Each command first installs what it needs and says so.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what the other commands need, and nothing else
    ///
    /// The other commands do this by themselves: use it to prepare a machine or a CI image ahead of time.
    Setup {
        /// Install only what this command needs
        #[arg(long = "for", value_enum, default_value_t = Purpose::Bench)]
        purpose: Purpose,
    },
    /// Build the agent, and print where it is
    Build {
        /// Build with optimisations (the default)
        #[arg(long)]
        release: bool,
        /// Build without optimisations
        #[arg(long, conflicts_with = "release")]
        debug: bool,
        /// Build for another machine: aarch64-unknown-linux-musl
        #[arg(long, value_name = "TRIPLE")]
        target: Option<cross::Target>,
    },
    /// Rebuild the eBPF objects in ebpf/objects from their sources
    Ebpf {
        /// Write nothing; fail where the committed objects are not what the sources give
        #[arg(long)]
        check: bool,
    },
    /// Build, then run every test: unit tests, and the agent against real Go programs (those need root)
    Test {
        /// Handed to each test program: a filter, --nocapture, --ignored, --exact, ...
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Build, start a small Go service that leaks goroutines, and watch parkranger find the line
    Demo,
    /// Build, then run the benchmarks
    Bench {
        /// Handed to every benchmark: --quick, --rounds N, --json FILE, --go MINOR
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Fuzz the parsers of hostile bytes, 30 minutes each unless told otherwise
    Fuzz(fuzz::Options),
    /// Compare the agent's counts with a program's own, for every Go version and way to build (needs root)
    Matrix {
        /// Only these versions and ways: 1.27 PIE cgo
        args: Vec<String>,
    },
    /// Start and end Go programs, 50 a second, and see whether the agent keeps up (needs root)
    Churn {
        /// How long
        #[arg(long, default_value_t = 10)]
        minutes: u64,
    },
    /// Run the tests of Go's standard library, and a build of all of it, watched and alone (needs root)
    Others {
        /// Only the tests of sync, context and time, once: a minute
        #[arg(long)]
        short: bool,
    },
    /// Say how often findings of leaks are right, on a corpus of leaking and healthy services (needs root)
    Leaks {
        /// Every fourth of them, for 15 seconds: half a minute
        #[arg(long)]
        short: bool,
        /// Only services with one of these in their names; "verbose" prints all evidence
        words: Vec<String>,
    },
    /// Compare the frames that DWARF and gopclntab give, at every pc of six large programs
    Symbols,
    /// Write the table of the runtime's structs, from the DWARF of every supported Go, for amd64 and arm64
    Layouts {
        /// Write nothing; fail where the committed table says anything else
        #[arg(long)]
        check: bool,
    },
    /// Count on a real arm64 kernel, under emulation
    Arm64,
    /// Count on the kernels of Debian's releases, 5.10 to 7.x, under emulation
    Vm(vm::Options),
    /// Check formatting, and clippy with warnings as errors
    Lint,
    /// Run cargo with the environment and flags that parkranger needs here: `cargo xtask cargo -- clippy`
    Cargo {
        /// The cargo command line, from the subcommand on
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(&Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<ExitCode> {
    let paths = Paths::find()?;
    match command {
        Command::Setup { purpose } => setup::run(&paths, *purpose),
        Command::Build { debug, target, .. } => {
            let profile = if *debug { Profile::Debug } else { Profile::Release };
            if let Some(target) = target {
                target.ensure(&paths)?;
            }
            let binary = agent::build_for(&paths, profile, target.as_ref())?;
            println!("built {}", paths.shown(&binary));
            Ok(ExitCode::SUCCESS)
        }
        Command::Ebpf { check } => ebpf::run(&paths, *check),
        Command::Test { args } => test::run(&paths, args),
        Command::Demo => demo::run(&paths),
        Command::Bench { args } => bench::run(&paths, args),
        Command::Fuzz(options) => fuzz::run(&paths, options),
        Command::Matrix { args } => matrix::run(&paths, args),
        Command::Churn { minutes } => churn::run(&paths, *minutes),
        Command::Others { short } => others::run(&paths, *short),
        Command::Leaks { short, words } => leaks::run(&paths, *short, words),
        Command::Symbols => symbols::run(&paths),
        Command::Layouts { check } => layouts::run(&paths, *check),
        Command::Arm64 => arm64::run(&paths),
        Command::Vm(options) => vm::run(&paths, options),
        Command::Lint => lint::run(&paths),
        Command::Cargo { args } => agent::pass_through(&paths, args),
    }
}
