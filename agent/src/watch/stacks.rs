//! Memory of the stacks of a process's goroutines, by site: every census of a window sees it.

use std::collections::BTreeMap;

use crate::{census::Census, ledger::Site};

/// Stack memory at the last census, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StackBytes {
    /// All goroutines.
    pub total: u64,
    sites: BTreeMap<Site, u64>,
}

impl StackBytes {
    /// Those of a census.
    pub(super) fn of(census: &Census) -> Self {
        let mut stacks = Self::default();
        for goroutine in &census.goroutines {
            let site = stacks.sites.entry(census.origin(goroutine).into()).or_default();
            *site = site.saturating_add(goroutine.stack_bytes);
            stacks.total = stacks.total.saturating_add(goroutine.stack_bytes);
        }
        stacks
    }

    /// Those of one site.
    #[must_use]
    pub fn of_site(&self, site: Site) -> u64 {
        self.sites.get(&site).copied().unwrap_or_default()
    }
}
