//! parkranger's eBPF programs: three scheduler events of Go, the stories of some processes, and execve.
//!
//! Every program only reads registers and memory of the thread that hit it and adds to maps.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(internal_features)]

mod callers;
mod creation_stack;
mod maps;
mod processes;
mod registers;
mod scheduler;
mod story;
mod window;

use aya_ebpf::{
    EbpfContext as _,
    bindings::BPF_RB_NO_WAKEUP,
    helpers::bpf_get_attach_cookie,
    macros::{raw_tracepoint, uprobe},
    programs::{ProbeContext, RawTracePointContext},
};
use parkranger_common::{
    loss::HostLoss,
    probe::{Event, ProbeWord},
};

/// The agent drains the ring buffer on a timer: waking it would cost more than everything else together.
const RING_FLAGS: u64 = BPF_RB_NO_WAKEUP as u64;

#[uprobe(multi)]
pub fn scheduler_multi(ctx: ProbeContext) -> u32 {
    scheduler::with_word(&ctx, cookie(&ctx));
    0
}

#[uprobe]
pub fn scheduler_single(ctx: ProbeContext) -> u32 {
    scheduler::with_word(&ctx, cookie(&ctx));
    0
}

#[uprobe]
pub fn birth_plain(ctx: ProbeContext) -> u32 {
    scheduler::without_word(&ctx, Event::Birth);
    0
}

#[uprobe]
pub fn park_plain(ctx: ProbeContext) -> u32 {
    scheduler::without_word(&ctx, Event::Park);
    0
}

#[uprobe]
pub fn exit_plain(ctx: ProbeContext) -> u32 {
    scheduler::without_word(&ctx, Event::Exit);
    0
}

/// For kernels without cookies: its breakpoint alone is of use.
#[uprobe]
pub fn mark_plain(_ctx: ProbeContext) -> u32 {
    0
}

#[uprobe(multi)]
pub fn story_multi(ctx: ProbeContext) -> u32 {
    story::with_word(&ctx, cookie(&ctx));
    0
}

#[uprobe]
pub fn story_single(ctx: ProbeContext) -> u32 {
    story::with_word(&ctx, cookie(&ctx));
    0
}

#[uprobe(multi)]
pub fn callers_multi(ctx: ProbeContext) -> u32 {
    callers::with_word(&ctx, cookie(&ctx));
    0
}

#[uprobe]
pub fn callers_single(ctx: ProbeContext) -> u32 {
    callers::with_word(&ctx, cookie(&ctx));
    0
}

#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn process_exec(ctx: RawTracePointContext) -> i32 {
    processes::exec(&ctx);
    0
}

#[inline(always)]
fn cookie(ctx: &ProbeContext) -> ProbeWord {
    // SAFETY: the helper only reads the context the kernel gave us.
    ProbeWord(unsafe { bpf_get_attach_cookie(ctx.as_ptr()) })
}

/// Counts a loss that belongs to no process.
#[inline(always)]
fn host_loss(loss: HostLoss) {
    if let Some(value) = maps::HOST_LOSSES.get_ptr_mut(loss as u32) {
        scheduler::add_one(value);
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
