//! Checks that the memory of a live process agrees with the layout of its binary: done before a number of it is shown.
//!
//! The list of all goroutines must be where the binary's code says, and its entries must be goroutine structs by the
//! layout: each names itself, has a stack and a known status, and the first comes from functions of the binary
//! ([`crate::census::Runtime::find`]). One process proves it for all of its binary.

use std::{sync::Arc, thread, time::Duration};

use super::binaries::Watchable;
use crate::{
    address::Bias,
    census::{CensusError, Runtime},
    host::{Identity, Proc, ProcessMemory, patience},
};

/// Longest wait for a read of a process's memory, which a process can hold back for ever.
const LIMIT: Duration = Duration::from_millis(500);
/// Structs change while they are read; what is wrong three times in a row is wrong.
const TRIES: u32 = 3;
const BETWEEN_TRIES: Duration = Duration::from_millis(10);

/// The verdict of a process's memory on a layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// It agrees.
    Proved,
    /// It cannot say: the runtime is only starting, the process is ending, or its memory cannot be read.
    Open(String),
    /// It does not agree.
    Contradicted(String),
}

/// Asks the memory of one process.
pub(super) fn prove(proc: &Proc, identity: Identity, bias: Bias, watchable: &Watchable) -> Proof {
    let (proc, binary, layout) = (proc.clone(), Arc::clone(&watchable.go.binary), watchable.go.layout.clone());
    let read = move || {
        let witness = bias.to_runtime(binary.function_table_address());
        let mut proof = Proof::Open("it was not tried".to_owned());
        for _ in 0..TRIES {
            proof = match ProcessMemory::open(&proc, identity, witness) {
                Ok(memory) => judge(Runtime::find(&memory, Arc::clone(&binary), bias, layout.clone()).map(drop)),
                Err(error) => Proof::Open(error.to_string()),
            };
            if proof == Proof::Proved {
                break;
            }
            thread::sleep(BETWEEN_TRIES);
        }
        proof
    };
    match patience::begin("proof", read) {
        Ok(answer) => answer.within(LIMIT).unwrap_or_else(|| Proof::Open("its memory does not answer".to_owned())),
        Err(error) => Proof::Open(format!("no thread to read its memory: {error}")),
    }
}

fn judge(found: Result<(), CensusError>) -> Proof {
    match found {
        Ok(()) => Proof::Proved,
        // Obfuscated programs hide where the list is: that says nothing of the layout.
        Err(error @ CensusError::NotFound { candidates: 0, .. }) => Proof::Open(error.to_string()),
        Err(error @ CensusError::NotFound { .. }) => Proof::Contradicted(error.to_string()),
        Err(error) => Proof::Open(error.to_string()),
    }
}
