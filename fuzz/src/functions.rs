//! The functions of a made image: their code, and gopclntab with everything it says about them.

use crate::{
    bytes::Bytes,
    image::{BASE, Builder, Processor},
};

/// Code of real functions, from the plan's tests: `version architecture build function entry bytes`.
const REAL_FUNCTIONS: &str = include_str!("../../agent/src/plan/tests/functions.txt");
const NO_FUNCDATA: u32 = u32::MAX;
/// The functions inlined, the inner one into the outer. The name table starts with a zero and these.
const INLINED: [&str; 2] = ["main.inlinedOuter[...]", "main.(*T).inlinedInner"];

/// One function.
pub(crate) struct Function {
    pub(crate) name: &'static str,
    code: Vec<u8>,
    /// An ABI0 wrapper.
    wrapper: bool,
    /// Holds two nested inlined calls.
    inlines: bool,
    /// What the compiler makes of `go f(x)`: stands for the last function that inlines.
    wraps: bool,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Function {
    fn new(name: &'static str, code: Vec<u8>) -> Self {
        Self { name, code, wrapper: false, inlines: false, wraps: false, start: 0, end: 0 }
    }
}

impl Builder {
    /// Writes the code of all functions. `reasons` and `version` are the addresses of the strings that two of them use.
    pub(crate) fn code(&mut self, reasons: u64, version: u64) {
        let body = || match self.recipe.processor {
            Processor::Amd64 => vec![0x55, 0x48, 0x89, 0xe5, 0x90, 0x5d, 0xc3],
            Processor::Arm64 => vec![0x1f, 0x20, 0x03, 0xd5, 0xc0, 0x03, 0x5f, 0xd6],
        };
        let mut functions = vec![Function::new("internal/abi.NoEscape", body())];
        for name in ["runtime.gopark", "runtime.park_m", "runtime.newproc1", "runtime.gdestroy", "runtime.goexit0"] {
            functions.extend(self.real(name).map(|code| Function::new(name, code)));
        }
        for wrapper in [false, true] {
            let made = |name| Function { wrapper, ..Function::new(name, body()) };
            functions.extend(["runtime.newproc", "runtime.goexit1"].map(made));
        }
        functions
            .extend(["runtime.schedinit", "runtime.waitReason.String"].map(|name| Function::new(name, Vec::new())));
        let three = [body(), body(), body()].concat();
        functions.push(Function { inlines: true, ..Function::new("main.spawn[go.shape.int]", three) });
        functions.push(Function { wraps: true, ..Function::new("main.main.gowrap1", body()) });
        for mut function in functions {
            // Padding belongs to the function before it; on amd64 it is int3.
            let padding = if self.recipe.processor == Processor::Amd64 { 0xcc } else { 0 };
            self.out.0.resize(self.out.0.len().next_multiple_of(16), padding);
            function.start = self.here();
            match function.name {
                "runtime.schedinit" => function.code = self.user_of(function.start, version, None),
                "runtime.waitReason.String" => function.code = self.user_of(function.start, reasons, Some(6)),
                _ => {}
            }
            self.out.raw(&function.code);
            function.end = self.here();
            self.functions.push(function);
        }
    }

    /// The code of a real function of this version, or of the nearest one there is.
    fn real(&self, name: &str) -> Option<Vec<u8>> {
        let processor = if self.recipe.processor == Processor::Amd64 { "amd64" } else { "arm64" };
        let version = format!("1.{}.", self.recipe.minor);
        let lines = REAL_FUNCTIONS.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let mut lines = lines
            .filter(|fields| matches!(fields[..], [_, of, "plain", named, _, _] if of == processor && named == name));
        let hex = *lines.find(|fields| fields[0].starts_with(&version))?.get(5)?;
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()).collect()
    }

    /// Code that uses the data at `address`, after comparing a register with `limit`.
    fn user_of(&self, start: u64, address: u64, limit: Option<u8>) -> Vec<u8> {
        let mut code = Bytes::default();
        match self.recipe.processor {
            Processor::Amd64 => {
                if let Some(limit) = limit {
                    // cmp $limit, %al
                    code.u8(0x3c).u8(limit);
                }
                // lea address(%rip), %rcx; ret
                code.raw(&[0x48, 0x8d, 0x0d]);
                code.u32(address.wrapping_sub(start + code.len() + 4) as u32).u8(0xc3);
            }
            Processor::Arm64 => {
                if let Some(limit) = limit {
                    // cmp w0, #limit
                    code.u32(0x7100_001f | (u32::from(limit) - 1) << 10);
                }
                // adrp x1, address; add x1, x1, #low; ret
                let pages = ((address >> 12) as u32).wrapping_sub(((start + code.len()) >> 12) as u32);
                code.u32(0x9000_0001 | (pages & 3) << 29 | (pages >> 2 & 0x7_ffff) << 5);
                code.u32(0x9100_0021 | (address as u32 & 0xfff) << 10).u32(0xd65f_03c0);
            }
        }
        code.0
    }

