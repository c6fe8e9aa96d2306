//! parkranger watches the scheduler of every Go process on a Linux host from outside.
//!
//! The modules are stages that follow the way of the data. A stage imports from stages above it, never from one below; the
//! test `order` holds them to that, and `docs/architecture.md` draws them.

pub mod address;
pub mod binary;
pub mod census;
pub mod cli;
pub mod diff;
pub mod dump;
pub mod export;
pub mod go_binary;
pub mod governor;
pub mod history;
pub mod host;
pub mod kernel;
pub mod leaks;
pub mod ledger;
#[cfg(test)]
mod order;
pub mod plan;
pub mod printable;
pub mod program;
pub mod runtime;
pub mod saved;
pub mod serve;
pub mod snapshot;
pub mod symbols;
pub mod views;
pub mod watch;
