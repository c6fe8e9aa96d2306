//! parkranger watches the scheduler of every Go process on a Linux host from outside.
//!
//! The modules follow the way of the data; a stage knows the stages above it, not below:
//!
//! ```text
//!  bytes of a binary ─▶ binary/    facts: Go version, functions, lines, DWARF, build info   (pure, hostile input)
//!                       runtime/   layouts and wait reasons per Go version
//!                       plan/      which instruction to probe, or why not                   (pure)
//!                       symbols/   pc ▶ function, file, line, inlined frames
//!  a host            ─▶ host/      processes: scan, identity, opening their binaries         (/proc)
//!                       understood what is known of a binary, worked out once for whoever asks
//!                       kernel/    load, attach, counters, ring buffer                       (the only user of aya)
//!                       census/    every goroutine, read from outside: states, stacks       (target memory)
//!                       ledger/    births, parks, exits, live, losses                        (pure state, no I/O)
//!                       governor/  measured cost ▶ fidelity                                  (pure state, no I/O)
//!                       watch/     keeps host, kernel and ledger in step ▶ one snapshot
//!                       history/   what was, over time: goroutines, sites                  (pure)
//!                       leaks/     evidence ▶ findings                                       (pure)
//!                       saved/     dumps and profiles read back                              (hostile input)
//!                       diff/      two dumps compared                                        (pure)
//!                       views/     one snapshot ▶ table, JSON
//!                       subject/   one process understood and read on request               (no probes)
//!                       export/    one census or snapshot ▶ dump, pprof, folded, metrics, … (no reading)
//!                       serve/     HTTP
//!                       cli/       arguments ▶ configuration; main.rs only wires
//! ```

pub mod address;
pub mod binary;
pub mod census;
pub mod cli;
pub mod diff;
pub mod export;
pub mod governor;
pub mod history;
pub mod host;
pub mod kernel;
pub mod leaks;
pub mod ledger;
pub mod plan;
pub mod runtime;
pub mod saved;
pub mod serve;
pub mod subject;
pub mod symbols;
pub mod understood;
pub mod views;
pub mod watch;
