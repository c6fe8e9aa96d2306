//! The parts of the watch against a made-up host and kernel: no root, no Go.

mod adoption;
mod audits;
mod choosing;
mod ending;
mod fake;
mod fidelity;
mod totals;
