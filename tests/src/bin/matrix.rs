//! `cargo xtask matrix`: the table of Go versions by ways to build. Arguments choose some of both: `1.27 PIE cgo`.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use parkranger_tests::{
    go::Variant,
    matrix::{MINORS, run},
};

fn main() -> Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let minor_of = |word: &String| word.strip_prefix("1.").and_then(|minor| minor.parse::<u32>().ok());
    let mut minors: Vec<u32> = words.iter().filter_map(minor_of).collect();
    let mut variants: Vec<(Variant, &'static str)> =
        Variant::MATRIX.into_iter().filter(|(_, name)| words.iter().any(|word| word == name)).collect();
    ensure!(
        minors.len() + variants.len() == words.len(),
        "known are Go versions (1.27) and {:?}",
        Variant::MATRIX.map(|v| v.1)
    );
    if minors.is_empty() {
        minors = MINORS.to_vec();
    }
    if variants.is_empty() {
        variants = Variant::MATRIX.to_vec();
    }
    Ok(if run(&minors, &variants)? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
