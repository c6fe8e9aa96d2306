//! The debug sections of a made image: one unit called `runtime` with `struct g`, a function, an inlined call in it and
//! a line table. DWARF 4 as Go wrote it up to 1.24, DWARF 5 as it does since.

use crate::bytes::Bytes;

const ADDR: u64 = 0x01;
const DATA4: u64 = 0x06;
const STRING: u64 = 0x08;
const UDATA: u64 = 0x0f;
const REF4: u64 = 0x13;
const SEC_OFFSET: u64 = 0x17;

/// Tag, whether it has children, attributes and their forms.
type Abbreviation = (u64, u8, &'static [(u64, u64)]);

const ABBREVIATIONS: [Abbreviation; 8] = [
    // 1: compile_unit: name, comp_dir, stmt_list, low_pc, ranges, language
    (0x11, 1, &[(0x03, STRING), (0x1b, STRING), (0x10, SEC_OFFSET), (0x11, ADDR), (0x55, SEC_OFFSET), (0x13, UDATA)]),
    // 2: subprogram: name, low_pc, high_pc
    (0x2e, 1, &[(0x03, STRING), (0x11, ADDR), (0x12, ADDR)]),
    // 3: inlined_subroutine: abstract_origin, low_pc, high_pc, call_file, call_line
    (0x1d, 1, &[(0x31, REF4), (0x11, ADDR), (0x12, ADDR), (0x58, UDATA), (0x59, UDATA)]),
    // 4: subprogram: name, inline
    (0x2e, 0, &[(0x03, STRING), (0x20, UDATA)]),
    // 5: structure_type: name, byte_size
    (0x13, 1, &[(0x03, STRING), (0x0b, UDATA)]),
    // 6: member: name, data_member_location, type
    (0x0d, 0, &[(0x03, STRING), (0x38, UDATA), (0x49, REF4)]),
    // 7: typedef: name, type
    (0x16, 0, &[(0x03, STRING), (0x49, REF4)]),
    // 8: inlined_subroutine: abstract_origin, ranges, call_file, call_line
    (0x1d, 0, &[(0x31, REF4), (0x55, SEC_OFFSET), (0x58, DATA4), (0x59, UDATA)]),
];

/// `struct g` of Go 1.26: name, offset, what the type is (0 a word, 1 `struct stack`, 2 `gobuf` by a typedef).
const G: [(&str, u64, u8); 16] = [
    ("stack", 0, 1),
    ("m", 48, 0),
    ("sched", 56, 2),
    ("syscallsp", 104, 0),
    ("syscallpc", 112, 0),
    ("atomicstatus", 144, 0),
    ("goid", 152, 0),
    ("waitsince", 168, 0),
    ("waitreason", 176, 0),
    ("lockedm", 208, 0),
    ("parentGoid", 280, 0),
    ("gopc", 288, 0),
    ("ancestors", 296, 0),
    ("startpc", 304, 0),
    ("waiting", 320, 0),
    ("labels", 352, 0),
];
const G_BYTES: u64 = 456;

/// A function of the image: name, first byte, end.
pub(crate) type Range<'a> = (&'a str, u64, u64);

