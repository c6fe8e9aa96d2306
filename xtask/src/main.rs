//! Chores of the parkranger repository.
fn main() {}
