//! Go's prologues on AArch64 (`cmd/internal/obj/arm64/obj7.go`, `stacksplit`), where x28 is the current g:
//!
//! ```text
//!  small frame            large frame            huge frame
//!  ldr  x16,[x28,#16]     ldr  x16,[x28,#16]     ldr  x16,[x28,#16]
//!                                                mov  x27,#N            (in one to four moves, if N is large)
//!                         sub  x17,sp,#N         subs x17,sp,#N         (or sp,x27)
//!                                                b.lo tail
//!  cmp  sp,x16            cmp  x17,x16           cmp  x17,x16
//!  b.ls tail              b.ls tail              b.ls tail
//!  str  x30,[sp,#-N]!
//! ```
//!
//! The tail spills the argument registers, moves x30 to x3, calls `runtime.morestack*`, reloads the registers and jumps
//! to the entry. Only the `b.ls` is simulated by the kernel, so a function without the check cannot be probed.
//!
//! Instructions are four bytes each and known by their words; the decoder is asked only for text and for what a word
//! outside these forms writes. What is accepted does not rest on it.

use yaxpeax_arch::{Decoder, U8Reader};
use yaxpeax_arm::armv8::a64::{InstDecoder, Instruction, Opcode, Operand};

use super::{Body, Choice, Unusable};
use crate::address::VirtAddr;

/// `ldr x16,[x28,#16]`: `g.stackguard0`.
const LDR_STACKGUARD: u32 = 0xf940_0b90;
/// `cmp sp,x16`.
const CMP_SP: u32 = 0xeb30_63ff;
/// `cmp x17,x16`.
const CMP_X17: u32 = 0xeb10_023f;
/// `subs x17,sp,x27`.
const SUBS_X17_SP_X27: u32 = 0xeb3b_63f1;
/// `mov x3,x30`: morestack finds its caller's return address there.
const MOV_X3_X30: u32 = 0xaa1e_03e3;

/// How many instructions a tail may have before or after its call.
const TAIL_INSTRUCTIONS: usize = 32;

/// x0 to x4 are the first five integer arguments, x28 is the current g.
const ARGUMENTS: [u16; 6] = [0, 1, 2, 3, 4, 28];

/// The instruction to probe in `body`.
///
/// # Errors
///
/// Why there is none.
pub(super) fn choose(body: &Body) -> Result<Choice, Unusable> {
    if !body.entry.is_multiple_of(4) || !body.bytes.len().is_multiple_of(4) {
        return Err(Unusable::CutOff(VirtAddr(body.end())));
    }
    let prologue = Prologue::decode(body)?;
    let tail_jump = prologue.tails.iter().try_fold(0, |_, tail| tail_jump(body, *tail))?;
    only_the_tail_jumps_back(body, prologue.branch, tail_jump)?;
    let target = prologue.tails.last().copied().unwrap_or_default();
    Ok(Choice { address: prologue.branch, instruction: format!("b.ls {target:#x}"), skip_when_branch_taken: true })
}

/// Whether an instruction of `body` branches to `target`, calls included.
pub(super) fn branches_to(body: &Body, target: u64) -> bool {
    words(body).any(|(at, word)| branch(at, word).is_some_and(|branch| branch.to == target))
}

/// What the first instructions are.
struct Prologue {
    /// The address of the `b.ls`.
    branch: u64,
    /// Where the check's branches lead: two in a huge frame.
    tails: Vec<u64>,
}

impl Prologue {
    fn decode(body: &Body) -> Result<Self, Unusable> {
        let mut words = words(body);
        let mut next = || words.next().ok_or(Unusable::CutOff(VirtAddr(body.end())));
        let mut tails = Vec::new();

        let (mut at, mut word) = next()?;
        if word != LDR_STACKGUARD {
            return Err(does_not_fit(at, word));
        }
        (at, word) = next()?;
        let mut moves = 0;
        while moves < 4 && is_mov_x27(word) {
            moves += 1;
            (at, word) = next()?;
        }
        let mut compare = CMP_SP;
        if is_sub_x17_sp(word) && moves == 0 {
            compare = CMP_X17;
            (at, word) = next()?;
        } else if (is_subs_x17_sp(word) && moves == 0) || (word == SUBS_X17_SP_X27 && moves > 0) {
            compare = CMP_X17;
            (at, word) = next()?;
            match branch(at, word) {
                Some(Branch { to, kind: Kind::If(Condition::LO) }) => tails.push(to),
                _ => return Err(does_not_fit(at, word)),
            }
            (at, word) = next()?;
        }
        if word != compare || (moves > 0 && compare == CMP_SP) {
            return Err(does_not_fit(at, word));
        }
        (at, word) = next()?;
        match branch(at, word) {
            Some(Branch { to, kind: Kind::If(Condition::LS) }) => tails.push(to),
            _ => return Err(does_not_fit(at, word)),
        }
        Ok(Self { branch: at, tails })
    }
}

