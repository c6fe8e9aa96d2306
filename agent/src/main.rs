//! The parkranger command.
fn main() {}
