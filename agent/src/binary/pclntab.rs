//! The function table every Go binary carries: `runtime.pclntab` (gopclntab), formats of Go 1.18 to 1.27.
//!
//! Source of the format: `runtime/symtab.go` (`pcHeader`, `_func`, `pcvalue`) and `cmd/link/internal/ld/pcln.go`.
//! Nothing is copied out of the file: each question reads the few records it needs, so a binary with a million
//! functions costs no memory. Refuses formats before 1.18, a table whose parts are out of order or outside the file,
//! and, record by record, whatever leaves the table. Reading all records is bounded by the size of the table, even
//! where crafted offsets jump back and forth.

use super::{
    BinaryError,
    bytes::{i32_at, u8_at, u32_at, u64_at},
    elf::Image,
    pc_values::PcValues,
};
use crate::printable;

const MAGIC_1_18: u32 = 0xffff_fff0;
const MAGIC_1_20: u32 = 0xffff_fff1;
/// Go 1.2 to 1.15 and 1.16 to 1.17.
const MAGICS_TOO_OLD: [u32; 2] = [0xffff_fffb, 0xffff_fffa];
const HEADER_BYTES: usize = 72;
/// The largest programs known have some hundred thousand; Go's linker cannot place more than 2 GiB of code.
const MAX_FUNCTIONS: u32 = 8 << 20;
/// Records hold their places as u32; real tables stay below 200 MiB.
const MAX_TABLE_BYTES: u64 = 1 << 30;
const FUNCTAB_ENTRY_BYTES: u64 = 8;
/// Kept of a name. Those of generic functions over wide structs are longer: Go ≤ 1.21 writes the whole type.
const MAX_NAME_BYTES: usize = 16 << 10;
/// The end of a longer name is looked for in so much.
const LONGEST_NAME_BYTES: usize = 256 << 10;
const MAX_PCDATA: u32 = 64;

/// Index of the inline tree among a function's `pcdata` (`abi.PCDATA_InlTreeIndex`).
const PCDATA_INLINE_INDEX: usize = 2;
/// Index of the inline tree among a function's `funcdata` (`abi.FUNCDATA_InlTree`).
const FUNCDATA_INLINE_TREE: usize = 3;
/// Index of the wrapped function's offset (`abi.FUNCDATA_WrapInfo`).
const FUNCDATA_WRAP_INFO: usize = 7;
const NO_FUNCDATA: u32 = u32::MAX;

/// Which layout `_func` and the inline trees have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Go 1.18 and 1.19.
    Go118,
    /// Go 1.20 on.
    Go120,
}

impl Format {
    fn record_bytes(self) -> usize {
        match self {
            Self::Go118 => 40,
            Self::Go120 => 44,
        }
    }

    /// Size of one entry of an inline tree.
    pub(crate) fn inlined_call_bytes(self) -> u64 {
        match self {
            Self::Go118 => 20,
            Self::Go120 => 16,
        }
    }

    /// Where in such an entry the name is.
    pub(crate) fn inlined_name_at(self) -> u64 {
        match self {
            Self::Go118 => 12,
            Self::Go120 => 4,
        }
    }
}

/// Where the parts of the table are (virtual addresses), and the two words that only `moduledata` knows.
#[derive(Clone, Debug)]
pub(crate) struct Pclntab {
    pub(crate) address: u64,
    pub(crate) format: Format,
    /// How many functions.
    pub(crate) functions: u32,
    /// `textStart` of the header: 0 from Go 1.26 on.
    pub(crate) header_text: u64,
    pub(crate) names: u64,
    cu_table: u64,
    file_names: u64,
    pc_table: u64,
    /// `functab`, with the `_func` records behind it.
    pub(crate) records: u64,
    end: u64,
    quantum: u8,
    /// What the offsets of `functab` count from (`moduledata.text`).
    pub(crate) text: u64,
    /// What the offsets of funcdata count from (`moduledata.gofunc`). `None`: no inlining information.
    pub(crate) gofunc: Option<u64>,
}