/// `mov x27,#imm` in any of its forms: `movz`, `movn`, `movk`, and `orr x27,xzr,#imm`.
fn is_mov_x27(word: u32) -> bool {
    matches!(word & 0xff80_001f, 0xd280_001b | 0x9280_001b | 0xf280_001b) || word & 0xff80_03ff == 0xb200_03fb
}

/// `sub x17,sp,#imm`, shifted or not.
fn is_sub_x17_sp(word: u32) -> bool {
    word & 0xff80_03ff == 0xd100_03f1
}

/// `subs x17,sp,#imm`, shifted or not.
fn is_subs_x17_sp(word: u32) -> bool {
    word & 0xff80_03ff == 0xf100_03f1
}

/// Why a word that is in no known prologue ends the search. Those that are in one write x16, x17, x27 and flags only.
fn does_not_fit(at: u64, word: u32) -> Unusable {
    let address = VirtAddr(at);
    let Ok(decoded) = InstDecoder::default().decode(&mut U8Reader::new(&word.to_le_bytes())) else {
        return Unusable::NotCode(address);
    };
    let instruction = decoded.to_string();
    if overwrites_argument(&decoded) {
        Unusable::ArgumentOverwritten { address, instruction }
    } else {
        Unusable::UnknownPrologue { address, instruction }
    }
}

/// Whether the first operand is an argument and the instruction is not one that only reads it.
fn overwrites_argument(instruction: &Instruction) -> bool {
    let reads = matches!(
        instruction.opcode,
        Opcode::STR | Opcode::STRB | Opcode::STRH | Opcode::STUR | Opcode::STURB | Opcode::STURH | Opcode::STP
    ) || matches!(
        instruction.opcode,
        Opcode::CBZ | Opcode::CBNZ | Opcode::TBZ | Opcode::TBNZ | Opcode::BR | Opcode::BLR | Opcode::RET
    );
    let written = match instruction.operands[0] {
        Operand::Register(_, number) | Operand::RegisterOrSP(_, number) => Some(number),
        _ => None,
    };
    !reads && written.is_some_and(|number| ARGUMENTS.contains(&number))
}

/// The address of the jump back to the entry that ends the tail at `tail`.
///
/// The tail is known by its shape, not by the name of what it calls, which may be a trampoline: straight code with
/// `mov x3,x30` before its only call, which leaves the function, then straight code and a jump to the entry.
fn tail_jump(body: &Body, tail: u64) -> Result<u64, Unusable> {
    let not_morestack = || Unusable::NotMorestack(VirtAddr(tail));
    if tail == body.entry || !body.contains(tail) {
        return Err(not_morestack());
    }
    let mut return_address_moved = false;
    let mut called = false;
    for (at, word) in words(body).skip_while(|(at, _)| *at != tail).take(2 * TAIL_INSTRUCTIONS) {
        match branch(at, word) {
            None if is_indirect_branch(word) => break,
            None => return_address_moved |= word == MOV_X3_X30,
            Some(Branch { to, kind: Kind::Call }) if return_address_moved && !called && !body.contains(to) => {
                called = true;
            }
            Some(Branch { to, kind: Kind::Always }) if called && to == body.entry => return Ok(at),
            Some(_) => break,
        }
    }
    Err(not_morestack())
}

