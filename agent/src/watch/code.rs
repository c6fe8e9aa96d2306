//! The code of live processes at probed instructions: whether the kernel's breakpoint is there.

use std::{fs::File, os::unix::fs::FileExt as _, sync::mpsc, thread, time::Duration};

use crate::{
    address::{FileOffset, RuntimeAddr},
    host::{Identity, Memory, MemoryError, Proc, ProcessMemory},
    kernel::breakpoint::{Code, is_breakpoint},
};

/// How long a process may keep its memory from being read: it can for ever.
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
    let (mut live, mut original) = (Code::default(), Code::default());
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
        let (sender, answer) = mpsc::channel();
        let (proc, file) = (proc.clone(), file.try_clone().ok()?);
        let Reader { identity, witness, instruction } = *reader;
        let read = move || {
            let found = ProcessMemory::open(&proc, identity, witness)
                .and_then(|memory| has_breakpoint(&memory, &file, instruction));
            // Nobody may be listening any more.
            let _ = sender.send(found.ok());
        };
        // Not joined, by intent: see `worker`.
        thread::Builder::new().name("code".to_owned()).spawn(read).ok()?;
        Some(answer)
    };
    let answers: Vec<_> = readers.iter().map(ask).collect();
    answers.into_iter().map(|answer| answer?.recv_timeout(LIMIT).ok().flatten()).collect()
}