/// A name of no more than [`MAX_NAME_BYTES`]. Of a longer one the middle is left out, with `…`: its beginning says which
/// function it is, its end which literal inside. Bytes that are no UTF-8 are replaced.
pub(crate) fn cut_name(bytes: &[u8]) -> String {
    const TAIL_BYTES: usize = 1 << 10;
    const MARK: &str = "…";
    if bytes.len() <= MAX_NAME_BYTES {
        return printable::name(&String::from_utf8_lossy(bytes)).into_owned();
    }
    let head = bytes.get(..MAX_NAME_BYTES - TAIL_BYTES - MARK.len()).unwrap_or(bytes);
    // A letter cut in its middle would be replaced.
    let letters = head.utf8_chunks().next().map_or(0, |chunk| chunk.valid().len());
    let head = if head.len() - letters < 4 { head.get(..letters).unwrap_or(head) } else { head };
    let tail = bytes.get(bytes.len() - TAIL_BYTES..).unwrap_or_default();
    let inside = tail.iter().take(3).take_while(|&&byte| byte & 0xc0 == 0x80).count();
    let tail = tail.get(inside..).unwrap_or_default();
    printable::name(&format!("{}{MARK}{}", String::from_utf8_lossy(head), String::from_utf8_lossy(tail))).into_owned()
}

/// One `_func`, read and checked for size only.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) entry: u64,
    pub(crate) end: u64,
    pub(crate) name_offset: u32,
    pub(crate) id: u8,
    /// `abi.FuncFlag`.
    pub(crate) flags: u8,
    pc_sp: u32,
    pc_file: u32,
    pc_line: u32,
    cu_offset: u32,
    inline_index: u32,
    inline_tree: u32,
    wrap_info: u32,
}

/// What one pc says about itself: the file and line there, and the inlined call it belongs to.
pub(crate) struct Position {
    pub(crate) file: String,
    pub(crate) line: u32,
    pub(crate) inlined: Option<InlinedCall>,
}

/// One entry of an inline tree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InlinedCall {
    pub(crate) name_offset: u32,
    /// A pc of the parent, as bytes from the physical function's entry.
    pub(crate) parent_offset: u32,
}

impl Pclntab {
    /// Reads the header at `address`, where the file backs `bytes` bytes. `NotGo` if none is there.
    pub(crate) fn at(image: &Image, address: u64, bytes: u64) -> Result<Self, BinaryError> {
        let header = image.read_up_to(address, HEADER_BYTES)?;
        let format = match u32_at(&header, 0) {
            Some(MAGIC_1_18) => Format::Go118,
            Some(MAGIC_1_20) => Format::Go120,
            Some(magic) if MAGICS_TOO_OLD.contains(&magic) => {
                return Err(BinaryError::Unsupported { what: "a Go older than 1.18" });
            }
            _ => return Err(BinaryError::NotGo),
        };
        let malformed = || BinaryError::malformed("gopclntab header", address);
        let field = |at| u64_at(&header, at).ok_or_else(malformed);
        let quantum = u8_at(&header, 6).ok_or_else(malformed)?;
        let plain = header.get(4..6) == Some(&[0, 0]) && u8_at(&header, 7) == Some(8);
        if !plain || !matches!(quantum, 1 | 2 | 4) {
            return Err(malformed());
        }
        let bytes = bytes.min(image.backed(address)).min(MAX_TABLE_BYTES);
        let end = address.checked_add(bytes).ok_or_else(malformed)?;
        let functions = u32::try_from(field(8)?).map_err(|_| malformed())?;
        let mut parts = [0u64; 5];
        let mut previous = address;
        for (part, at) in parts.iter_mut().zip((32..).step_by(8)) {
            *part =
                address.checked_add(field(at)?).filter(|&part| part > previous && part < end).ok_or_else(malformed)?;
            previous = *part;
        }
        let [names, cu_table, file_names, pc_table, records] = parts;
        let functab_bytes = u64::from(functions) * FUNCTAB_ENTRY_BYTES + 4;
        if functions == 0 || functions > MAX_FUNCTIONS || functab_bytes > end - records {
            return Err(malformed());
        }
        Ok(Self {
            address,
            format,
            functions,
            header_text: field(24)?,
            names,
            cu_table,
            file_names,
            pc_table,
            records,
            end,
            quantum,
            text: 0,
            gofunc: None,
        })
    }

    /// This table with offsets of functions counting from `text`.
    pub(crate) fn with_text(&self, text: u64) -> Self {
        Self { text, ..self.clone() }
    }

    /// This table with offsets of funcdata counting from `gofunc`.
    pub(crate) fn with_gofunc(&self, gofunc: u64) -> Self {
        Self { gofunc: Some(gofunc), ..self.clone() }
    }

    /// The addresses of the function names.
    pub(crate) fn name_range(&self) -> std::ops::Range<u64> {
        self.names..self.cu_table
    }

