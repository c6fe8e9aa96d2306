//! Go's prologues on x86-64 (`cmd/internal/obj/x86/obj6.go`, `stacksplit`), where R14 is the current g:
//!
//! ```text
//!  small frame            large frame                    huge frame
//!                                                        mov  %rsp,%r12
//!                                                        sub  $N,%r12
//!                         lea  -N(%rsp),%r12             jb   tail
//!  cmp  0x10(%r14),%rsp   cmp  0x10(%r14),%r12           cmp  0x10(%r14),%r12
//!  jbe  tail              jbe  tail                      jbe  tail
//!  push %rbp              (Go 1.19, 1.20: sub $N,%rsp)
//! ```
//!
//! The tail spills the argument registers, calls `runtime.morestack*`, reloads them and jumps to the entry. A function
//! without the check starts with its `push %rbp`.

use iced_x86::{
    Code, Decoder, DecoderError, DecoderOptions, FlowControl, Formatter, GasFormatter, Instruction,
    InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};

use super::{Body, Choice, Unusable};
use crate::address::VirtAddr;

/// The first five integer arguments, and the current g.
const ARGUMENTS: [Register; 6] =
    [Register::RAX, Register::RBX, Register::RCX, Register::RDI, Register::RSI, Register::R14];

/// `g.stackguard0`, behind `stack.lo` and `stack.hi` since ever.
const STACKGUARD0: u64 = 0x10;

/// How many instructions a tail may have on either side of its call: one per spilled register, and alignment.
const TAIL_INSTRUCTIONS: usize = 32;

/// The instruction to probe in `body`.
///
/// # Errors
///
/// Why there is none.
pub(super) fn choose(body: &Body) -> Result<Choice, Unusable> {
    let prologue = Prologue::decode(body)?;
    let tail_jump = prologue.tails.iter().try_fold(None, |_, tail| tail_jump(body, *tail).map(Some))?;
    only_the_tail_jumps_back(body, prologue.chosen.ip(), tail_jump, &prologue.tails)?;
    Ok(Choice {
        address: prologue.chosen.ip(),
        instruction: text(&prologue.chosen),
        skip_when_branch_taken: prologue.chosen.mnemonic() == Mnemonic::Jbe,
    })
}

/// Whether an instruction of `body` branches to `target`, calls included. Bytes that are no instruction count as "yes":
/// the caller asks to be sure that none does.
pub(super) fn branches_to(body: &Body, target: u64) -> bool {
    let mut code = Code64::new(body, body.entry);
    while !code.at_end() {
        match code.next() {
            Ok(instruction) if branch_target(&instruction) != Some(target) => {}
            Ok(_) | Err(_) => return true,
        }
    }
    false
}

/// What the first instructions are.
struct Prologue {
    chosen: Instruction,
    /// Where the check's branches lead: none without a check, two in a huge frame.
    tails: Vec<u64>,
}

impl Prologue {
    fn decode(body: &Body) -> Result<Self, Unusable> {
        let mut code = Code64::new(body, body.entry);
        let mut tails = Vec::new();
        let mut instruction = code.next()?;
        if is_push_rbp(&instruction) {
            return Ok(Self { chosen: instruction, tails });
        }
        let mut compared = Register::RSP;
        if instruction.code() == Code::Lea_r64_m
            && instruction.op0_register() == Register::R12
            && instruction.memory_base() == Register::RSP
            && instruction.memory_index() == Register::None
        {
            compared = Register::R12;
            instruction = code.next()?;
        } else if matches!(instruction.code(), Code::Mov_rm64_r64 | Code::Mov_r64_rm64)
            && instruction.op0_kind() == OpKind::Register
            && instruction.op0_register() == Register::R12
            && instruction.op1_kind() == OpKind::Register
            && instruction.op1_register() == Register::RSP
        {
            compared = Register::R12;
            instruction = code.next()?;
            let subtracts = matches!(instruction.code(), Code::Sub_rm64_imm32 | Code::Sub_rm64_imm8)
                && instruction.op0_kind() == OpKind::Register
                && instruction.op0_register() == Register::R12;
            if !subtracts {
                return Err(does_not_fit(&instruction));
            }
            instruction = code.next()?;
            if instruction.mnemonic() != Mnemonic::Jb {
                return Err(does_not_fit(&instruction));
            }
            tails.push(instruction.near_branch_target());
            instruction = code.next()?;
        }
        let compares = instruction.code() == Code::Cmp_r64_rm64
            && instruction.op0_register() == compared
            && instruction.op1_kind() == OpKind::Memory
            && instruction.memory_base() == Register::R14
            && instruction.memory_index() == Register::None
            && instruction.memory_displacement64() == STACKGUARD0
            && instruction.segment_prefix() == Register::None;
        if !compares {
            return Err(does_not_fit(&instruction));
        }
        let branch = code.next()?;
        // Two bytes with an 8-bit displacement, six with a 32-bit one; longer ones have prefixes.
        let probed_alone =
            matches!(branch.code(), Code::Jbe_rel8_64 | Code::Jbe_rel32_64) && matches!(branch.len(), 2 | 6);
        if !probed_alone {
            return Err(does_not_fit(&branch));
        }
        tails.push(branch.near_branch_target());
        let next = code.next()?;
        Ok(Self { chosen: if is_push_rbp(&next) { next } else { branch }, tails })
    }
}

