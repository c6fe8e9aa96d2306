//! Made Go binaries of a few KiB: everything the parsers look for is there once, and valid.
//!
//! A real Go binary has 1.5 MB of which nearly every byte is without interest; flipping bytes of one tests the file
//! system. These images hold the same structures (ELF, build info, gopclntab, moduledata, inline trees, code of the
//! probed functions as real compilers made it, DWARF), and know where each field of them is.

use crate::{
    bytes::{Bytes, zlib_stored},
    dwarf,
    functions::Function,
};

pub(crate) const BASE: u64 = 0x40_0000;
const PAGE: usize = 4096;
const EMPTY_SENTINEL: [u8; 16] = *b"0w\xaf\x0c\x92t\x08\x02A\xe1\xc1\x07\xe6\xd6\x18\xe6";

/// The processor of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processor {
    /// x86-64.
    Amd64,
    /// AArch64.
    Arm64,
}

/// How the image's linker worked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linking {
    /// At a fixed address.
    Fixed,
    /// Position independent, pointer words in place.
    Pie,
    /// Position independent, pointer words only in `.rela.dyn`, gopclntab without a section.
    PieRelocated,
    /// No section table at all.
    NoSections,
}

/// The debug information of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Debug {
    /// None.
    None,
    /// DWARF 4.
    Dwarf4,
    /// DWARF 5.
    Dwarf5,
    /// DWARF 5 in compressed sections.
    Compressed,
}

/// What to make.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// Go's minor version.
    pub minor: u32,
    /// Whose code.
    pub processor: Processor,
    /// How linked.
    pub linking: Linking,
    /// With which debug information.
    pub debug: Debug,
    /// With build info, or with nothing but `runtime.buildVersion`.
    pub build_info: bool,
}

/// The images that inputs start from. Their order is part of every input: append, never insert.
pub const RECIPES: [Recipe; 8] = {
    use Processor::{Amd64, Arm64};
    const fn recipe(minor: u32, processor: Processor, linking: Linking, debug: Debug, build_info: bool) -> Recipe {
        Recipe { minor, processor, linking, debug, build_info }
    }
    [
        recipe(27, Amd64, Linking::Fixed, Debug::Dwarf5, true),
        recipe(24, Amd64, Linking::Fixed, Debug::Dwarf4, true),
        recipe(19, Amd64, Linking::Fixed, Debug::None, true),
        recipe(26, Amd64, Linking::Pie, Debug::Compressed, false),
        recipe(25, Amd64, Linking::PieRelocated, Debug::None, true),
        recipe(27, Arm64, Linking::Fixed, Debug::None, false),
        recipe(21, Arm64, Linking::Pie, Debug::Dwarf4, true),
        recipe(27, Amd64, Linking::NoSections, Debug::None, false),
    ]
};

/// A made binary.
#[derive(Clone, Debug)]
pub struct Image {
    /// The file.
    pub bytes: Vec<u8>,
    /// Where each field is: offset and size in bytes.
    pub fields: Vec<(u64, u8)>,
    /// Addresses of every function, first byte and end.
    pub functions: Vec<(u64, u64)>,
}

/// An image under construction. The file is mapped as it is: address and offset differ by [`BASE`] everywhere.
pub(crate) struct Builder {
    pub(crate) recipe: Recipe,
    pub(crate) out: Bytes,
    fields: Vec<(u64, u8)>,
    pub(crate) functions: Vec<Function>,
    sections: Vec<Section>,
    /// Words that a loader would relocate: file offset, value.
    pointers: Vec<(u64, u64)>,
}

struct Section {
    name: &'static str,
    address: u64,
    offset: u64,
    bytes: u64,
    flags: u64,
}

impl Image {
    /// Makes one.
    #[must_use]
    pub fn new(recipe: Recipe) -> Self {
        let builder = Builder {
            recipe,
            out: Bytes::default(),
            fields: Vec::new(),
            functions: Vec::new(),
            sections: Vec::new(),
            pointers: Vec::new(),
        };
        builder.build()
    }
}

impl Builder {
    /// The address of the next byte.
    pub(crate) fn here(&self) -> u64 {
        BASE + self.out.len()
    }

    /// Notes that the next `count` words of `size` bytes are fields.
    pub(crate) fn mark(&mut self, size: u8, count: u64) {
        let at = self.out.len();
        self.fields.extend((0..count).map(|index| (at + index * u64::from(size), size)));
    }

    pub(crate) fn pointer(&mut self, value: u64) {
        self.pointers.push((self.out.len(), value));
        self.mark(8, 1);
        let in_place = self.recipe.linking != Linking::PieRelocated;
        self.out.u64(if in_place { value } else { 0 });
    }

    fn section(&mut self, name: &'static str, start: u64) {
        let bytes = self.out.len() - start;
        self.sections.push(Section { name, address: BASE + start, offset: start, bytes, flags: 0 });
    }

