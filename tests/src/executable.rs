//! Executables made by tests that run at once with others.
//!
//! None is written by this process itself: a child that another test starts meanwhile would inherit the open file, and
//! nobody can run a file that is open for writing ("Text file busy").

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Copies an executable.
///
/// # Errors
/// When it cannot be copied.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg(from).arg(to).status().context("starting cp")?;
    ensure!(status.success(), "cp {} {}: {status}", from.display(), to.display());
    Ok(())
}

/// Makes an executable of `bytes`, or replaces what one has.
///
/// # Errors
/// When it cannot be written.
pub fn write(bytes: &[u8], to: &Path) -> Result<()> {
    let mut shell = Command::new("sh")
        .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
        .arg(to)
        .stdin(Stdio::piped())
        .spawn()
        .context("starting a shell")?;
    shell.stdin.take().context("stdin")?.write_all(bytes)?;
    let status = shell.wait()?;
    ensure!(status.success(), "writing {}: {status}", to.display());
    Ok(())
}
