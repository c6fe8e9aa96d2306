//! Probes on their way out.

use std::thread::{self, JoinHandle};

use aya::programs::uprobe::UProbeLink;
use tracing::debug;

use super::vforked::in_vforked_child;

/// Probes that are nobody's but the holder's: they go when it is dropped, which takes some tens of milliseconds.
pub(super) struct Links(pub(super) Vec<UProbeLink>);

impl Drop for Links {
    fn drop(&mut self) {
        let links = std::mem::take(&mut self.0);
        if links.is_empty() {
            return;
        }
        if let Err(why) = in_vforked_child(|| drop(links)) {
            debug!("probes on their way out: {why}");
        }
    }
}

/// Probes on their way out. Dropping it waits until no process has them any more.
pub struct Removal(Option<JoinHandle<()>>);

impl Removal {
    pub(super) fn of(links: Links) -> Self {
        // Without a thread they go here, when the links are dropped.
        Self(thread::Builder::new().name("detach".to_owned()).spawn(move || drop(links)).ok())
    }

    /// True once no process has them any more.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.0.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Removal {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            // It does nothing that could panic.
            let _ = thread.join();
        }
    }
}