    fn build(mut self) -> Image {
        const PROGRAM_HEADERS: u64 = 5;
        self.mark(2, 32);
        self.mark(8, 8);
        self.out.0.resize(64, 0);
        self.mark(8, PROGRAM_HEADERS * 7);
        self.mark(4, PROGRAM_HEADERS * 14);
        self.out.0.resize(64 + 56 * PROGRAM_HEADERS as usize, 0);
        let note = self.note();
        self.out.align(PAGE);
        // Data first: the code refers to it.
        let data_start = self.out.len();
        let build_info = self.build_info();
        let (reasons, version) = self.strings();
        // Words of moduledata are filled in once everything has its place.
        self.out.align(8);
        let moduledata = self.out.len();
        self.mark(8, 48);
        self.out.0.resize(self.out.0.len() + 8 * 48, 0);
        self.out.align(PAGE);
        let data_end = self.out.len();
        let text_start = self.out.len();
        self.code(BASE + reasons, BASE + version);
        let text_end = self.out.len();
        self.section(".text", text_start);
        self.out.align(PAGE);
        let rodata_start = self.out.len();
        let gofunc = self.here();
        self.trees();
        self.out.align(32);
        let table_start = self.out.len();
        let (table, names) = self.pclntab(text_start);
        if !matches!(self.recipe.linking, Linking::PieRelocated) {
            let name = if self.recipe.linking == Linking::Pie && self.recipe.minor < 26 {
                ".data.rel.ro.gopclntab"
            } else {
                ".gopclntab"
            };
            self.section(name, table_start);
        }
        self.moduledata(moduledata, table, names, (BASE + text_start, BASE + text_end), gofunc);
        let (dynamic, dynamic_bytes) = self.relocations();
        let relocations_end = self.out.len();
        self.sections.push(Section {
            name: if self.recipe.minor >= 26 { ".go.module" } else { ".noptrdata" },
            address: BASE + moduledata,
            offset: moduledata,
            bytes: 8 * 48,
            flags: 0,
        });
        if let Some((start, end)) = build_info {
            let bytes = end - start;
            self.sections.push(Section {
                name: ".go.buildinfo",
                address: BASE + start,
                offset: start,
                bytes,
                flags: 0,
            });
        }
        self.debug();
        let headers = if self.recipe.linking == Linking::NoSections { (0, 0) } else { self.section_headers() };
        self.elf_header(headers);
        // Text with the headers before it, as the Go linker does; then read-only, then writable.
        let loads = [
            (5, 0, note.1.max(64)),
            (6, data_start, data_end - data_start),
            (5, text_start, text_end - text_start),
            (4, rodata_start, relocations_end - rodata_start),
        ];
        let mut at = 64;
        for (flags, offset, bytes) in loads {
            self.program_header(at, 1, flags, offset, bytes);
            at += 56;
        }
        match self.recipe.linking {
            Linking::PieRelocated => {
                self.program_header(at, 2, 4, dynamic, dynamic_bytes);
            }
            _ => self.program_header(at, 4, 4, note.0, note.1 - note.0),
        }
        let functions = self.functions.iter().map(|function| (function.start, function.end)).collect();
        Image { bytes: self.out.0, fields: self.fields, functions }
    }

