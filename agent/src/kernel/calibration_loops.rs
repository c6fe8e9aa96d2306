//! Loops of the agent's own that calibration probes.
#![allow(unsafe_code, reason = "registers are set as Go sets them, which no Rust does")]

use std::arch::global_asm;

use parkranger_common::probe::Event;

/// The code before the probed instruction: the registers that C has kept, the address to read goroutines from where Go
/// has arguments and the current goroutine, and the beginning of a round.
#[cfg(target_arch = "x86_64")]
macro_rules! before {
    () => {
        "push rbx
         push r14
         mov rax, rsi
         mov rbx, rsi
         mov rcx, rsi
         mov r14, rsi
         2:"
    };
}
/// The probed instruction, and the rest.
#[cfg(target_arch = "x86_64")]
macro_rules! from_there {
    () => {
        "push rbp
         pop rbp
         dec rdi
         jnz 2b
         pop r14
         pop rbx
         ret"
    };
}
#[cfg(target_arch = "aarch64")]
macro_rules! before {
    () => {
        "stp x28, x30, [sp, #-16]!
         mov x9, x0
         mov x28, x1
         mov x0, x1
         mov x2, x1
         2:
         subs x9, x9, #1"
    };
}
#[cfg(target_arch = "aarch64")]
macro_rules! from_there {
    () => {
        "b.ls 3f
         b 2b
         3:
         ldp x28, x30, [sp], #16
         ret"
    };
}
/// A loop that takes the number of rounds and the address of what stands for a goroutine.
macro_rules! calibration_loop {
    ($name:literal) => {
        global_asm!(
            concat!(".globl parkranger_loop_", $name),
            concat!(".globl parkranger_probed_", $name),
            concat!("parkranger_loop_", $name, ":"),
            before!(),
            concat!("parkranger_probed_", $name, ":"),
            from_there!(),
        );
    };
}
calibration_loop!("birth");
calibration_loop!("park");
calibration_loop!("exit");

// SAFETY: names and signatures are those of the loops above, which keep the registers that C has them keep.
unsafe extern "C" {
    safe fn parkranger_loop_birth(rounds: u64, goroutine: &[u64; 8]);
    safe fn parkranger_loop_park(rounds: u64, goroutine: &[u64; 8]);
    safe fn parkranger_loop_exit(rounds: u64, goroutine: &[u64; 8]);
    static parkranger_probed_birth: u8;
    static parkranger_probed_park: u8;
    static parkranger_probed_exit: u8;
}

/// A loop: how many rounds, and what stands for a goroutine.
pub(super) type Loop = extern "C" fn(u64, &[u64; 8]);
/// The loop of each event.
pub(super) const LOOPS: [(Event, Loop); 3] =
    [(Event::Birth, parkranger_loop_birth), (Event::Park, parkranger_loop_park), (Event::Exit, parkranger_loop_exit)];

/// The first bytes of code from an instruction on: a breakpoint is seen in them.
pub(super) type Code = [u8; 4];

fn instruction(event: Event) -> *const u8 {
    match event {
        Event::Birth => &raw const parkranger_probed_birth,
        Event::Park | Event::Run => &raw const parkranger_probed_park,
        Event::Exit => &raw const parkranger_probed_exit,
    }
}

/// Address of the probed instruction of an event's loop, in the agent's memory.
pub(super) fn probed(event: Event) -> u64 {
    instruction(event).addr() as u64
}

/// The code there as it is now.
pub(super) fn code(event: Event) -> Code {
    // SAFETY: the loop goes on for longer than that, and is always mapped to be read; it may change at any time, which is
    // what a volatile read is for.
    unsafe { instruction(event).cast::<Code>().read_volatile() }
}
