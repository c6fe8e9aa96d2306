//! `--pid` and the rules: which processes a command is about.

use std::sync::Arc;

use clap::Args;

use super::{exit::Failure, rules::RuleOptions};
use crate::{go_binary::GoBinaries, host::Proc, kernel::Method, program::Target, symbols::SymbolSource};

/// Which processes; every Go process of the host where nothing is given.
#[derive(Clone, Debug, Args)]
pub(super) struct TargetOptions {
    /// This process; may be given more than once.
    #[arg(short, long, value_name = "PID", conflicts_with = "RuleOptions", value_parser = clap::value_parser!(u32).range(1..))]
    pid: Vec<u32>,
    #[command(flatten)]
    rules: RuleOptions,
    /// Where names of functions and lines come from.
    #[arg(long, value_enum, default_value_t, value_name = "SOURCE")]
    symbols: Symbols,
}

/// One process: its pid, or the name of its executable.
#[derive(Clone, Debug)]
pub(super) enum OneTarget {
    /// Its pid.
    Pid(u32),
    /// Its executable's file name, or its command name.
    Name(String),
}

impl std::str::FromStr for OneTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<u32>() {
            Ok(0) => Err("no process has the pid 0".to_owned()),
            Ok(pid) => Ok(Self::Pid(pid)),
            Err(_) if text.is_empty() => Err("a pid or a name is needed".to_owned()),
            Err(_) => Ok(Self::Name(text.to_owned())),
        }
    }
}

impl OneTarget {
    /// Its pid.
    pub(super) fn pid(&self, proc: &Proc) -> Result<u32, Failure> {
        let name = match self {
            Self::Pid(pid) => return Ok(*pid),
            Self::Name(name) => name,
        };
        let own = std::process::id();
        let is_called = |pid: &u32| {
            let path = proc.executable_path(*pid).ok();
            *pid != own && path.is_some_and(|path| path.file_name().is_some_and(|file| file == name.as_str()))
        };
        let pids: Vec<u32> = proc.pids()?.into_iter().filter(is_called).collect();
        match pids.as_slice() {
            [pid] => Ok(*pid),
            [] => Err(Failure::NothingToWatch(format!("no process runs an executable called {name}"))),
            several => Err(Failure::Usage(format!("{name} is run by several processes, say which: {several:?}"))),
        }
    }
}

/// `--attach`, for commands that load the eBPF programs.
#[derive(Clone, Debug, Args)]
pub(super) struct AttachOptions {
    /// How probes are attached; default is the best way this kernel has.
    #[arg(long = "attach", value_enum, value_name = "METHOD")]
    pub(super) method: Option<Method>,
}

/// `--symbols`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Symbols {
    /// gopclntab, and DWARF for what it does not know: C code.
    #[default]
    Auto,
    /// DWARF only.
    Dwarf,
    /// The runtime's own table, which every Go binary has.
    Gopclntab,
}

impl TargetOptions {
    pub(super) fn target(&self) -> Target {
        if self.pid.is_empty() {
            return Target::Host(self.rules.rules());
        }
        let mut pids = self.pid.clone();
        pids.sort_unstable();
        pids.dedup();
        Target::Pids(pids)
    }

    pub(super) fn go_binaries(&self) -> Arc<GoBinaries> {
        self.symbols.go_binaries()
    }
}

impl Symbols {
    /// Understands binaries, with names from there.
    pub(super) fn go_binaries(self) -> Arc<GoBinaries> {
        Arc::new(GoBinaries::new(match self {
            Self::Auto => SymbolSource::Auto,
            Self::Dwarf => SymbolSource::Dwarf,
            Self::Gopclntab => SymbolSource::Gopclntab,
        }))
    }
}
