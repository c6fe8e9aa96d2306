//! Other people's programs come out under watch as they do alone; `cargo xtask others` has the rest of them.

#![allow(missing_docs, reason = "tests")]

use anyhow::{Result, ensure};
use parkranger_tests::go::Toolchain;
use parkranger_tests::on_these_go;
use parkranger_tests::others::Suite;
use parkranger_tests::skip::agent;

on_these_go!(agent: [(go_1_27, 27)] the_tests_of_sync_context_and_time);

fn the_tests_of_sync_context_and_time(go: &Toolchain) -> Result<()> {
    for package in ["sync", "context", "time"] {
        let comparison = Suite::build(go, package)?.compare(package.to_owned(), 1)?;
        ensure!(comparison.is_same(), "{comparison}");
    }
    Ok(())
}
