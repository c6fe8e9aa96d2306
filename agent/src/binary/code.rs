//! Which data a function's code refers to.
//!
//! Stripped binaries have no symbols for variables; the code that uses them still holds their addresses. Reads
//! RIP-relative operands on amd64, and `ADR`, or `ADRP` with the `ADD`, load or store that completes it, on arm64.
//! Refuses nothing: bytes that are no instructions give no references. At most [`MAX_CODE_BYTES`] are looked at.

use std::collections::BTreeMap;

use iced_x86::{Code, Decoder, DecoderOptions, Mnemonic, OpKind};

use super::{Architecture, Binary, BinaryError, Function};
use crate::address::VirtAddr;

/// Longer than any function that is asked about.
const MAX_CODE_BYTES: u64 = 64 << 10;

/// The code of a function, up to the limit.
pub(crate) fn code(binary: &Binary, function: &Function) -> Result<Vec<u8>, BinaryError> {
    let size = function.end.0.saturating_sub(function.entry.0).min(MAX_CODE_BYTES);
    binary.image().read_up_to(function.entry.0, size as usize)
}

/// The addresses a function's code refers to relative to itself, in order of the code, each once.
pub(crate) fn data_references(binary: &Binary, function: &Function) -> Result<Vec<VirtAddr>, BinaryError> {
    let code = code(binary, function)?;
    let all = match binary.architecture() {
        Architecture::Amd64 => amd64_references(&code, function.entry.0),
        Architecture::Arm64 => arm64_references(&code, function.entry.0),
    };
    let mut seen = std::collections::BTreeSet::new();
    Ok(all.into_iter().filter(|&address| seen.insert(address)).map(VirtAddr).collect())
}

/// The addresses a function calls directly, in order of the code, each once.
pub(crate) fn direct_calls(binary: &Binary, function: &Function) -> Result<Vec<VirtAddr>, BinaryError> {
    let code = code(binary, function)?;
    let all: Vec<u64> = match binary.architecture() {
        Architecture::Amd64 => Decoder::with_ip(64, &code, function.entry.0, DecoderOptions::NONE)
            .iter()
            .filter(iced_x86::Instruction::is_call_near)
            .map(|instruction| instruction.near_branch_target())
            .collect(),
        // BL: a signed 26-bit count of words.
        Architecture::Arm64 => words(&code, function.entry.0)
            .filter(|(_, word)| word & 0xfc00_0000 == 0x9400_0000)
            .map(|(pc, word)| pc.wrapping_add((i64::from(word & 0x03ff_ffff) << 38 >> 36) as u64))
            .collect(),
    };
    let mut seen = std::collections::BTreeSet::new();
    Ok(all.into_iter().filter(|&address| seen.insert(address)).map(VirtAddr).collect())
}

/// The small constants a function compares with, in order of the code: bounds of the tables it looks into.
pub(crate) fn compared_constants(binary: &Binary, function: &Function) -> Result<Vec<u64>, BinaryError> {
    let code = code(binary, function)?;
    Ok(match binary.architecture() {
        Architecture::Amd64 => Decoder::with_ip(64, &code, function.entry.0, DecoderOptions::NONE)
            .iter()
            .filter(|instruction| instruction.mnemonic() == Mnemonic::Cmp)
            .filter(|instruction| is_immediate(instruction.op1_kind()))
            .map(|instruction| instruction.immediate(1))
            .collect(),
        // CMP (immediate) is SUBS to the zero register; the 12-bit immediate is not shifted for small tables.
        Architecture::Arm64 => words(&code, function.entry.0)
            .filter(|(_, word)| word & 0x7fc0_001f == 0x7100_001f)
            .map(|(_, word)| u64::from(word >> 10 & 0xfff))
            .collect(),
    })
}

fn is_immediate(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::Immediate8
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64
    )
}

fn amd64_references(code: &[u8], entry: u64) -> Vec<u64> {
    Decoder::with_ip(64, code, entry, DecoderOptions::NONE)
        .iter()
        .filter(|instruction| instruction.code() != Code::INVALID && instruction.is_ip_rel_memory_operand())
        .map(|instruction| instruction.ip_rel_memory_address())
        .collect()
}

fn words(code: &[u8], entry: u64) -> impl Iterator<Item = (u64, u32)> {
    let words = code.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word));
    words.zip((0..).step_by(4)).map(move |(word, at)| (entry.wrapping_add(at), word))
}

/// Three fixed encodings of the Arm ARM (C6.2): decoding them here keeps bytes of a target out of a large decoder.
fn arm64_references(code: &[u8], entry: u64) -> Vec<u64> {
    let mut pages: BTreeMap<u32, u64> = BTreeMap::new();
    let mut found = Vec::new();
    for (pc, word) in words(code, entry) {
        let (target, base) = (word & 0x1f, word >> 5 & 0x1f);
        // ADR, ADRP: immhi in bits 5..24, immlo in bits 29..31.
        let immediate = (i64::from(word >> 5 & 0x7_ffff) << 45 >> 43) | i64::from(word >> 29 & 3);
        if word & 0x9f00_0000 == 0x9000_0000 {
            pages.insert(target, (pc & !0xfff).wrapping_add((immediate << 12) as u64));
        } else if word & 0x9f00_0000 == 0x1000_0000 {
            found.push(pc.wrapping_add(immediate as u64));
        } else if word & 0xff80_0000 == 0x9100_0000 {
            // ADD (immediate), 64-bit, optionally shifted by 12.
            let shift = if word >> 22 & 1 == 1 { 12 } else { 0 };
            if let Some(page) = pages.get(&base) {
                found.push(page.wrapping_add(u64::from(word >> 10 & 0xfff) << shift));
            }
            if target != base {
                pages.remove(&target);
            }
        } else if word & 0x3b00_0000 == 0x3900_0000 {
            // Loads and stores with an unsigned offset, scaled by the size in bits 30..32.
            if let Some(page) = pages.get(&base) {
                found.push(page.wrapping_add(u64::from(word >> 10 & 0xfff) << (word >> 30)));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arm64_pairs_give_the_address() {
        // adrp x0, #0x2000 (from page 0x10000); add x0, x0, #0x123; ldr x1, [x0, #8] after adrp x0, -0x1000
        let code: Vec<u8> = [0xd000_0000u32, 0x9104_8c00, 0xf0ff_ffe0, 0xf940_0401]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        assert_eq!(arm64_references(&code, 0x10000), [0x12123, 0xf008]);
    }

    #[test]
    fn amd64_operands_give_the_address() {
        // lea rax, [rip+0x10]
        assert_eq!(amd64_references(&[0x48, 0x8d, 0x05, 0x10, 0, 0, 0], 0x1000), [0x1017]);
        assert!(amd64_references(&[0xff; 16], 0).is_empty());
    }
}