    /// Bytes from `text` to the first function, and to the end of the last.
    pub(crate) fn bounds(&self, image: &Image) -> Result<(u32, u32), BinaryError> {
        Ok((self.entry_offset(image, 0)?, self.entry_offset(image, self.functions)?))
    }

    fn entry_offset(&self, image: &Image, index: u32) -> Result<u32, BinaryError> {
        let mut word = [0; 4];
        image.read(self.records + u64::from(index) * FUNCTAB_ENTRY_BYTES, &mut word)?;
        Ok(u32::from_le_bytes(word))
    }

    /// The number of the function that holds `pc`.
    pub(crate) fn index_of(&self, image: &Image, pc: u64) -> Result<Option<u32>, BinaryError> {
        /// Below this many entries one read beats more steps.
        const BLOCK: u32 = 256;
        let Some(offset) = pc.checked_sub(self.text).and_then(|offset| u32::try_from(offset).ok()) else {
            return Ok(None);
        };
        let (first, end) = self.bounds(image)?;
        if offset < first || offset >= end {
            return Ok(None);
        }
        // entry[low] <= offset < entry[high]
        let (mut low, mut high) = (0, self.functions);
        while high - low > BLOCK {
            let middle = low + (high - low) / 2;
            if self.entry_offset(image, middle)? <= offset { low = middle } else { high = middle }
        }
        let size = u64::from(high - low) * FUNCTAB_ENTRY_BYTES;
        let block = image.read_up_to(
            self.records + u64::from(low) * FUNCTAB_ENTRY_BYTES,
            usize::try_from(size).unwrap_or_default(),
        )?;
        let entries = block.as_chunks::<8>().0;
        let before = entries.partition_point(|entry| u32_at(entry, 0).is_some_and(|entry| entry <= offset));
        Ok(u32::try_from(before).ok().and_then(|before| before.checked_sub(1)).map(|before| low + before))
    }

    /// The record of the function with that number.
    pub(crate) fn record(&self, image: &Image, index: u32) -> Result<Record, BinaryError> {
        let at = self.records + u64::from(index) * FUNCTAB_ENTRY_BYTES;
        let malformed = || BinaryError::malformed("gopclntab function", at);
        let mut pair = [0; 12];
        image.read(at, &mut pair)?;
        let (entry, offset, end) = (u32_at(&pair, 0), u32_at(&pair, 4), u32_at(&pair, 8));
        let (entry, offset) = entry.zip(offset).ok_or_else(malformed)?;
        let end = end.filter(|&end| end >= entry).ok_or_else(malformed)?;
        let address = self.records + u64::from(offset);
        let room = usize::try_from(self.end.saturating_sub(address)).unwrap_or(usize::MAX);
        let fixed = self.format.record_bytes();
        let raw = image.read_up_to(address, room.min(fixed + 4 * 24))?;
        let record = self.decode(&raw, entry, end).ok_or_else(malformed)?;
        Ok(record)
    }

    /// Decodes the start of a `_func`. Pcdata and funcdata words that are not in `raw` count as absent.
    fn decode(&self, raw: &[u8], entry: u32, end: u32) -> Option<Record> {
        let fixed = self.format.record_bytes();
        let pcdata = u32_at(raw, 28)?.min(MAX_PCDATA) as usize;
        let funcdata = usize::from(u8_at(raw, fixed - 1)?);
        let pc_word = |index: usize| if index < pcdata { u32_at(raw, fixed + 4 * index) } else { None };
        let func_word = |index: usize| if index < funcdata { u32_at(raw, fixed + 4 * (pcdata + index)) } else { None };
        Some(Record {
            entry: self.text.checked_add(u64::from(entry))?,
            end: self.text.checked_add(u64::from(end))?,
            name_offset: u32_at(raw, 4)?,
            id: u8_at(raw, fixed - 4)?,
            flags: u8_at(raw, fixed - 3)?,
            pc_sp: u32_at(raw, 16)?,
            pc_file: u32_at(raw, 20)?,
            pc_line: u32_at(raw, 24)?,
            cu_offset: u32_at(raw, 32)?,
            inline_index: pc_word(PCDATA_INLINE_INDEX).unwrap_or_default(),
            inline_tree: func_word(FUNCDATA_INLINE_TREE).unwrap_or(NO_FUNCDATA),
            wrap_info: func_word(FUNCDATA_WRAP_INFO).unwrap_or(NO_FUNCDATA),
        })
    }

