//! What is known of a process beside its counts: where it belongs, and what its runtime says of itself.

use std::collections::HashMap;

use parkranger_common::counts::ProcessId;

use crate::{host::Place, program::Numbers};

/// Of one process.
#[derive(Clone, Debug, Default)]
pub struct ProcessContext {
    /// Its container, pod, unit.
    pub place: Place,
    /// What its runtime says of itself.
    pub numbers: Numbers,
}

/// Of all processes of a snapshot.
pub type Contexts = HashMap<ProcessId, ProcessContext>;
