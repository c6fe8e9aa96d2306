//! Offsets of the goids that a processor will give next: `m.p`, `p.goidcache` (`runtime/runtime2.go`).
//!
//! The fields stand before everything that patch releases and experiments have moved. The numbers prove themselves:
//! the stock of a processor is at most sixteen goids, and those that it gives turn up in the census.

use super::layouts::Row;
use crate::binary::GoVersion;

/// Byte offsets that lead from a thread to its processor's stock of goids. `p.goidcacheend` is behind `p.goidcache`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GoidStock {
    /// `m.p`.
    pub(crate) m_p: u32,
    /// `p.goidcache`.
    pub(crate) p_goidcache: u32,
}

impl GoidStock {
    /// The offsets of a Go version; of the newest for newer ones.
    pub(crate) fn of(version: &GoVersion) -> Self {
        let [m_p, p_goidcache] = Row::nearest(version).goid_stock;
        Self { m_p, p_goidcache }
    }
}

/// `_GoidCacheBatch`: how many goids a processor takes at a time.
pub(crate) const GOID_BATCH: u64 = 16;