/// Checks that within one call control passes `chosen` once, besides the restarts that the check itself accounts for.
/// Indirect jumps are the compiler's switch tables, whose cases lie behind the prologue; calls of the function by
/// itself are calls.
///
/// The tail is the last code; behind it come constants, which may look like branches. They are taken for code only
/// where a branch leads there.
fn only_the_tail_jumps_back(body: &Body, chosen: u64, tail_jump: u64) -> Result<(), Unusable> {
    let branches = || words(body).filter_map(|(from, word)| branch(from, word).map(|branch| (from, branch)));
    let code_behind =
        branches().any(|(from, branch)| from <= tail_jump && branch.to > tail_jump && body.contains(branch.to));
    for (from, Branch { to, kind }) in branches().filter(|(from, _)| *from <= tail_jump || code_behind) {
        let starts_over = to == body.entry && (from == tail_jump || kind == Kind::Call);
        if (body.entry..=chosen).contains(&to) && !starts_over {
            return Err(Unusable::JumpIntoPrologue { from: VirtAddr(from), to: VirtAddr(to) });
        }
    }
    Ok(())
}

/// The words of a body with their addresses.
fn words(body: &Body) -> impl Iterator<Item = (u64, u32)> {
    let words = body.bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
    (0..).zip(words).map(|(index, word): (u64, u32)| (body.entry.wrapping_add(4 * index), word))
}

/// A branch with its target in the instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Branch {
    to: u64,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// `b`
    Always,
    /// `bl`
    Call,
    /// `b.cond`
    If(Condition),
    /// `cbz`, `cbnz`, `tbz`, `tbnz`
    IfRegister,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Condition(u32);

impl Condition {
    /// Lower, unsigned: a subtraction borrowed.
    const LO: Self = Self(3);
    /// Lower or same, unsigned.
    const LS: Self = Self(9);
}

/// Arm ARM C4.1, "Branches, Exception Generating and System instructions". By hand, because every one of them must be
/// known, also next to words the decoder does not know.
fn branch(at: u64, word: u32) -> Option<Branch> {
    // The displacement is `bits` wide from bit `low` up, signed, in words.
    let target = |low: u32, bits: u32| {
        let words = i64::from((word << (32 - bits - low)).cast_signed() >> (32 - bits));
        at.wrapping_add_signed(4 * words)
    };
    let (kind, to) = match word >> 24 {
        0x14..=0x17 => (Kind::Always, target(0, 26)),
        0x94..=0x97 => (Kind::Call, target(0, 26)),
        // Bit 4 set is `bc.cond`, a hint away from the same: not the form the stack check has.
        0x54 if word & 0x10 == 0 => (Kind::If(Condition(word & 0xf)), target(5, 19)),
        0x54 => (Kind::IfRegister, target(5, 19)),
        0x34 | 0x35 | 0xb4 | 0xb5 => (Kind::IfRegister, target(5, 19)),
        0x36 | 0x37 | 0xb6 | 0xb7 => (Kind::IfRegister, target(5, 14)),
        _ => return None,
    };
    Some(Branch { to, kind })
}

/// `br`, `blr`, `ret` and their kin.
fn is_indirect_branch(word: u32) -> bool {
    word >> 25 == 0b110_1011
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The branches told by hand are those the decoder tells, for any word.
    #[test]
    fn branches_are_those_the_decoder_knows() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let at: u64 = 0x40_0000;
        let mut seen = 0;
        for round in 0..400_000_u32 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let random = (state >> 32) as u32;
            // Every other word gets a branch's top byte.
            let tops = [0x14, 0x17, 0x94, 0x97, 0x54, 0x34, 0x35, 0xb4, 0xb5, 0x36, 0x37, 0xb6, 0xb7];
            let word =
                if round % 2 == 0 { random } else { (random >> 8) | (tops[round as usize / 2 % tops.len()] << 24) };
            let Ok(decoded) = InstDecoder::default().decode(&mut U8Reader::new(&word.to_le_bytes())) else { continue };
            assert!(!decoded.to_string().is_empty(), "{word:#010x}");
            let is_branch = matches!(
                decoded.opcode,
                Opcode::B | Opcode::BL | Opcode::Bcc(_) | Opcode::CBZ | Opcode::CBNZ | Opcode::TBZ | Opcode::TBNZ
            );
            let told = decoded
                .operands
                .iter()
                .find_map(|operand| match operand {
                    Operand::PCOffset(offset) if is_branch => Some(*offset),
                    _ => None,
                })
                .map(|offset| at.wrapping_add_signed(offset));
            let ours = branch(at, word).filter(|_| !matches!(decoded.opcode, Opcode::BCcc(_))).map(|branch| branch.to);
            assert_eq!(ours, told, "{word:#010x} {decoded}");
            seen += u32::from(told.is_some());
        }
        assert!(seen > 100_000, "only {seen} branches were compared");
    }
}
