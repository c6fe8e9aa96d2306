//! parkranger's parsers against crafted binaries.
//!
//! - [`image`] makes small valid Go binaries and knows where their fields are;
//! - [`input`] turns a fuzzer's bytes into such a binary with some fields changed;
//! - [`drive`] hands a binary to one parser after the other and checks what must hold of any answer.
//!
//! `cargo xtask fuzz` runs [`drive`] under libFuzzer; the test `replay` runs it over `corpus/` in every build.

mod bytes;
pub mod drive;
mod dwarf;
mod functions;
pub mod image;
pub mod input;
