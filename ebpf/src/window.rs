//! Births and exits told one by one, for the one process that is audited.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_probe_read_user, generated};
use parkranger_common::{
    counts::{ProcessId, SiteKey},
    record::{Birth, Exit, Header, Tag, Tagged},
    window::Window,
};

use crate::{RING_FLAGS, maps::STREAM_RECORDS};

/// The window, written by the agent at any time. Not a map of its own but the object's zeroed data, which programs have at a
/// fixed address: it is looked at with every event.
#[unsafe(no_mangle)]
static mut WINDOW: Window = Window { process: ProcessId(0), tail: ProcessId(0), goid: 0, m: 0, p: 0, goidcache: 0 };

/// Which events of a process are told.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Told {
    /// None.
    No = 0,
    /// Births and exits: it has a window.
    Inside = 1,
    /// Births, but not as of the window, which is over.
    After = 2,
}

/// Which events of `process` are told now. To be asked once per event: counting and telling must agree.
#[inline(always)]
pub fn of(process: ProcessId) -> Told {
    if word(0) == process.0 {
        Told::Inside
    } else if word(1) == process.0 {
        Told::After
    } else {
        Told::No
    }
}

/// A word of the window.
#[inline(always)]
fn word(index: usize) -> u64 {
    // SAFETY: the window is six words; whoever writes meanwhile writes whole ones.
    unsafe { (&raw const WINDOW).cast::<u64>().add(index).read_volatile() }
}

/// Tells of a birth, with the goids its processor has in stock. `told` is a [`Told`].
#[inline(never)]
pub fn tell_birth(creator: u64, site: &SiteKey, told: u64) {
    let (p, [goidcache, goidcacheend]) = stock(creator);
    let tag = if told == Told::Inside as u64 { Tag::Birth } else { Tag::BirthAfter };
    // SAFETY: the helper has no preconditions.
    let time_ns = unsafe { bpf_ktime_get_ns() };
    tell(tag, Birth { site: *site, time_ns, p, goidcache, goidcacheend });
}

/// Tells of an exit in a window.
#[inline(never)]
pub fn tell_exit(g: u64, site: &SiteKey) {
    // SAFETY: reads user memory through the kernel's checked copy.
    let goid = unsafe { bpf_probe_read_user((g + word(2)) as *const u64) };
    // SAFETY: the helper has no preconditions.
    let time_ns = unsafe { bpf_ktime_get_ns() };
    tell(Tag::Exit, Exit { site: *site, time_ns, goid: goid.unwrap_or_default() });
}

/// The creator's processor, and its stock; zeros where they cannot be read. `newproc1` runs on g0 of the creator's thread, and
/// takes the next goid there.
///
/// All of it is set before it is read into: kernels before 6.3 refuse a program that may load from its stack what no path
/// stored there, and the compiler loads first and chooses afterwards.
#[inline(always)]
fn stock(creator: u64) -> (u64, [u64; 2]) {
    let (mut m, mut p, mut goids) = ([0; 1], [0; 1], [0; 2]);
    let read = read_into(&mut m, creator + word(3))
        && read_into(&mut p, m[0] + word(4))
        && read_into(&mut goids, p[0] + word(5));
    if read { (p[0], goids) } else { (0, [0; 2]) }
}

/// Reads words of the target's memory. True where that was possible.
#[inline(always)]
fn read_into<const N: usize>(words: &mut [u64; N], address: u64) -> bool {
    // SAFETY: the kernel writes no more than the array has, and reads user memory through its checked copy.
    unsafe { generated::bpf_probe_read_user(words.as_mut_ptr().cast(), (8 * N) as u32, address as *const c_void) == 0 }
}

/// Writes a record. Without room it is missing: the agent holds the number of records to the counters.
#[inline(always)]
fn tell<B: 'static>(tag: Tag, body: B) {
    if let Some(mut entry) = STREAM_RECORDS.reserve::<Tagged<B>>(0) {
        entry.write(Tagged { header: Header::new(tag), body });
        entry.submit(RING_FLAGS);
    }
}
