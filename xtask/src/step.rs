//! One line per step, and children that are silent unless they fail.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::Path,
    process::{Command, ExitStatus, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, anyhow, bail};

/// How much of a failed child's log is shown; the rest is in the file.
const LOG_LINES_SHOWN: usize = 30;

/// Prints `topic` and `what`, does `work`, and closes the line with the time it took.
pub(crate) fn step<T>(topic: &str, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    eprint!("{topic:>8}  {what} ... ");
    io::stderr().flush().ok();
    let result = work();
    let seconds = start.elapsed().as_secs_f32();
    eprintln!("{} {seconds:.0} s", if result.is_ok() { "done," } else { "failed," });
    result
}

/// A line of information in the layout of [`step`].
pub(crate) fn note(topic: &str, text: &str) {
    eprintln!("{topic:>8}  {text}");
}

/// Runs `command` with its output appended to `log`, and fails with the end of that output.
pub(crate) fn quietly(command: &mut Command, log: &Path) -> Result<()> {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot write the log {}", log.display()))?;
    writeln!(file, "\n$ {command:?}")?;
    let status = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()
        .map_err(|error| cannot_start(command, &error))?;
    if status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&std::fs::read(log)?).into_owned();
    bail!(
        "`{}` {}; the end of {}:\n{}",
        command.get_program().to_string_lossy(),
        ending(status),
        log.display(),
        last_lines(&text, LOG_LINES_SHOWN)
    )
}

/// Empties a step's log, so that it holds one run.
pub(crate) fn fresh(log: &Path) -> Result<()> {
    File::create(log).map(drop).with_context(|| format!("cannot write the log {}", log.display()))
}

/// Runs `command` with our own output and input, and fails with `what` if it does.
pub(crate) fn openly(command: &mut Command, what: &str) -> Result<()> {
    let status = command.status().map_err(|error| cannot_start(command, &error))?;
    if status.success() { Ok(()) } else { Err(anyhow!("{what}: it {}", ending(status))) }
}

/// What `command` prints, or `None` if it cannot be started or fails.
pub(crate) fn output_of(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

pub(crate) fn cannot_start(command: &Command, error: &io::Error) -> anyhow::Error {
    anyhow!("cannot start `{}`: {error}", command.get_program().to_string_lossy())
}

pub(crate) fn ending(status: ExitStatus) -> String {
    status.code().map_or_else(|| format!("was ended by a signal ({status})"), |code| format!("exited with {code}"))
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].iter().map(|line| format!("    {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_its_last_lines_indented() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "    b\n    c\n");
        assert_eq!(last_lines("", 2), "");
    }
}
