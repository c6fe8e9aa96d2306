//! Log lines on standard error; quiet unless asked.

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::printable::Lines;

/// Starts logging at the level of `-v` (0 to 2), or by the filter in PARKRANGER_LOG. A command that is not `quiet` says
/// what it does without being asked.
pub(super) fn init(verbose: u8, quiet: bool) {
    let level = match verbose {
        0 if quiet => LevelFilter::WARN,
        0 | 1 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    let filter =
        EnvFilter::builder().with_default_directive(level.into()).with_env_var("PARKRANGER_LOG").from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Lines::new(std::io::stderr()))
        .with_ansi(false)
        .with_target(false)
        .init();
}