    /// Hands every function (its number, its record) to `visit` until that is `Some`, reading the table once.
    pub(crate) fn each<T>(
        &self,
        image: &Image,
        mut visit: impl FnMut(u32, &Record) -> Result<Option<T>, BinaryError>,
    ) -> Result<Option<T>, BinaryError> {
        const PIECE: u32 = 8192;
        let malformed = || BinaryError::malformed("gopclntab functions", self.records);
        let mut window = Window { start: 0, bytes: Vec::new(), budget: 2 * (self.end - self.records) + (1 << 20) };
        let mut first = 0;
        while first < self.functions {
            let count = PIECE.min(self.functions - first);
            let size = (u64::from(count) * FUNCTAB_ENTRY_BYTES) as usize + 4;
            let piece = image.read_up_to(self.records + u64::from(first) * FUNCTAB_ENTRY_BYTES, size)?;
            for (index, at) in (first..first + count).zip((0..).step_by(8)) {
                let (entry, offset) = u32_at(&piece, at).zip(u32_at(&piece, at + 4)).ok_or_else(malformed)?;
                let end = u32_at(&piece, at + 8).ok_or_else(malformed)?;
                let raw = window.at(image, self.records + u64::from(offset), self.end)?;
                let record = self.decode(raw, entry, end.max(entry)).ok_or_else(malformed)?;
                if let Some(found) = visit(index, &record)? {
                    return Ok(Some(found));
                }
            }
            first += count;
        }
        Ok(None)
    }

    /// The name at an offset of the name table. Bytes that are no UTF-8 are replaced.
    pub(crate) fn name(&self, image: &Image, offset: u32) -> Result<String, BinaryError> {
        self.string(image, self.names, self.cu_table, offset, "function name")
    }

    fn string(
        &self,
        image: &Image,
        base: u64,
        end: u64,
        offset: u32,
        what: &'static str,
    ) -> Result<String, BinaryError> {
        const FIRST_READ_BYTES: usize = 96;
        let address = base + u64::from(offset);
        let room = usize::try_from(end.saturating_sub(address)).unwrap_or(usize::MAX).min(LONGEST_NAME_BYTES);
        for limit in [FIRST_READ_BYTES, MAX_NAME_BYTES, LONGEST_NAME_BYTES] {
            let raw = image.read_up_to(address, limit.min(room))?;
            if let Some(length) = raw.iter().position(|&byte| byte == 0) {
                return Ok(cut_name(raw.get(..length).unwrap_or_default()));
            }
            if raw.len() >= LONGEST_NAME_BYTES {
                return Ok(cut_name(&raw));
            }
        }
        Err(BinaryError::malformed(what, address))
    }

    /// What the pcs of a function say about themselves.
    pub(crate) fn positions<'t>(&'t self, image: &'t Image, record: &'t Record) -> Positions<'t> {
        let values = |table| self.pc_values(image, record, table);
        Positions {
            table: self,
            image,
            record,
            line: values(record.pc_line),
            file: values(record.pc_file),
            inlined: values(record.inline_index),
        }
    }

    /// How far the function has moved the stack pointer down at `pc`, in bytes. `None` where the table does not say:
    /// code that is not Go's.
    pub(crate) fn sp_delta(&self, image: &Image, record: &Record, pc: u64) -> Result<Option<u32>, BinaryError> {
        Ok(self.pc_values(image, record, record.pc_sp).at(pc)?.and_then(|delta| u32::try_from(delta).ok()))
    }

    fn pc_values<'i>(&self, image: &'i Image, record: &Record, table: u32) -> PcValues<'i> {
        let address = (table != 0).then_some(self.pc_table + u64::from(table));
        PcValues::new(image, address, self.records, record.entry..record.end, self.quantum)
    }

    fn file(&self, image: &Image, record: &Record, index: u32) -> Result<Option<String>, BinaryError> {
        let at = self.cu_table + (u64::from(record.cu_offset) + u64::from(index)) * 4;
        if at >= self.file_names {
            return Ok(None);
        }
        let mut word = [0; 4];
        image.read(at, &mut word)?;
        match u32::from_le_bytes(word) {
            u32::MAX => Ok(None),
            offset => self.string(image, self.file_names, self.pc_table, offset, "file name").map(Some),
        }
    }

    /// The address of the inline tree of a function.
    pub(crate) fn inline_tree(&self, record: &Record) -> Option<u64> {
        if record.inline_tree == NO_FUNCDATA {
            return None;
        }
        self.gofunc?.checked_add(u64::from(record.inline_tree))
    }

    /// The entry with that number of the tree at `tree`.
    pub(crate) fn tree_entry(&self, image: &Image, tree: u64, index: u32) -> Result<InlinedCall, BinaryError> {
        let malformed = BinaryError::Malformed { what: "inline tree", at: tree };
        let Some(at) = tree.checked_add(u64::from(index) * self.format.inlined_call_bytes()) else {
            return Err(malformed);
        };
        let mut raw = [0; 20];
        let size = self.format.inlined_call_bytes() as usize;
        image.read(at, raw.get_mut(..size).unwrap_or_default())?;
        let parent_at = match self.format {
            Format::Go118 => 16,
            Format::Go120 => 8,
        };
        let name = u32_at(&raw, self.format.inlined_name_at() as usize);
        let parent = i32_at(&raw, parent_at).and_then(|parent| u32::try_from(parent).ok());
        let (Some(name_offset), Some(parent_offset)) = (name, parent) else { return Err(malformed) };
        Ok(InlinedCall { name_offset, parent_offset })
    }

    /// The highest entry of a function's inline tree that any of its pcs is in.
    pub(crate) fn last_inlined(&self, image: &Image, record: &Record) -> Result<Option<u32>, BinaryError> {
        let last = self.pc_values(image, record, record.inline_index).highest()?;
        Ok(last.and_then(|last| u32::try_from(last).ok()))
    }

    /// The entry of the function that a compiler-made wrapper (`go f(x)`) stands for.
    pub(crate) fn wrapped(&self, image: &Image, record: &Record) -> Result<Option<u64>, BinaryError> {
        let (Some(gofunc), false) = (self.gofunc, record.wrap_info == NO_FUNCDATA) else { return Ok(None) };
        let at = gofunc.saturating_add(u64::from(record.wrap_info));
        let mut word = [0; 4];
        image.read(at, &mut word)?;
        Ok(self.text.checked_add(u64::from(u32::from_le_bytes(word))))
    }
}

