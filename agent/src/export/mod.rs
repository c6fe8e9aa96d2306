//! One census, or one snapshot, written in the forms Go people know.
//!
//! | file | form |
//! |---|---|
//! | `text` | the runtime's own dump (`debug=2`, SIGQUIT) |
//! | `summary` | the goroutine profile as text (`debug=1`), with the memory of the stacks |
//! | `pprof` | the goroutine profile for `go tool pprof` |
//! | `folded` | one line per stack, for flame graphs |
//! | `site_profile` | births and parks by creation site, for `go tool pprof` |
//! | `metrics` | one snapshot for Prometheus |
//! | `diff` | two dumps compared |
//! | `findings` | suspected leaks, as text and JSON |
//! | `otlp` | the same for OpenTelemetry |
//! | `population` | one census in words, for history and findings |
//! | `schema` | what all JSON documents have in common |
//! | `json` | everything, for programs (docs/json.md) |
//!
//! Nothing here reads a process; names come from its binary.

pub mod diff;
pub mod findings;
pub mod folded;
pub mod json;
pub mod metrics;
pub mod otlp;
mod population;
pub mod pprof;
pub mod schema;
mod select;
pub mod site_profile;
pub mod summary;
mod tables;
pub mod text;

pub use population::population;
pub use select::Selection;
pub(crate) use select::matches_statement;
