//! The variables of a process's environment that steer the Go runtime.
//!
//! As they were at the process's start: what it changed later is not seen, and the runtime reads them at its start too.
//! The text is the target's own, so no more than [`MAX_ENVIRONMENT_BYTES`] of it are read and each value is cut.

use std::collections::BTreeMap;

use super::{HostError, Proc};
use crate::printable;

const MAX_ENVIRONMENT_BYTES: u64 = 1 << 20;
const MAX_VALUE_CHARACTERS: usize = 512;

/// The variables kept.
const NAMES: [&str; 5] = ["GODEBUG", "GOGC", "GOMAXPROCS", "GOMEMLIMIT", "GOTRACEBACK"];

/// The settings the runtime got from its environment at its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    variables: BTreeMap<&'static str, String>,
}

impl Environment {
    /// The value of a variable of the Go runtime; empty values count as unset, as they do for the runtime.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// Every variable kept, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.variables.iter().map(|(name, value)| (*name, value.as_str()))
    }

    /// Those of `NAME=value` strings with zeros between them that the runtime reads. The first of a name counts, as
    /// for the runtime (`gogetenv`).
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        let mut variables = BTreeMap::new();
        for variable in bytes.split(|&byte| byte == 0) {
            let Some(at) = variable.iter().position(|&byte| byte == b'=') else { continue };
            let (name, value) = variable.split_at(at);
            let known = NAMES.into_iter().find(|known| known.as_bytes() == name);
            if let Some(known) = known {
                let value = String::from_utf8_lossy(value.get(1..).unwrap_or_default());
                let shown = printable::name(&value).chars().take(MAX_VALUE_CHARACTERS).collect();
                variables.entry(known).or_insert(shown);
            }
        }
        variables.retain(|_, value: &mut String| !value.is_empty());
        Self { variables }
    }
}

impl Proc {
    /// The environment `pid` was started with.
    ///
    /// # Errors
    ///
    /// [`HostError::NoSuchProcess`], [`HostError::NotPermitted`], [`HostError::Unreadable`].
    pub fn environment(&self, pid: u32) -> Result<Environment, HostError> {
        Ok(Environment::parse(&self.read_limited(pid, "environ", MAX_ENVIRONMENT_BYTES)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_runtimes_variables_are_kept() {
        let environment =
            Environment::parse(b"PATH=/bin\0GOGC=off\0GOGC=100\0GODEBUG=\0XGOMAXPROCS=1\0GOTRACEBACK\0\0");
        assert_eq!(environment.iter().collect::<Vec<_>>(), [("GOGC", "off")]);
    }

    #[test]
    fn values_are_cut_and_made_harmless() {
        let mut bytes = b"GODEBUG=a\x1b[31m\xff".to_vec();
        bytes.extend([b'x'; 10_000]);
        let environment = Environment::parse(&bytes);
        let value = environment.get("GODEBUG").unwrap();
        assert_eq!(value.chars().count(), MAX_VALUE_CHARACTERS);
        assert!(!value.contains('\x1b'));
    }
}
