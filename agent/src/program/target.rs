//! Which processes are meant.

use std::{fmt::Write as _, path::Path};

use super::rules::Rules;
use crate::host::{HostError, Proc};

/// The user's choice.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// These, each of which must be watchable.
    Pids(Vec<u32>),
    /// Those of the host's Go processes, now and later, that the rules admit.
    Host(Rules),
}

impl Target {
    /// The processes named one by one.
    #[must_use]
    pub fn pids(&self) -> &[u32] {
        match self {
            Self::Pids(pids) => pids,
            Self::Host(_) => &[],
        }
    }

    /// True if a process is meant. The agent never watches itself.
    ///
    /// # Errors
    ///
    /// A [`HostError`] where what the rules ask of it cannot be read: it has ended.
    pub fn wants(&self, proc: &Proc, pid: u32, exe: &Path) -> Result<bool, HostError> {
        match self {
            Self::Pids(pids) => Ok(pids.contains(&pid)),
            Self::Host(_) if pid == std::process::id() => Ok(false),
            Self::Host(rules) => rules.admit(proc, pid, exe),
        }
    }

    /// True if a process that ended before anyone could look is meant, as far as its executable tells: where more is
    /// asked, it is not.
    #[must_use]
    pub fn wants_by_name(&self, exe: &Path) -> bool {
        match self {
            Self::Pids(_) => false,
            Self::Host(rules) => rules.admit_by_name(exe),
        }
    }

    /// "with pid …", "with --exe …", for a sentence.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Pids(pids) => format!("with pid {pids:?}"),
            Self::Host(rules) if *rules == Rules::default() => "on this host".to_owned(),
            Self::Host(rules) => {
                let mut text = "that fits".to_owned();
                for (flag, value) in rules.flags() {
                    let _ = write!(text, " --{flag} {value}");
                }
                text
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_leaves_itself_alone() {
        let all = Target::Host(Rules::default());
        let wants = |pid| all.wants(&Proc::default(), pid, Path::new("/x")).unwrap();
        assert!(!wants(std::process::id()) && wants(1));
        assert_eq!(all.describe(), "on this host");
    }

    #[test]
    fn rules_are_described_as_they_are_given() {
        let mut rules = Rules::default();
        rules.include.exe.push("api-*".parse().unwrap());
        rules.exclude.user.push("0".parse().unwrap());
        assert_eq!(Target::Host(rules).describe(), "that fits --exe api-* --exclude-user 0");
    }
}