/// The sections, by name, of an image with these functions.
pub(crate) fn sections(version: u16, functions: &[Range<'_>]) -> Vec<(&'static str, Vec<u8>)> {
    let low = functions.first().map_or(0, |function| function.1);
    let high = functions.last().map_or(0, |function| function.2);
    let mut sections = vec![
        (".debug_abbrev", abbreviations()),
        (".debug_info", info(version, functions)),
        (".debug_line", lines(version, low, high)),
    ];
    let mut ranges = Bytes::default();
    if version == 5 {
        // One table: header, then a list of start and end for the unit, then one for an inlined call.
        ranges.u32(0).u16(5).u8(8).u8(0).u32(0);
        for (begin, end) in [(low, high), (low + 1, low + 3)] {
            ranges.u8(6).u64(begin).u64(end).u8(0);
        }
        let size = ranges.len() as u32 - 4;
        ranges.put_u32(0, size);
        sections.push((".debug_rnglists", ranges.0));
        let mut addresses = Bytes::default();
        addresses.u32(4 + 8).u16(5).u8(8).u8(0).u64(low);
        sections.push((".debug_addr", addresses.0));
    } else {
        // Begin and end count from the unit's low_pc, which is 0 here.
        for (begin, end) in [(low, high), (0, 0), (low + 1, low + 3), (0, 0)] {
            ranges.u64(begin).u64(end);
        }
        sections.push((".debug_ranges", ranges.0));
    }
    sections
}

/// Where the two range lists above start.
const fn range_lists(version: u16) -> (u32, u32) {
    if version == 5 { (12, 12 + 18) } else { (0, 32) }
}

fn abbreviations() -> Vec<u8> {
    let mut out = Bytes::default();
    for (code, (tag, children, attributes)) in (1..).zip(ABBREVIATIONS) {
        out.varint(code).varint(tag).u8(children);
        for (name, form) in attributes {
            out.varint(*name).varint(*form);
        }
        out.u16(0);
    }
    out.u8(0);
    out.0
}

fn info(version: u16, functions: &[Range<'_>]) -> Vec<u8> {
    let (unit_ranges, call_ranges) = range_lists(version);
    let mut out = Bytes::default();
    out.u32(0).u16(version);
    if version == 5 {
        out.u8(1).u8(8).u32(0);
    } else {
        out.u32(0).u8(8);
    }
    out.varint(1).text("runtime").text(".").u32(0).u64(0).u32(unit_ranges).varint(22);
    let word = out.len() as u32;
    out.varint(4).text("runtime.inlined").varint(1);
    let stack = out.len() as u32;
    structure(&mut out, "runtime.stack", 16, &[("lo", 0, word), ("hi", 8, word)]);
    let gobuf = out.len() as u32;
    structure(&mut out, "runtime.gobuf", 48, &[("sp", 0, word), ("pc", 8, word), ("g", 16, word), ("bp", 40, word)]);
    let alias = out.len() as u32;
    out.varint(7).text("runtime.gobuf_t").u32(gobuf);
    let members: Vec<(&str, u64, u32)> =
        G.iter().map(|&(name, at, kind)| (name, at, [word, stack, alias][usize::from(kind)])).collect();
    structure(&mut out, "runtime.g", G_BYTES, &members);
    for &(name, begin, end) in functions {
        out.varint(2).text(name).u64(begin).u64(end);
        out.varint(3).u32(word).u64(begin + 1).u64(end).varint(1).varint(7);
        out.varint(8).u32(word).u32(call_ranges).u32(1).varint(9);
        out.u8(0).u8(0);
    }
    out.u8(0);
    let size = out.len() as u32 - 4;
    out.put_u32(0, size);
    out.0
}

fn structure(out: &mut Bytes, name: &str, bytes: u64, members: &[(&str, u64, u32)]) {
    out.varint(5).text(name).varint(bytes);
    for (name, at, kind) in members {
        out.varint(6).text(name).varint(*at).u32(*kind);
    }
    out.u8(0);
}

fn lines(version: u16, low: u64, high: u64) -> Vec<u8> {
    let mut out = Bytes::default();
    out.u32(0).u16(version);
    if version == 5 {
        out.u8(8).u8(0);
    }
    let header_length_at = out.len();
    // Header length, minimum instruction, operations per instruction, is_stmt, line base, line range, opcode base.
    out.u32(0).u8(1).u8(1).u8(1).u8(0xfc).u8(10).u8(11);
    out.raw(&[0, 1, 1, 1, 1, 0, 0, 0, 1, 0]);
    if version == 5 {
        // Directories and files: one format each (path as string; a file also has its directory).
        out.u8(1).varint(1).varint(STRING).varint(1).text(".");
        out.u8(2).varint(1).varint(STRING).varint(2).varint(0x0b).varint(2);
        out.text("runtime/proc.go").u8(0).text("runtime/chan.go").u8(0);
    } else {
        out.u8(0);
        out.text("runtime/proc.go").varint(0).varint(0).varint(0);
        out.text("runtime/chan.go").varint(0).varint(0).varint(0).u8(0);
    }
    let header_length = out.len() - header_length_at - 4;
    out.put_u32(header_length_at, header_length as u32);
    // set_address, advance_line, copy, special opcodes, advance_pc, end_sequence
    out.raw(&[0, 9, 2]).u64(low).raw(&[3, 5, 1, 0x20, 0x35, 4, 2, 0x4a, 2]);
    out.varint(high.saturating_sub(low).saturating_sub(8)).raw(&[0, 1, 1]);
    let size = out.len() as u32 - 4;
    out.put_u32(0, size);
    out.0
}
