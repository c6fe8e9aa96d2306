//! `--max-sites` and `--max-processes`: how much the kernel's maps hold.

use std::str::FromStr;

use clap::Args;
use serde::Deserialize;

use crate::kernel::Sizes;

/// How much there may be of what is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Bounds {
    /// Most creation sites of all processes together; events of more are counted without their site, and that is said.
    /// [default: 4096 for each process that is named, at most 16384; fewer on machines with more than 100 CPUs]
    #[arg(long, value_name = "N")]
    max_sites: Option<Number>,
    /// Most processes at one time; those beyond are not watched, and that is said. [default: 8192]
    #[arg(long, value_name = "N")]
    max_processes: Option<Number>,
}

/// A number of entries.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(try_from = "u32")]
struct Number(u32);

impl TryFrom<u32> for Number {
    type Error = String;

    fn try_from(number: u32) -> Result<Self, String> {
        // The maps of a million sites take gigabytes on a large machine.
        const MOST: u32 = 1 << 20;
        if (1..=MOST).contains(&number) { Ok(Self(number)) } else { Err(format!("from 1 to {MOST}")) }
    }
}

impl FromStr for Number {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse::<u32>().map_err(|error| error.to_string())?.try_into()
    }
}

impl Bounds {
    /// As given here, else as given there.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            max_sites: self.max_sites.or(other.max_sites),
            max_processes: self.max_processes.or(other.max_processes),
        }
    }

    /// Sizes of the kernel's maps, with or without stories, for these processes alone, or with none named for a host.
    pub(super) fn sizes(self, stories: bool, pids: &[u32]) -> Sizes {
        let mut usual = if stories { Sizes::default().with_stories() } else { Sizes::default() };
        if !pids.is_empty() {
            usual = usual.for_processes(pids.len());
        }
        let sites = self.max_sites.map_or(usual.sites, |number| number.0);
        let processes = self.max_processes.map_or(usual.processes, |number| number.0);
        Sizes { sites, processes, ..usual }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_counts_and_nonsense_is_refused() {
        let bounds: Bounds = toml::from_str("max-sites = 7").unwrap();
        let sizes = bounds.or(Bounds { max_sites: Some(Number(9)), max_processes: Some(Number(3)) }).sizes(false, &[1]);
        assert_eq!((sizes.sites, sizes.processes), (7, 3));
        assert!(Bounds::default().sizes(false, &[1]).sites < Bounds::default().sizes(false, &[]).sites);
        assert!(toml::from_str::<Bounds>("max-sites = 0").is_err() && "0".parse::<Number>().is_err());
        assert!("4000000000".parse::<Number>().is_err());
    }
}
