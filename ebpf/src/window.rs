//! Births and exits told one by one, for the one process that is audited.

use aya_ebpf::{
    helpers::{bpf_ktime_get_ns, bpf_probe_read_user},
    programs::ProbeContext,
};
use parkranger_common::{
    counts::{ProcessId, SiteKey},
    record::{Birth, Exit, Header, Tag, Tagged},
    window::Window,
};

use crate::{
    RING_FLAGS,
    maps::{STREAM_RECORDS, WINDOW},
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

/// True where events are counted as of the window.
#[inline(always)]
pub fn is_inside(open: Option<Open>) -> bool {
    matches!(open, Some(Open { inside: true, .. }))
}

/// Tells of a birth, with the goids its processor has in stock.
#[inline(never)]
pub fn tell_birth(ctx: &ProbeContext, site: &SiteKey, open: Open) {
    let (p, [goidcache, goidcacheend]) = stock(ctx, open.window).unwrap_or_default();
    let tag = if open.inside { Tag::Birth } else { Tag::BirthAfter };
    // SAFETY: the helper has no preconditions.
    let time_ns = unsafe { bpf_ktime_get_ns() };
    tell(tag, Birth { site: *site, time_ns, p, goidcache, goidcacheend });
}

/// Tells of an exit in a window.
#[inline(never)]
pub fn tell_exit(g: u64, site: &SiteKey, open: Open) {
    if open.inside {
        // SAFETY: reads user memory through the kernel's checked copy.
        let goid = unsafe { bpf_probe_read_user((g + open.window.goid) as *const u64) };
        // SAFETY: the helper has no preconditions.
        let time_ns = unsafe { bpf_ktime_get_ns() };
        tell(Tag::Exit, Exit { site: *site, time_ns, goid: goid.unwrap_or_default() });
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

/// Writes a record. Without room it is missing: the agent holds the number of records to the counters.
#[inline(always)]
fn tell<B: 'static>(tag: Tag, body: B) {
    if let Some(mut entry) = STREAM_RECORDS.reserve::<Tagged<B>>(0) {
        entry.write(Tagged { header: Header::new(tag), body });
        entry.submit(RING_FLAGS);
    }
}
