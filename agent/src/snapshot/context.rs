//! Facts about a process beside its counts: the container, pod or unit that it belongs to, and its runtime's own numbers.

use std::collections::HashMap;

use parkranger_common::counts::ProcessId;

use crate::{host::Place, program::Numbers};

/// Of one process.
#[derive(Clone, Debug, Default)]
pub struct ProcessContext {
    /// Its container, pod, unit.
    pub place: Place,
    /// Numbers that its runtime keeps of itself.
    pub numbers: Numbers,
}

/// Of all processes of a snapshot.
pub type Contexts = HashMap<ProcessId, ProcessContext>;
