//! The few registers of a probed goroutine that Go's calling convention gives a meaning (ABIInternal, Go 1.17).

use aya_ebpf::programs::ProbeContext;

/// First integer argument.
#[inline(always)]
pub fn argument_1(ctx: &ProbeContext) -> u64 {
    arch::register(ctx, arch::ARGUMENTS.0)
}

/// Second integer argument.
#[inline(always)]
pub fn argument_2(ctx: &ProbeContext) -> u64 {
    arch::register(ctx, arch::ARGUMENTS.1)
}

/// Third integer argument.
#[inline(always)]
pub fn argument_3(ctx: &ProbeContext) -> u64 {
    arch::register(ctx, arch::ARGUMENTS.2)
}

/// The g that runs.
#[inline(always)]
pub fn current_g(ctx: &ProbeContext) -> u64 {
    arch::register(ctx, arch::CURRENT_G)
}

/// The address of the probed instruction.
#[inline(always)]
pub fn instruction(ctx: &ProbeContext) -> u64 {
    arch::instruction(ctx)
}

/// True where the "lower or same" branch of the stack check is about to be taken, that is: the stack will grow and the
/// function start again.
#[inline(always)]
pub fn branch_taken(ctx: &ProbeContext) -> bool {
    arch::branch_taken(ctx)
}

#[cfg(bpf_target_arch = "x86_64")]
mod arch {
    use aya_ebpf::programs::ProbeContext;

    #[derive(Clone, Copy)]
    pub enum Register {
        Rax,
        Rbx,
        Rcx,
        R14,
    }
    pub const ARGUMENTS: (Register, Register, Register) = (Register::Rax, Register::Rbx, Register::Rcx);
    pub const CURRENT_G: Register = Register::R14;

    #[inline(always)]
    pub fn register(ctx: &ProbeContext, register: Register) -> u64 {
        // SAFETY: the kernel hands every uprobe program a valid `pt_regs`; the verifier checks the access.
        let regs = unsafe { &*ctx.regs };
        match register {
            Register::Rax => regs.rax,
            Register::Rbx => regs.rbx,
            Register::Rcx => regs.rcx,
            Register::R14 => regs.r14,
        }
    }

    #[inline(always)]
    pub fn instruction(ctx: &ProbeContext) -> u64 {
        // SAFETY: as above.
        unsafe { (*ctx.regs).rip }
    }

    /// `jbe` is taken iff CF or ZF is set.
    #[inline(always)]
    pub fn branch_taken(ctx: &ProbeContext) -> bool {
        const CARRY: u64 = 1 << 0;
        const ZERO: u64 = 1 << 6;
        // SAFETY: as above.
        let flags = unsafe { (*ctx.regs).eflags };
        flags & (CARRY | ZERO) != 0
    }
}

#[cfg(bpf_target_arch = "aarch64")]
mod arch {
    use aya_ebpf::programs::ProbeContext;

    pub const ARGUMENTS: (usize, usize, usize) = (0, 1, 2);
    pub const CURRENT_G: usize = 28;

    #[inline(always)]
    pub fn register(ctx: &ProbeContext, register: usize) -> u64 {
        // SAFETY: the kernel hands every uprobe program a valid `user_pt_regs`; the verifier checks the access.
        unsafe { (*ctx.regs).regs[register] }
    }

    #[inline(always)]
    pub fn instruction(ctx: &ProbeContext) -> u64 {
        // SAFETY: as above.
        unsafe { (*ctx.regs).pc }
    }

    /// `b.ls` is taken iff C is clear or Z is set.
    #[inline(always)]
    pub fn branch_taken(ctx: &ProbeContext) -> bool {
        const CARRY: u64 = 1 << 29;
        const ZERO: u64 = 1 << 30;
        // SAFETY: as above.
        let state = unsafe { (*ctx.regs).pstate };
        state & CARRY == 0 || state & ZERO != 0
    }
}
