//! The documents hold to what xtask accepts: every `cargo xtask` command that they name is parsed.

use std::path::Path;

use anyhow::{Result, bail};
use clap::{CommandFactory as _, Parser as _};

use crate::Cli;

#[allow(dead_code, unreachable_pub, reason = "the harness of the tests has it, too")]
#[path = "../../tests/src/documents.rs"]
mod documents;

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_documented_command_is_accepted() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = 0;
    for documented in documents::commands(&root)? {
        // A variable may be set for one command.
        let words = documented.command.split_whitespace().skip_while(|word| word.contains('='));
        let words: Vec<&str> = words.collect();
        let ["cargo", "xtask", rest @ ..] = words.as_slice() else { continue };
        // The name alone is no command.
        if rest.is_empty() {
            continue;
        }
        if let Err(error) = Cli::try_parse_from(["cargo xtask"].iter().chain(rest))
            && error.use_stderr()
        {
            bail!("{}: `{}`: {error}", documented.place, documented.command);
        }
        found += 1;
    }
    assert!(found > 10, "only {found} commands found");
    Ok(())
}
