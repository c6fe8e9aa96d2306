//! The command line: arguments, the commands, exit codes.
//!
//! Parsing validates and never acts; each command is a file.

mod bounds;
mod budget;
mod check;
mod diff;
mod dump;
mod exit;
mod fetch;
mod leaks;
mod logging;
mod ps;
mod rules;
mod serve;
mod target;
mod top;

use clap::{CommandFactory as _, Parser, Subcommand};

pub use exit::Exit;

const AFTER_HELP: &str = "\
Exit codes: 0 done, 1 failure (no such process, not permitted, the kernel refuses), 2 usage, 3 nothing here can be \
watched, 4 \
leaks found.";

/// Watches the scheduler of Go processes from outside: goroutine births, parks and exits per creation site, live, with no
/// pprof endpoint, no rebuild, no restart and no stop of the target.
#[derive(Debug, Parser)]
#[command(name = "parkranger", version, after_help = AFTER_HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Say more on standard error; twice for everything. PARKRANGER_LOG takes a filter.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show births, parks, exits and live goroutines per creation site.
    Top(top::Options),
    /// Say what this kernel, these privileges and each target allow, and what would be probed.
    Check(check::Options),
    /// Write every goroutine of a process: its state, creation site and stack. The process is not stopped.
    Dump(dump::Options),
    /// Compare two dumps or profiles of goroutines: who came, went, stayed; or group one.
    Diff(diff::Options),
    /// Say which lines of a process leak goroutines, why, since when, and how sure that is. Takes censuses only.
    Leaks(leaks::Options),
    /// List the Go processes of this host: what they are, what bites them, whether they can be watched.
    Ps(ps::Options),
    /// Watch every Go process of this host, now and later, and answer over HTTP: metrics, pprof profiles, JSON.
    Serve(serve::Options),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Runs the command line of this process.
#[must_use]
pub fn run() -> Exit {
    let arguments = Arguments::parse();
    let quiet = !matches!(arguments.command, Command::Serve(_));
    logging::init(arguments.verbose, quiet);
    let done = |done: Result<(), exit::Failure>| done.map(|()| Exit::Done);
    let done = match arguments.command {
        Command::Top(options) => done(top::run(options)),
        Command::Check(options) => done(check::run(&options)),
        Command::Dump(options) => done(dump::run(&options)),
        Command::Ps(options) => done(ps::run(&options)),
        Command::Serve(options) => done(serve::run(options)),
        Command::Diff(options) => done(diff::run(&options)),
        Command::Leaks(options) => leaks::run(&options),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "parkranger", &mut script);
            done(std::io::Write::write_all(&mut std::io::stdout(), &script).map_err(exit::Failure::from))
        }
    };
    exit::report(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }
}
