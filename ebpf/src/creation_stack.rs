//! The stack of the goroutine that made another one, taken once per site and CPU.

use aya_ebpf::helpers::bpf_probe_read_user;
use parkranger_common::{
    counts::SiteKey,
    loss::ProcessLoss,
    probe::ProbeWord,
    record::{Header, MAX_STACK, SiteSeen, Tag, Tagged},
};

use crate::{RING_FLAGS, maps::STREAM_RECORDS, scheduler::lose};

/// Sends the creation stack of a site, and says if that worked: where it did not, the next birth has another try. `creator`
/// is the g that made the goroutine, `current` the one that runs. The creator waits on its own stack while `newproc1` runs on g0, so its frame pointers hang on `callergp.sched.bp`. A
/// creator that is g0 itself (`time.AfterFunc`) has no stack to show.
#[inline(never)]
pub fn send(creator: u64, current: u64, key: &SiteKey, word: ProbeWord) -> bool {
    let ([low, high], frame) = if creator == current {
        ([0, 0], 0)
    } else {
        // SAFETY: reads user memory through the kernel's checked copy.
        let (bounds, frame) = unsafe {
            (
                bpf_probe_read_user(creator as *const [u64; 2]),
                bpf_probe_read_user((creator + word.sched_bp_offset()) as *const u64),
            )
        };
        let (Ok(bounds), Ok(frame)) = (bounds, frame) else { return false };
        (bounds, frame)
    };
    let Some(mut entry) = STREAM_RECORDS.reserve::<Tagged<SiteSeen>>(0) else {
        lose(key.process, ProcessLoss::StackDropped, None);
        return false;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: the reservation is as large as a record; every field is written before it is submitted.
    unsafe {
        (*record).header = Header::new(Tag::SiteSeen);
        (*record).body.site = *key;
        (*record).body.stack = [0; MAX_STACK];
        (*record).body.depth = walk(&mut (*record).body.stack, low, high, frame);
    }
    entry.submit(RING_FLAGS);
    true
}

/// Follows frame pointers upwards inside the stack. A frame is `[saved frame pointer, return address]`.
#[inline(always)]
unsafe fn walk(stack: &mut [u64; MAX_STACK], low: u64, high: u64, mut frame: u64) -> u64 {
    let mut depth = 0;
    for slot in stack.iter_mut() {
        if frame < low || frame >= high {
            break;
        }
        // SAFETY: reads user memory through the kernel's checked copy.
        let Ok([next, return_address]) = (unsafe { bpf_probe_read_user(frame as *const [u64; 2]) }) else { break };
        *slot = return_address;
        depth += 1;
        if next <= frame {
            break;
        }
        frame = next;
    }
    depth
}
