//! Harness for tests of parkranger against real Go programs.
//!
//! - [`go`] builds the programs under `programs/` with each Go toolchain there is, in the variants tests ask for;
//! - [`target`] runs one and talks to it; it counts for itself what it does;
//! - [`subject`] reads one with the agent's own library;
//! - [`agent`] runs parkranger and reads what it prints;
//! - [`kernel_count`] counts the hits of an instruction with nothing of parkranger's in the way;
//! - [`kernel_log`] has every test fail that makes the kernel warn;
//! - [`containers`] has one file under several names;
//! - [`breakpoints`] shows what uprobes have left in a process's code;
//! - [`compare`] holds what the agent says to what the target counted;
//! - [`matrix`] does that for every Go version and way to build;
//! - [`crowd`] has a target in every state, and reads dumps of it;
//! - [`daemon`] runs `parkranger serve`, and [`http`] asks it;
//! - [`prometheus`] scrapes it as the real one does;
//! - [`documents`] reads the commands that the documents name;
//! - [`elf`] finds functions by symbol, as little as the two above need;
//! - [`others`] runs other people's programs with and without the agent;
//! - [`skip`] makes sure that what could not be tested is known;
//! - [`bench`] runs benchmarks beside their peers.
//!
//! Tests are told where things are by environment variables: `PARKRANGER_BIN` (the agent), `PARKRANGER_GO_1_19` and
//! so on (a `go` executable of that version), `PARKRANGER_FIXTURES` (built programs are kept there),
//! `PARKRANGER_SKIPS` (a file that lists skipped tests).

pub mod agent;
pub mod bench;
pub mod breakpoints;
pub mod compare;
pub mod containers;
pub mod crowd;
pub mod daemon;
pub mod documents;
pub mod elf;
pub mod executable;
pub mod go;
pub mod http;
pub mod kernel_count;
pub mod kernel_log;
pub mod leaks;
pub mod matrix;
pub mod others;
pub mod prometheus;
pub mod skip;
pub mod subject;
pub mod target;
