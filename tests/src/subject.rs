//! A process as the agent's own library reads it, for tests and benchmarks that look past the command line.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use parkranger::address::Bias;
use parkranger::binary::Binary;
use parkranger::census::{CensusError, Runtime};
use parkranger::host::{FileSource, Identity, Memory, Proc, ProcessMemory};
use parkranger::runtime::Layout;

/// What must be known of a process before its goroutines can be read.
#[allow(missing_debug_implementations, reason = "a binary is no text")]
pub struct Subject {
    identity: Identity,
    binary: Arc<Binary>,
    bias: Bias,
    layout: Layout,
}

impl Subject {
    /// The process `pid`, which runs `program`.
    ///
    /// # Errors
    /// When the agent does not understand it, here and below.
    pub fn of(program: &Path, pid: u32) -> Result<Subject> {
        let proc = Proc::default();
        let (source, _) = FileSource::new(Arc::new(File::open(program)?))?;
        let binary = Arc::new(Binary::parse(Arc::new(source))?);
        let layout = Layout::of(&binary)?;
        let bias = proc.bias(pid, binary.program_headers_address().context("program headers")?)?;
        Ok(Subject { identity: proc.identity(pid)?, binary, bias, layout })
    }

    /// Its memory.
    pub fn memory(&self) -> Result<ProcessMemory> {
        let witness = self.bias.to_runtime(self.binary.function_table_address());
        Ok(ProcessMemory::open(&Proc::default(), self.identity, witness)?)
    }

    /// Its Go runtime, found in `memory`.
    pub fn runtime(&self, memory: &impl Memory) -> Result<Runtime, CensusError> {
        Runtime::find(memory, Arc::clone(&self.binary), self.bias, self.layout.clone())
    }
}
