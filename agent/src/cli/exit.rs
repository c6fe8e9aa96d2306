//! Exit codes, and the one sentence on standard error that goes with each.

use std::{
    io::{self, Write as _},
    process::{ExitCode, Termination},
};

use crate::{
    census::CensusError, go_binary::GoBinaryError, host::HostError, printable, program::binaries::Refusal,
    serve::ServeError, watch::WatchError,
};

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// Something failed.
    Failure,
    /// Nothing here can be watched.
    NothingToWatch,
    /// It was asked for something that makes no sense here.
    Usage,
    /// Leaks were found.
    Found,
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Done => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            // clap ends with 2 itself, too.
            Self::NothingToWatch => 3,
            Self::Found => 4,
        })
    }
}

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Watch(#[from] WatchError),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("process {pid}: {why}")]
    Census { pid: u32, why: CensusError },
    #[error("{what}: {why}")]
    Saved { what: String, why: String },
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error("{0}")]
    Kernel(String),
    #[error("{0}")]
    NothingToWatch(String),
    #[error("{0}")]
    Usage(String),
}

/// Says why, and with which code.
pub(super) fn report(done: Result<Exit, Failure>) -> Exit {
    let failure = match done {
        Ok(exit) => return exit,
        Err(failure) => failure,
    };
    if let Failure::Output(error) = &failure
        && error.kind() == io::ErrorKind::BrokenPipe
    {
        // Whoever read has seen enough.
        return Exit::Done;
    }
    let _ = writeln!(printable::Lines::new(io::stderr()), "parkranger: {failure}");
    let failure = match failure {
        Failure::Serve(ServeError::Watch(error)) => Failure::Watch(error),
        other => other,
    };
    match failure {
        Failure::NothingToWatch(_) | Failure::Watch(WatchError::Nothing(_)) => Exit::NothingToWatch,
        // The probes were refused by the kernel, not by what the binary is.
        Failure::Watch(WatchError::Refused { why: Refusal::Attach(_), .. }) => Exit::Failure,
        // What the process is, not what went wrong.
        Failure::Census { why: CensusError::GoBinary(why), .. } if why.is_not_go() => Exit::NothingToWatch,
        Failure::Census {
            why: CensusError::GoBinary(GoBinaryError::Layout(_)) | CensusError::NotFound { .. }, ..
        }
        | Failure::Host(HostError::NoExecutable { .. }) => Exit::NothingToWatch,
        Failure::Watch(WatchError::Refused { .. } | WatchError::Host(HostError::NoExecutable { .. })) => {
            Exit::NothingToWatch
        }
        Failure::Usage(_) => Exit::Usage,
        _ => Exit::Failure,
    }
}
