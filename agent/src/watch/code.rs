//! The code of live processes at probed instructions: whether the kernel's breakpoint is there.
//!
//! Uprobes are in a file. A process that has its code elsewhere (in huge pages, copied there before its runtime began), or
//! has written over it, hits none of them, and its counts would stay 0 as if nothing happened. So each window looks at the
//! probed instructions, too, and a process without breakpoints is watched by census alone, with that said as a loss.

use std::{fs::File, os::unix::fs::FileExt as _, time::Duration};

use parkranger_common::{counts::ProcessId, probe::Event};
use tracing::{info, warn};

use super::{
    WatchError, Watchable,
    shared::{Host, Shared, Watched},
};
use crate::{
    address::{FileOffset, RuntimeAddr},
    host::{Identity, Memory, MemoryError, Proc, ProcessMemory, patience},
    kernel::{
        Attach, Count,
        breakpoint::{self, is_breakpoint},
    },
    ledger::{Counted, Recording},
    printable,
};

/// Time that a process may keep its memory from being read: it can for ever.
const LIMIT: Duration = Duration::from_millis(500);

/// An instruction in a file and in a process that has it mapped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Instruction {
    pub(super) offset: FileOffset,
    pub(super) address: RuntimeAddr,
}

/// True where the process has the kernel's breakpoint in place of what the file has there.
///
/// # Errors
///
/// A process that is gone or may not be read. Where it has no memory at that address it has no breakpoint either.
pub(super) fn has_breakpoint(memory: &impl Memory, file: &File, instruction: Instruction) -> Result<bool, MemoryError> {
    let (mut live, mut original) = (breakpoint::Code::default(), breakpoint::Code::default());
    match memory.read(instruction.address, &mut live) {
        Ok(()) => {}
        Err(MemoryError::Unmapped { .. }) => return Ok(false),
        Err(error) => return Err(error),
    }
    let read = file.read_exact_at(&mut original, instruction.offset.0);
    Ok(read.is_ok() && is_breakpoint(live) && !is_breakpoint(original))
}

/// A process whose code is looked at.
#[derive(Clone, Copy)]
pub(super) struct Reader {
    pub(super) identity: Identity,
    /// An address that is always mapped in it.
    pub(super) witness: RuntimeAddr,
    pub(super) instruction: Instruction,
}

/// Looks for the breakpoint in each of these processes. `None` where one does not answer or cannot be read.
pub(super) fn breakpoints(proc: &Proc, file: &File, readers: &[Reader]) -> Vec<Option<bool>> {
    let ask = |reader: &Reader| {
        let (proc, file) = (proc.clone(), file.try_clone().ok()?);
        let Reader { identity, witness, instruction } = *reader;
        let read = move || {
            let memory = ProcessMemory::open(&proc, identity, witness);
            memory.and_then(|memory| has_breakpoint(&memory, &file, instruction)).ok()
        };
        patience::begin("code", read).ok()
    };
    let answers: Vec<_> = readers.iter().map(ask).collect();
    answers.into_iter().map(|answer| answer?.within(LIMIT).flatten()).collect()
}

/// State of the breakpoints in a process's code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Code {
    /// They are there, as far as was looked.
    #[default]
    Probed,
    /// Some were missing at the last look: probes may have come and gone meanwhile.
    Doubted,
    /// Some were missing at two looks in a row.
    Unprobed,
}

/// The instructions of a process that must have a breakpoint now: of events that are all counted.
pub(super) fn probed(process: &Watched, binary: &Watchable, recording: Recording) -> Vec<Instruction> {
    let is_placed = |event| match event {
        Event::Birth | Event::Exit => recording.lives == Counted::All,
        Event::Park => recording.parks == Counted::All,
        Event::Run => false,
    };
    let placed = binary.plan.points.iter().filter(|point| is_placed(point.event));
    placed.map(|point| Instruction { offset: point.offset, address: process.bias.to_runtime(point.address) }).collect()
}

impl<K: Attach + Count, H: Host> Shared<K, H> {
    /// Takes in how many breakpoints a look at a process missed. True where what is recorded of it changes, or a second look
    /// is to decide that: then nothing else of this look is to be used.
    pub(super) fn heed_breakpoints(&mut self, id: ProcessId, missing: u64) -> Result<bool, WatchError> {
        let Some(process) = self.processes.get_mut(&id) else { return Ok(false) };
        let (pid, exe) = (id.tgid(), printable::path(&process.exe));
        let recording = match (process.code, missing) {
            (Code::Probed, 0) | (Code::Unprobed, 1..) => return Ok(false),
            (Code::Doubted, 0) => {
                process.code = Code::Probed;
                return Ok(false);
            }
            (Code::Probed, _) => {
                process.code = Code::Doubted;
                return Ok(true);
            }
            (Code::Doubted, _) => {
                warn!(
                    "process {pid} ({exe}): {missing} of its probes have no breakpoint in its memory, for its code is not that of \
                     its file any more: it is watched by census alone"
                );
                process.code = Code::Unprobed;
                process.breakpoints_missing += missing;
                Recording::NOTHING
            }
            (Code::Unprobed, 0) => {
                let Some(probes) = self.probes.get(&process.file) else { return Ok(false) };
                // Nothing was looked for.
                if probes.recording().lives != Counted::All {
                    return Ok(false);
                }
                info!("process {pid} ({exe}): its probes have breakpoints in its memory again");
                process.code = Code::Probed;
                probes.recording()
            }
        };
        let counters = self.kernel.counters()?;
        self.ledger.record(&[id], recording, &counters, self.host.now());
        self.ledger.forget_baseline(id);
        Ok(true)
    }
}