/// What is known about the pcs of one function. Asking about many costs no more than reading its tables once.
pub(crate) struct Positions<'t> {
    table: &'t Pclntab,
    image: &'t Image,
    record: &'t Record,
    line: PcValues<'t>,
    file: PcValues<'t>,
    inlined: PcValues<'t>,
}

impl Positions<'_> {
    /// The file and line of `pc`, and the innermost inlined call around it. `None` in the padding behind the function's
    /// code.
    pub(crate) fn at(&mut self, pc: u64) -> Result<Option<Position>, BinaryError> {
        let Some(line) = self.line.at(pc)? else { return Ok(None) };
        let Some(file) = self.file.at(pc)? else { return Ok(None) };
        let file = match u32::try_from(file) {
            Ok(file) => self.table.file(self.image, self.record, file)?,
            Err(_) => None,
        };
        Ok(Some(Position {
            file: file.unwrap_or_else(|| "?".into()),
            line: u32::try_from(line).unwrap_or_default(),
            inlined: self.inlined_call(pc)?,
        }))
    }

    fn inlined_call(&mut self, pc: u64) -> Result<Option<InlinedCall>, BinaryError> {
        let Some(tree) = self.table.inline_tree(self.record) else { return Ok(None) };
        match self.inlined.at(pc)?.and_then(|index| u32::try_from(index).ok()) {
            Some(index) => self.table.tree_entry(self.image, tree, index).map(Some),
            None => Ok(None),
        }
    }
}

/// A piece of the records that moves forward with the reader. `budget` bounds what jumping about can cost.
struct Window {
    start: u64,
    bytes: Vec<u8>,
    budget: u64,
}

impl Window {
    /// The start of the record at `address`: at least its fixed part and its first words, if the table has them.
    fn at(&mut self, image: &Image, address: u64, end: u64) -> Result<&[u8], BinaryError> {
        const WINDOW_BYTES: usize = 128 << 10;
        const RECORD_BYTES: u64 = 44 + 4 * 24;
        let wanted = end.min(address.saturating_add(RECORD_BYTES));
        if address < self.start || wanted > self.start + self.bytes.len() as u64 {
            let room = usize::try_from(end.saturating_sub(address)).unwrap_or(usize::MAX);
            self.start = address;
            self.bytes = image.read_up_to(address, room.min(WINDOW_BYTES))?;
            let spent = self.budget.checked_sub(self.bytes.len() as u64);
            self.budget = spent.ok_or_else(|| BinaryError::malformed("gopclntab functions out of order", address))?;
        }
        let from = usize::try_from(address - self.start).unwrap_or(usize::MAX);
        Ok(self.bytes.get(from..).unwrap_or_default())
    }
}