/// The single byte `push %rbp`: a prefix could change how the kernel takes it.
fn is_push_rbp(instruction: &Instruction) -> bool {
    instruction.code() == Code::Push_r64 && instruction.op0_register() == Register::RBP && instruction.len() == 1
}

/// Why an instruction that is in no known prologue ends the search. Those that are in one write `%r12` and flags only.
fn does_not_fit(instruction: &Instruction) -> Unusable {
    let address = VirtAddr(instruction.ip());
    let mut info = InstructionInfoFactory::new();
    let overwrites = info.info(instruction).used_registers().iter().any(|used| {
        let written = matches!(
            used.access(),
            OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
        );
        written && ARGUMENTS.contains(&used.register().full_register())
    });
    let instruction = text(instruction);
    if overwrites {
        Unusable::ArgumentOverwritten { address, instruction }
    } else {
        Unusable::UnknownPrologue { address, instruction }
    }
}

/// The address of the jump back to the entry that ends the tail at `tail`.
///
/// The tail is known by its shape, not by the name of what it calls, which may be a trampoline: moves to the stack, one
/// call that leaves the function, moves from the stack, a jump to the entry.
fn tail_jump(body: &Body, tail: u64) -> Result<u64, Unusable> {
    let not_morestack = || Unusable::NotMorestack(VirtAddr(tail));
    if tail == body.entry || !body.contains(tail) {
        return Err(not_morestack());
    }
    let mut code = Code64::new(body, tail);
    let mut called = false;
    for _ in 0..2 * TAIL_INSTRUCTIONS {
        let instruction = code.next()?;
        match instruction.flow_control() {
            FlowControl::Next if is_spill_or_padding(&instruction) => {}
            FlowControl::Call if !called && branch_target(&instruction).is_some_and(|to| !body.contains(to)) => {
                called = true;
            }
            FlowControl::UnconditionalBranch if called && branch_target(&instruction) == Some(body.entry) => {
                return Ok(instruction.ip());
            }
            _ => break,
        }
    }
    Err(not_morestack())
}

fn is_spill_or_padding(instruction: &Instruction) -> bool {
    let moves = matches!(
        instruction.mnemonic(),
        Mnemonic::Mov | Mnemonic::Movzx | Mnemonic::Movss | Mnemonic::Movsd | Mnemonic::Movups
    );
    instruction.mnemonic() == Mnemonic::Nop
        || (moves && instruction.memory_base() == Register::RSP && instruction.memory_index() == Register::None)
}

/// Checks that within one call control passes `chosen` once, besides the restarts that the check itself accounts for.
///
/// Decodes the whole body. Indirect jumps are the compiler's switch tables, whose cases lie behind the prologue; calls
/// of the function by itself are calls.
fn only_the_tail_jumps_back(body: &Body, chosen: u64, tail_jump: Option<u64>, tails: &[u64]) -> Result<(), Unusable> {
    let mut code = Code64::new(body, body.entry);
    let mut tails_met = 0;
    while !code.at_end() {
        let instruction = code.next()?;
        let from = instruction.ip();
        tails_met += tails.iter().filter(|tail| **tail == from).count();
        let Some(to) = branch_target(&instruction) else { continue };
        let starts_over =
            to == body.entry && (tail_jump == Some(from) || instruction.flow_control() == FlowControl::Call);
        if (body.entry..=chosen).contains(&to) && !starts_over {
            return Err(Unusable::JumpIntoPrologue { from: VirtAddr(from), to: VirtAddr(to) });
        }
    }
    match tails.first() {
        // A tail that begins inside another instruction hides what is really executed.
        Some(tail) if tails_met != tails.len() => Err(Unusable::NotMorestack(VirtAddr(*tail))),
        _ => Ok(()),
    }
}

fn branch_target(instruction: &Instruction) -> Option<u64> {
    let near = instruction.op_count() > 0
        && matches!(instruction.op0_kind(), OpKind::NearBranch64 | OpKind::NearBranch32 | OpKind::NearBranch16);
    near.then(|| instruction.near_branch_target())
}

fn text(instruction: &Instruction) -> String {
    let mut formatter = GasFormatter::new();
    formatter.options_mut().set_uppercase_hex(false);
    formatter.options_mut().set_branch_leading_zeros(false);
    formatter.options_mut().set_small_hex_numbers_in_decimal(false);
    let mut text = String::new();
    formatter.format(instruction, &mut text);
    text
}

/// The instructions of a body, one after the other, from some address on.
struct Code64<'a> {
    decoder: Decoder<'a>,
    end: u64,
}

impl<'a> Code64<'a> {
    /// `from` must be inside `body`.
    fn new(body: &'a Body, from: u64) -> Self {
        let skipped = usize::try_from(from.saturating_sub(body.entry)).unwrap_or(usize::MAX);
        let bytes = body.bytes.get(skipped..).unwrap_or_default();
        Self { decoder: Decoder::with_ip(64, bytes, from, DecoderOptions::NONE), end: body.end() }
    }

    fn at_end(&self) -> bool {
        !self.decoder.can_decode()
    }

    fn next(&mut self) -> Result<Instruction, Unusable> {
        let at = self.decoder.ip();
        if self.at_end() {
            return Err(Unusable::CutOff(VirtAddr(self.end)));
        }
        let instruction = self.decoder.decode();
        match self.decoder.last_error() {
            DecoderError::None => Ok(instruction),
            DecoderError::NoMoreBytes => Err(Unusable::CutOff(VirtAddr(self.end))),
            _ => Err(Unusable::NotCode(VirtAddr(at))),
        }
    }
}
