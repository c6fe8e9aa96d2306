//! The `parkranger` command. Everything is in the library; this only wires.

fn main() -> parkranger::cli::Exit {
    parkranger::cli::run()
}
