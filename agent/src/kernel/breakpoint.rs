//! The instruction that the kernel puts over a probed one.

/// As many bytes of code as the breakpoint takes.
pub type Code = [u8; BREAKPOINT.len()];

/// `int3` (`UPROBE_SWBP_INSN` of the kernel's arch/x86/include/asm/uprobes.h).
#[cfg(target_arch = "x86_64")]
const BREAKPOINT: [u8; 1] = [0xcc];
/// `brk #5` (`UPROBES_BRK_IMM` of the kernel's arch/arm64/include/asm/brk-imm.h).
#[cfg(target_arch = "aarch64")]
const BREAKPOINT: [u8; 4] = [0xa0, 0x00, 0x20, 0xd4];

/// True where the first instruction of `code` is a breakpoint.
#[must_use]
pub fn is_breakpoint(code: Code) -> bool {
    code == BREAKPOINT
}