    fn elf_header(&mut self, (sections, count): (u64, u16)) {
        let pie = matches!(self.recipe.linking, Linking::Pie | Linking::PieRelocated);
        let machine: u16 = if self.recipe.processor == Processor::Amd64 { 62 } else { 183 };
        let mut header = Bytes::default();
        header.raw(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0").u16(if pie { 3 } else { 2 }).u16(machine).u32(1);
        header.u64(BASE + PAGE as u64).u64(64).u64(sections).u32(0).u16(64).u16(56).u16(5);
        header.u16(64).u16(count).u16(count.saturating_sub(1));
        self.out.put(0, &header.0);
    }

    fn program_header(&mut self, at: u64, kind: u32, flags: u32, offset: u64, bytes: u64) {
        let mut header = Bytes::default();
        header.u32(kind).u32(flags).u64(offset).u64(BASE + offset).u64(BASE + offset).u64(bytes).u64(bytes);
        header.u64(PAGE as u64);
        self.out.put(at, &header.0);
    }

    fn note(&mut self) -> (u64, u64) {
        let start = self.out.len();
        self.mark(4, 6);
        self.out.u32(4).u32(12).u32(4).raw(b"Go\0\0").raw(b"abc/def/ghi\0");
        self.out.u32(4).u32(20).u32(3).raw(b"GNU\0").raw(&[7; 20]);
        self.section(".note.go.buildid", start);
        (start, self.out.len())
    }

    fn build_info(&mut self) -> Option<(u64, u64)> {
        if !self.recipe.build_info {
            return None;
        }
        let start = self.out.len();
        self.mark(1, 64);
        self.out.raw(b"\xff Go buildinf:").u8(8).u8(2).raw(&[0; 16]);
        let version = format!("go1.{}.3", self.recipe.minor);
        self.out.varint(version.len() as u64).raw(version.as_bytes());
        let modules = "path\tcommand-line-arguments\nmod\texample.org/made\tv1.2.3\t\nbuild\t-ldflags=\"-s -w\"\n\
                       build\tCGO_ENABLED=0\nbuild\t\"odd key\"=\"odd \\\" value\"\n";
        self.out.varint(modules.len() as u64 + 32);
        self.out.raw(&EMPTY_SENTINEL).raw(modules.as_bytes()).raw(&EMPTY_SENTINEL);
        Some((start, self.out.len()))
    }

    /// The array of wait reasons and the header of `runtime.buildVersion`.
    fn strings(&mut self) -> (u64, u64) {
        const REASONS: [&str; 6] = ["", "GC assist marking", "IO wait", "chan receive", "select", "sleep"];
        let mut places = Vec::new();
        let version = format!("go1.{}.3", self.recipe.minor);
        for text in REASONS.into_iter().chain([version.as_str()]) {
            places.push((self.here(), text.len() as u64));
            self.out.text(text);
        }
        self.out.align(16);
        let array = self.out.len();
        let mut header = array;
        for (address, length) in places {
            header = self.out.len();
            if length == 0 {
                self.out.u64(0).u64(0);
            } else {
                self.pointer(address);
                self.mark(8, 1);
                self.out.u64(length);
            }
        }
        (array, header)
    }

    /// The words of `runtime.firstmoduledata`, at the place left for them.
    fn moduledata(&mut self, at: u64, table: u64, names: u64, text: (u64, u64), gofunc: u64) {
        let gofunc_at = match self.recipe.minor {
            ..=19 => 304,
            20..=26 => 320,
            _ => 344,
        };
        let ends = [(160, text.0), (168, text.1), (176, text.0), (184, text.1), (gofunc_at, gofunc)];
        for (word, value) in [(0, table), (8, names)].into_iter().chain(ends) {
            self.pointers.push((at + word, value));
            if self.recipe.linking != Linking::PieRelocated {
                self.out.put_u64(at + word, value);
            }
        }
    }

    /// `.rela.dyn` and the dynamic section that leads to it: its offset and size.
    fn relocations(&mut self) -> (u64, u64) {
        if self.recipe.linking != Linking::PieRelocated {
            return (0, 0);
        }
        const RELATIVE: [u64; 2] = [8, 1027];
        self.out.align(8);
        let start = self.out.len();
        let kind = RELATIVE[usize::from(self.recipe.processor == Processor::Arm64)];
        self.pointers.sort_unstable();
        let pointers = std::mem::take(&mut self.pointers);
        self.mark(8, pointers.len() as u64 * 3);
        for (offset, value) in pointers {
            self.out.u64(BASE + offset).u64(kind).u64(value);
        }
        self.section(".rela.dyn", start);
        let bytes = self.out.len() - start;
        let dynamic = self.out.len();
        self.mark(8, 8);
        // DT_RELA, DT_RELASZ, DT_RELAENT, DT_NULL
        self.out.u64(7).u64(BASE + start).u64(8).u64(bytes).u64(9).u64(24).u64(0).u64(0);
        (dynamic, self.out.len() - dynamic)
    }

    fn debug(&mut self) {
        const COMPRESSED: u64 = 0x800;
        let version = match self.recipe.debug {
            Debug::None => return,
            Debug::Dwarf4 => 4,
            Debug::Dwarf5 | Debug::Compressed => 5,
        };
        let compressed = self.recipe.debug == Debug::Compressed;
        let ranges: Vec<dwarf::Range<'_>> =
            self.functions.iter().map(|function| (function.name, function.start, function.end)).collect();
        for (name, bytes) in dwarf::sections(version, &ranges) {
            self.out.align(8);
            let start = self.out.len();
            if compressed {
                self.mark(8, 3);
                self.out.u32(1).u32(0).u64(bytes.len() as u64).u64(1);
            }
            let stored = if compressed { zlib_stored(&bytes) } else { bytes };
            self.mark(1, stored.len() as u64);
            self.out.raw(&stored);
            let bytes = self.out.len() - start;
            let flags = if compressed { COMPRESSED } else { 0 };
            self.sections.push(Section { name, address: 0, offset: start, bytes, flags });
        }
    }

    /// Writes the section table and says where it is and how many entries it has. The last one holds the names.
    fn section_headers(&mut self) -> (u64, u16) {
        const PROGBITS: u32 = 1;
        const STRTAB: u32 = 3;
        let mut names = Bytes::default();
        names.u8(0);
        let strings = self.out.len();
        let sections = std::mem::take(&mut self.sections);
        let mut headers = Bytes::default();
        headers.raw(&[0; 64]);
        for section in &sections {
            headers.u32(names.len() as u32).u32(PROGBITS).u64(section.flags).u64(section.address);
            headers.u64(section.offset).u64(section.bytes).u64(0).u64(1).u64(0);
            names.text(section.name);
        }
        headers.u32(names.len() as u32).u32(STRTAB).u64(0).u64(0);
        names.text(".shstrtab");
        headers.u64(strings).u64(names.len()).u64(0).u64(1).u64(0);
        self.out.raw(&names.0).align(8);
        let at = self.out.len();
        self.mark(4, headers.len() / 4);
        self.mark(8, headers.len() / 8);
        self.out.raw(&headers.0);
        (at, sections.len() as u16 + 2)
    }
}