    /// What funcdata offsets count from: an inline tree of two entries, then the function that the wrapper wraps.
    pub(crate) fn trees(&mut self) {
        let go120 = self.recipe.minor >= 20;
        self.mark(4, 12);
        // The outer call at the first pc, the inner one in it at the third.
        for (name, parent) in [(1u32, 0u32), (INLINED[0].len() as u32 + 2, 2)] {
            if go120 {
                self.out.u32(0).u32(name).u32(parent).u32(10);
            } else {
                self.out.u32(u32::from(u16::MAX)).u32(1).u32(7).u32(name).u32(parent);
            }
        }
        let inlining = self.functions.iter().find(|function| function.inlines).map_or(0, |function| function.start);
        let text = self.functions.first().map_or(0, |function| function.start);
        self.out.u32((inlining - text) as u32);
    }

    /// Writes gopclntab. Says its address and that of the names in it.
    pub(crate) fn pclntab(&mut self, text_start: u64) -> (u64, u64) {
        const HEADER_BYTES: u64 = 72;
        let go120 = self.recipe.minor >= 20;
        let text = BASE + text_start;
        let start = self.out.len();
        self.mark(8, 9);
        let quantum = if self.recipe.processor == Processor::Amd64 { 1 } else { 4 };
        self.out.u32(if go120 { 0xffff_fff1 } else { 0xffff_fff0 }).u16(0).u8(quantum).u8(8);
        self.out.u64(self.functions.len() as u64).u64(2);
        if self.recipe.minor < 26 {
            self.pointer(text);
        } else {
            self.out.u64(0);
        }
        let names = if self.recipe.minor < 26 { 96.max(HEADER_BYTES) } else { HEADER_BYTES };
        self.out.0.resize((start + names) as usize, 0);
        self.out.u8(0).text(INLINED[0]).text(INLINED[1]);
        let mut name_offsets = Vec::new();
        for function in &self.functions {
            name_offsets.push((self.out.len() - start - names) as u32);
            let name = function.name;
            self.out.text(name);
        }
        let part = |out: &Bytes, index: u64| (start + 32 + 8 * index, out.len() - start);
        let mut parts = vec![(start + 32, names)];
        self.out.align(8);
        parts.push(part(&self.out, 1));
        self.mark(4, 2);
        self.out.u32(0).u32(10);
        parts.push(part(&self.out, 2));
        self.out.text("proc.go\0\0").text("main.go");
        parts.push(part(&self.out, 3));
        let pc_table = self.out.len();
        self.mark(1, 24);
        self.out.u8(0);
        // Each run: zigzag difference of the value (from -1), bytes of code.
        let step = |bytes: u64| bytes / u64::from(quantum);
        let lines = (self.out.len() - pc_table) as u32;
        self.out.varint(22).varint(step(4)).varint(2).varint(step(4096)).u8(0);
        let files = (self.out.len() - pc_table) as u32;
        self.out.varint(2).varint(step(4096)).u8(0);
        let inlined = (self.out.len() - pc_table) as u32;
        self.out
            .varint(0)
            .varint(step(4))
            .varint(2)
            .varint(step(4))
            .varint(2)
            .varint(step(4))
            .varint(3)
            .varint(step(4096))
            .u8(0);
        self.out.align(8);
        parts.push(part(&self.out, 4));
        for (at, offset) in parts {
            self.out.put_u64(at, offset);
        }
        let functab = self.out.len();
        let count = self.functions.len() as u64;
        self.mark(4, count * 2 + 1);
        self.out.0.resize((functab + count * 8 + 4) as usize, 0);
        let functions = std::mem::take(&mut self.functions);
        for ((index, function), name) in (0..).zip(&functions).zip(name_offsets) {
            self.out.align(4);
            let record = (self.out.len() - functab) as u32;
            self.out.put_u32(functab + 8 * index, (function.start - text) as u32);
            self.out.put_u32(functab + 8 * index + 4, record);
            self.record(function, name, text, lines, files, inlined);
        }
        let end = functions.last().map_or(0, |function| function.end);
        self.out.put_u32(functab + 8 * count, (end - text) as u32);
        self.functions = functions;
        (BASE + start, BASE + start + names)
    }

    /// One `_func`.
    fn record(&mut self, function: &Function, name: u32, text: u64, lines: u32, files: u32, inlined: u32) {
        let go120 = self.recipe.minor >= 20;
        let wrapper_id = match self.recipe.minor {
            ..=21 => 21,
            22..=24 => 22,
            _ => 23,
        };
        self.mark(4, 22);
        self.out.u32((function.start - text) as u32).u32(name).u32(0).u32(0).u32(0).u32(files).u32(lines).u32(3).u32(0);
        if go120 {
            self.out.u32(10);
        }
        let id = if function.wrapper || function.wraps { wrapper_id } else { 0 };
        self.out.u8(id).u8(0).u8(0).u8(8);
        self.out.u32(0).u32(0).u32(if function.inlines { inlined } else { 0 });
        let wrap_info = if go120 { 32 } else { 40 };
        for index in 0..8 {
            self.out.u32(match index {
                3 if function.inlines => 0,
                7 if function.wraps => wrap_info,
                _ => NO_FUNCDATA,
            });
        }
    }
}
