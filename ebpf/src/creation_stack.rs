//! The stack of the goroutine that made another one, taken once per site.

use aya_ebpf::{
    helpers::{bpf_ktime_get_ns, bpf_probe_read_user},
    programs::ProbeContext,
};
use parkranger_common::{
    counts::SiteKey,
    event::{Kind, MAX_STACK, Record},
    loss::ProcessLoss,
    probe::ProbeWord,
};

use crate::{RING_FLAGS, maps::EVENTS, registers, scheduler::lose};

/// Sends the first sight of a site. The creator waits on its own stack while `newproc1` runs on g0, so its frame
/// pointers hang on `callergp.sched.bp`. A creator that is g0 itself (`time.AfterFunc`) has no stack to show.
#[inline(always)]
pub fn send(ctx: &ProbeContext, key: &SiteKey, word: ProbeWord) {
    let Some(mut entry) = EVENTS.reserve::<Record>(0) else {
        lose(key.process, ProcessLoss::StackDropped, None);
        return;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: the reservation is as large as a record; every field is written before it is submitted.
    unsafe {
        (*record).kind = Kind::SiteSeen as u32;
        (*record).site = *key;
        (*record).time_ns = bpf_ktime_get_ns();
        (*record).word = word.0;
        (*record).stack = [0; MAX_STACK];
        let creator = registers::argument_2(ctx);
        let mut depth = 0;
        if creator != registers::current_g(ctx) {
            if let (Ok([low, high]), Ok(frame)) = (
                bpf_probe_read_user(creator as *const [u64; 2]),
                bpf_probe_read_user((creator + word.sched_bp_offset()) as *const u64),
            ) {
                depth = walk(&mut (*record).stack, low, high, frame);
            }
        }
        (*record).depth = depth;
    }
    entry.submit(RING_FLAGS);
}

/// Follows frame pointers upwards inside the stack. A frame is `[saved frame pointer, return address]`.
#[inline(always)]
unsafe fn walk(stack: &mut [u64; MAX_STACK], low: u64, high: u64, mut frame: u64) -> u32 {
    let mut depth = 0u32;
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
