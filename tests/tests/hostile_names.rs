//! Names that an attacker chose reach root's terminal as text: no control character, no mark of writing direction, no line
//! that is not ours.

#![allow(missing_docs, reason = "tests")]

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use parkranger_tests::agent::{Output, run_once};
use parkranger_tests::executable;
use parkranger_tests::go::{Program, Variant, with_go};
use parkranger_tests::skip::agent;
use parkranger_tests::target::Exercise;

/// Renames the terminal, forges a row and a log line, clears the screen in C1, turns the rest around.
const NAME: &str = "api\u{1b}]0;owned\u{7}\r\nFORGED 1 row\u{9b}2J\u{202e}txt";

/// Nothing of the name but letters came out.
fn harmless(what: &str, text: &str) -> Result<()> {
    let harmful = |c: &char| {
        (c.is_control() && *c != '\n' && *c != '\t')
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{61c}')
    };
    ensure!(!text.chars().any(|c| harmful(&c)), "{what}: {text:?}");
    ensure!(!text.lines().any(|line| line.starts_with("FORGED")), "{what} has a forged line: {text:?}");
    Ok(())
}

#[test]
fn file_names_are_text_in_every_command() {
    with_go("hostile_names::file_names_are_text_in_every_command", 27, agent, |go| {
        let program = go.build(Program::Exercise, Variant::Plain)?.path;
        let folder = tempfile::tempdir()?;
        let path = folder.path().join(NAME);
        executable::copy(&program, &path)?;
        let exercise = Exercise::start_command(Command::new(&path).arg0(NAME))?;
        let pid = exercise.pid().to_string();
        let glob = format!("{}/**", folder.path().display());
        let commands: [&[&str]; 11] = [
            &["ps", "--pid", &pid],
            &["ps", "--pid", &pid, "--json"],
            &["check", "--pid", &pid],
            &["check", "--pid", &pid, "--json"],
            &["top", "--once", "--pid", &pid, "--stacks"],
            &["top", "--once", "--pid", &pid, "--json", "-vv"],
            &["top", "--once", "--exe", &glob],
            &["dump", "--pid", &pid],
            &["dump", "--pid", &pid, "--format", "json", "-vv"],
            &["dump", "--pid", &pid, "--format", "folded"],
            &["diff", &pid, &pid],
        ];
        let mut seen = 0;
        for command in commands {
            let Output { stdout, stderr, .. } = run_once(command)?;
            harmless(&format!("{command:?}"), &stdout)?;
            harmless(&format!("{command:?}, standard error"), &stderr)?;
            seen += usize::from(stdout.contains("\\u001b]0;owned\\u0007\\u000d\\u000aFORGED"));
        }
        ensure!(seen >= 4, "the name is shown, as text, where it is shown at all: {seen} commands");
        Ok(())
    });
}

#[test]
fn names_are_text_in_errors() {
    with_go("hostile_names::names_are_text_in_errors", 27, agent, |_| {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join(NAME);
        executable::copy("/bin/sleep".as_ref(), &path)?;
        let mut sleep = Command::new(&path).arg("60").spawn().context("sleep")?;
        let pid = sleep.id().to_string();
        let said: Result<Vec<String>> = [&["top", "--once", "--pid", &pid], &["check", "--pid", &pid, "-v"]]
            .into_iter()
            .map(|command| run_once(command.iter().copied()).map(|output| output.stderr))
            .chain([run_once(["dump", "--pid", &pid]).map(|output| output.stderr)])
            .collect();
        let _ = sleep.kill();
        let _ = sleep.wait();
        for text in said? {
            harmless("an error", &text)?;
        }
        Ok(())
    });
}
