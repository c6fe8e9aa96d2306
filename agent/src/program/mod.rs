//! The Go runtime of one process: whether the process is meant, where its runtime is, whether memory proves what is supposed
//! of it, and what the runtime says of itself.
//!
//! | file | does |
//! |---|---|
//! | `target`, `rules` | which processes are meant |
//! | `find` | finds the file of a process that holds its Go runtime |
//! | `proof` | holds the layout of that runtime to the process's memory |
//! | `binaries` | plans the probes of each binary once, and names its sites |
//! | `numbers`, `goroutine_totals` | read the runtime's own numbers and counts from a process's memory |

pub mod binaries;
pub mod find;
pub mod goroutine_totals;
pub mod numbers;
mod proof;
pub mod rules;
pub mod target;

pub use binaries::{Binaries, ProbeSet, Refusal, Watchable};
pub use find::Found;
pub use goroutine_totals::GoroutineTotals;
pub use numbers::{LocalQueues, Numbers};
pub use rules::{Pattern, Patterns, Rules, User};
pub use target::Target;
