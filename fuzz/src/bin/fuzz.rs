//! The fuzz target: libFuzzer around the parser that `PARKRANGER_FUZZ` names. `cargo xtask fuzz` builds and runs it.
#![no_main]

use std::sync::LazyLock;

use parkranger_fuzz::drive::{LONGEST, Parser};

#[allow(clippy::panic, reason = "there is nobody else to tell")]
static PARSER: LazyLock<Parser> = LazyLock::new(|| {
    let name = std::env::var("PARKRANGER_FUZZ").unwrap_or_default();
    let known = Parser::ALL.into_iter().find(|parser| parser.name() == name);
    known.unwrap_or_else(|| panic!("PARKRANGER_FUZZ={name}: not one of {:?}", Parser::ALL.map(Parser::name)))
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let took = PARSER.time(input);
    assert!(took < LONGEST, "{took:?} of processor time");
});
