//! Births and exits told one by one, for the one process that has a window.

use aya_ebpf::{
    helpers::{bpf_ktime_get_ns, bpf_probe_read_user},
    programs::ProbeContext,
};
use parkranger_common::{
    counts::{ProcessId, SiteKey},
    window::{Life, LifeKind, Window},
};

use crate::{
    RING_FLAGS,
    maps::{EVENTS, WINDOW},
    registers,
};

/// A window, or what comes after it.
#[derive(Clone, Copy)]
pub struct Open {
    window: &'static Window,
    inside: bool,
}

/// The window of `process`, if it has one now. To be asked once per event: counting and telling must agree.
#[inline(always)]
pub fn of(process: ProcessId) -> Option<Open> {
    let window = WINDOW.get(0)?;
    // SAFETY: both words are in the map's only value, which is always there; they are written by the agent at any time.
    let inside = unsafe { core::ptr::read_volatile(&raw const window.process) } == process;
    // SAFETY: as above.
    if inside || unsafe { core::ptr::read_volatile(&raw const window.tail) } == process {
        Some(Open { window, inside })
    } else {
        None
    }
}

/// Whether events are counted as of the window.
#[inline(always)]
pub fn is_inside(open: Option<Open>) -> bool {
    matches!(open, Some(Open { inside: true, .. }))
}

/// Tells of a birth, with the goids its processor has in stock.
#[inline(never)]
pub fn tell_birth(ctx: &ProbeContext, site: &SiteKey, open: Open) {
    let (p, [goid, goid_end]) = stock(ctx, open.window).unwrap_or_default();
    let kind = if open.inside { LifeKind::Birth } else { LifeKind::BirthAfter };
    tell(kind, site, goid, goid_end, p);
}

/// Tells of an exit in a window.
#[inline(never)]
pub fn tell_exit(g: u64, site: &SiteKey, open: Open) {
    if open.inside {
        // SAFETY: reads user memory through the kernel's checked copy.
        let goid = unsafe { bpf_probe_read_user((g + open.window.goid) as *const u64) };
        tell(LifeKind::Exit, site, goid.unwrap_or_default(), 0, goid.is_ok() as u64);
    }
}

/// The creator's processor, and its stock: `newproc1` runs on g0 of the creator's thread, and takes the next goid there.
#[inline(always)]
fn stock(ctx: &ProbeContext, window: &Window) -> Option<(u64, [u64; 2])> {
    let creator = registers::argument_2(ctx);
    // SAFETY: reads user memory through the kernel's checked copy, here and below.
    let m = unsafe { bpf_probe_read_user((creator + window.m) as *const u64) }.ok()?;
    let p = unsafe { bpf_probe_read_user((m + window.p) as *const u64) }.ok()?;
    let stock = unsafe { bpf_probe_read_user((p + window.goidcache) as *const [u64; 2]) }.ok()?;
    Some((p, stock))
}

/// What finds no room is missed: the agent holds the records to the counters.
#[inline(always)]
fn tell(kind: LifeKind, site: &SiteKey, goid: u64, goid_end: u64, p: u64) {
    if let Some(mut entry) = EVENTS.reserve::<Life>(0) {
        // SAFETY: the helper has no preconditions.
        let time_ns = unsafe { bpf_ktime_get_ns() };
        entry.write(Life { kind: kind as u64, site: *site, time_ns, goid, goid_end, p });
        entry.submit(RING_FLAGS);
    }
}
