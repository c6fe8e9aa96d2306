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

use clap::{
    CommandFactory as _, Parser, Subcommand,
    error::{ContextKind, ContextValue, ErrorKind},
};

pub use exit::Exit;

const AFTER_HELP: &str = "\
Exit codes: 0 done, 1 failure (no such process, not permitted, the kernel refuses), 2 usage, 3 nothing here can be \
watched, 4 \
leaks found.";

/// Watches the scheduler of Go processes from outside: goroutine births, parks and exits per creation site, live, with no
/// pprof endpoint, no rebuild, no restart and no stop of the target.
#[derive(Debug, Parser)]
#[command(name = "parkranger", version, after_help = AFTER_HELP, mut_subcommands(with_exit_codes))]
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

/// A command's help ends with its examples, if it has some, and with the exit codes.
fn with_exit_codes(command: clap::Command) -> clap::Command {
    let examples = command.get_after_help().map(|examples| format!("{examples}\n\n")).unwrap_or_default();
    command.after_help(format!("{examples}{AFTER_HELP}"))
}

/// Runs the command line of this process.
#[must_use]
pub fn run() -> Exit {
    let arguments = Arguments::try_parse().unwrap_or_else(|error| with_hint(error).exit());
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

/// A pid alone is what users of other tools try.
fn with_hint(mut error: clap::Error) -> clap::Error {
    let argument = match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument, Some(ContextValue::String(argument))) => argument,
        _ => return error,
    };
    if let Ok(pid) = argument.parse::<u32>() {
        let hint = format!("a process is given as '--pid {pid}'").into();
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![hint]));
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_pid_alone_gets_a_hint() {
        for command in ["top", "check", "ps", "dump"] {
            let error = Arguments::try_parse_from(["parkranger", command, "4242"]).unwrap_err();
            let said = with_hint(error).to_string();
            assert!(said.contains("--pid 4242"), "{command}: {said}");
        }
        let other = Arguments::try_parse_from(["parkranger", "top", "4242x"]).unwrap_err();
        assert!(!with_hint(other).to_string().contains("--pid"));
    }

    #[test]
    fn a_limit_of_nothing_is_refused() {
        for arguments in [["top", "--limit", "0"].as_slice(), &["diff", "x", "--limit", "0"]] {
            let given = std::iter::once("parkranger").chain(arguments.iter().copied());
            assert!(Arguments::try_parse_from(given).is_err(), "{arguments:?}");
        }
    }

    /// Help that names an option which the command has not leads people astray.
    #[test]
    fn help_names_only_options_there_are() {
        let root = Arguments::command();
        let of_root: Vec<String> = root.get_arguments().filter_map(|a| a.get_long().map(str::to_owned)).collect();
        for command in root.get_subcommands() {
            let long = |argument: &clap::Arg| argument.get_long().map(str::to_owned);
            let mut known: Vec<String> = command.get_arguments().filter_map(long).collect();
            known.extend(of_root.iter().cloned().chain(["help".to_owned(), "version".to_owned()]));
            let mut texts = vec![command.clone().render_long_help().to_string()];
            for argument in command.get_arguments() {
                texts.extend(
                    argument.get_possible_values().iter().filter_map(|v| v.get_help().map(ToString::to_string)),
                );
            }
            for text in texts {
                for piece in text.split("--").skip(1) {
                    let end = piece.find(|c: char| !c.is_ascii_lowercase() && c != '-' && !c.is_ascii_digit());
                    let name = piece.get(..end.unwrap_or(piece.len())).unwrap_or_default().trim_end_matches('-');
                    let whole = piece.get(name.len()..).unwrap_or_default().starts_with('…');
                    assert!(
                        name.is_empty() || whole || known.iter().any(|known| known == name),
                        "{}: --{name}",
                        command.get_name()
                    );
                }
            }
        }
    }
}
