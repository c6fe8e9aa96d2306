//! The ELF view of a binary: segments always, sections when they are there.
//!
//! Refuses anything but 64-bit little-endian ELF for the two architectures Go agents meet. Segments are the truth (the
//! kernel maps them); sections are hints that a linker or `sstrip` may have dropped, so a broken section table counts
//! as none. Counts and sizes are checked against the file before anything is allocated.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use object::read::{CompressedData, CompressionFormat};

use super::{
    Architecture, BinaryError,
    bytes::{u8_at, u16_at, u32_at, u64_at},
    source::Source,
};
use crate::address::{FileOffset, VirtAddr};

const EM_X86_64: u16 = 62;
const EM_AARCH64: u16 = 183;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const PT_NOTE: u32 = 4;
const PF_X: u32 = 1;
const PF_W: u32 = 2;
const SHT_SYMTAB: u32 = 2;
const SHT_NOBITS: u32 = 8;
const SHF_COMPRESSED: u64 = 0x800;
const ELFCOMPRESS_ZLIB: u32 = 1;
const ELFCOMPRESS_ZSTD: u32 = 2;

const HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
const SECTION_HEADER_BYTES: usize = 64;
/// `Elf64_Chdr`.
const COMPRESSION_HEADER_BYTES: u64 = 24;
/// The kernel itself maps no file with more than 64 KiB of program headers.
const MAX_PROGRAM_HEADERS: u16 = 1170;
const MAX_SECTIONS: u16 = 4096;
const MAX_SECTION_NAMES_BYTES: u64 = 1 << 20;
/// What one question may cost: a sparse file claims terabytes, and a thousand segments may all be the same ones. No
/// real binary needs a tenth of it.
const MAX_SCANNED_BYTES: u64 = 512 << 20;

/// No program of the two architectures has a higher address, no file a higher offset. Sums of addresses and lengths
/// below it cannot wrap.
const MAX_ADDRESS: u64 = 1 << 56;

/// One PT_LOAD. `file_bytes` never leaves the file, addresses stay below [`MAX_ADDRESS`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) address: u64,
    pub(crate) offset: u64,
    pub(crate) file_bytes: u64,
    pub(crate) executable: bool,
    pub(crate) writable: bool,
}

impl Segment {
    /// The file-backed addresses.
    pub(crate) fn end(&self) -> u64 {
        self.address.saturating_add(self.file_bytes)
    }

    pub(crate) fn contains(&self, address: u64) -> bool {
        (self.address..self.end()).contains(&address)
    }
}

/// A named piece of the file. Not yet checked against it.
#[derive(Clone, Debug)]
pub(crate) struct Section {
    pub(crate) name: String,
    pub(crate) address: u64,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    kind: u32,
    flags: u64,
}

/// Where the contents of a section stand in the file.
pub(crate) struct Place {
    pub(crate) offset: u64,
    /// As stored: compressed, if there is a `format`.
    pub(crate) bytes: u64,
    pub(crate) format: CompressionFormat,
    /// Size of the contents, no more than the limit that was asked for.
    pub(crate) inflated_bytes: u64,
}

/// Which way an ELF file is linked and what it is made of.
pub(crate) struct Image {
    source: Arc<dyn Source>,
    pub(crate) architecture: Architecture,
    pub(crate) position_independent: bool,
    pub(crate) interpreter: bool,
    pub(crate) program_headers: Option<VirtAddr>,
    pub(crate) segments: Vec<Segment>,
    pub(crate) dynamic: Option<(u64, u64)>,
    notes: Vec<(u64, u64)>,
    pub(crate) sections: Vec<Section>,
    /// Bytes that may still be scanned for the question asked.
    scan_left: AtomicU64,
}

impl Image {
    /// A file that the kernel maps.
    pub(crate) fn parse(source: Arc<dyn Source>) -> Result<Self, BinaryError> {
        let image = Self::parse_headers(source)?;
        if image.segments.is_empty() {
            return Err(BinaryError::malformed("program header table", 0));
        }
        Ok(image)
    }

    /// A file with nothing but sections, whose segments are another file's.
    pub(crate) fn parse_debug_file(source: Arc<dyn Source>) -> Result<Self, BinaryError> {
        let image = Self::parse_headers(source)?;
        if image.sections.is_empty() {
            return Err(BinaryError::malformed("section header table", 0));
        }
        Ok(image)
    }

    fn parse_headers(source: Arc<dyn Source>) -> Result<Self, BinaryError> {
        let mut header = [0u8; HEADER_BYTES];
        if source.len() < HEADER_BYTES as u64 {
            return Err(BinaryError::NotElf);
        }
        source.read_at(FileOffset(0), &mut header)?;
        if !header.starts_with(b"\x7fELF") {
            return Err(BinaryError::NotElf);
        }
        let short = || BinaryError::malformed("ELF header", 0);
        let (class, data) = u8_at(&header, 4).zip(u8_at(&header, 5)).ok_or_else(short)?;
        if class != 2 || data != 1 {
            return Err(BinaryError::Unsupported { what: "not a 64-bit little-endian ELF file" });
        }
        let architecture = match u16_at(&header, 18) {
            Some(EM_X86_64) => Architecture::Amd64,
            Some(EM_AARCH64) => Architecture::Arm64,
            _ => return Err(BinaryError::Unsupported { what: "an architecture other than amd64 and arm64" }),
        };
        let position_independent = match u16_at(&header, 16) {
            Some(ET_EXEC) => false,
            Some(ET_DYN) => true,
            _ => return Err(BinaryError::Unsupported { what: "neither an executable nor a shared object" }),
        };
        let table = u64_at(&header, 32).ok_or_else(short)?;
        let (entry_bytes, count) = u16_at(&header, 54).zip(u16_at(&header, 56)).ok_or_else(short)?;
        if usize::from(entry_bytes) != PROGRAM_HEADER_BYTES || count == 0 || count > MAX_PROGRAM_HEADERS {
            return Err(BinaryError::malformed("program header table", table));
        }
        let mut image = Self {
            architecture,
            position_independent,
            interpreter: false,
            program_headers: None,
            segments: Vec::new(),
            dynamic: None,
            notes: Vec::new(),
            sections: Vec::new(),
            scan_left: AtomicU64::new(MAX_SCANNED_BYTES),
            source,
        };
        let raw = image.file(table, u64::from(count) * PROGRAM_HEADER_BYTES as u64, "program header table")?;
        image.read_segments(&raw);
        image.program_headers = image.address_of(FileOffset(table));
        image.sections = image.read_sections(&header).unwrap_or_default();
        Ok(image)
    }

    fn read_segments(&mut self, raw: &[u8]) {
        let file_end = self.source.len();
        for entry in raw.as_chunks::<PROGRAM_HEADER_BYTES>().0 {
            let word = |at| u64_at(entry, at).unwrap_or_default();
            let (kind, flags) = (u32_at(entry, 0).unwrap_or_default(), u32_at(entry, 4).unwrap_or_default());
            let (offset, address, file_bytes) = (word(8), word(16), word(32));
            // A file cut short keeps what is left of its segments; reads past that fail one by one.
            let file_bytes = file_bytes.min(file_end.saturating_sub(offset));
            let in_bounds = address < MAX_ADDRESS && offset < MAX_ADDRESS && file_bytes < MAX_ADDRESS;
            match kind {
                PT_LOAD if file_bytes > 0 && in_bounds => self.segments.push(Segment {
                    address,
                    offset,
                    file_bytes,
                    executable: flags & PF_X != 0,
                    writable: flags & PF_W != 0,
                }),
                PT_DYNAMIC => self.dynamic = Some((address, file_bytes)),
                PT_INTERP => self.interpreter = true,
                PT_NOTE => self.notes.push((offset, file_bytes)),
                _ => {}
            }
        }
    }

    /// `None` for any defect: the sections are hints.
    fn read_sections(&self, header: &[u8]) -> Option<Vec<Section>> {
        let table = u64_at(header, 40)?;
        let (entry_bytes, count, names) = (u16_at(header, 58)?, u16_at(header, 60)?, u16_at(header, 62)?);
        if usize::from(entry_bytes) != SECTION_HEADER_BYTES || count == 0 || count > MAX_SECTIONS {
            return None;
        }
        let raw = self.file(table, u64::from(count) * SECTION_HEADER_BYTES as u64, "section header table").ok()?;
        let entries = raw.as_chunks::<SECTION_HEADER_BYTES>().0;
        let strings = entries.get(usize::from(names))?;
        let (offset, bytes) = (u64_at(strings, 24)?, u64_at(strings, 32)?);
        let strings = self.file(offset, bytes.min(MAX_SECTION_NAMES_BYTES), "section names").ok()?;
        let mut sections = Vec::with_capacity(entries.len());
        for entry in entries {
            let name = strings.get(u32_at(entry, 0)? as usize..)?;
            let name = name.split(|&byte| byte == 0).next()?;
            sections.push(Section {
                name: String::from_utf8_lossy(name.get(..name.len().min(64))?).into_owned(),
                kind: u32_at(entry, 4)?,
                flags: u64_at(entry, 8)?,
                address: u64_at(entry, 16)?,
                offset: u64_at(entry, 24)?,
                bytes: u64_at(entry, 32)?,
            });
        }
        Some(sections)
    }

    /// Whether it is what UPX makes of a program: no sections, and its mark behind the program headers.
    pub(crate) fn is_packed(&self) -> bool {
        const MARK: &[u8] = b"UPX!";
        const LOOKED_AT_BYTES: u64 = 1024;
        let start = self.file(0, LOOKED_AT_BYTES.min(self.source.len()), "file").unwrap_or_default();
        self.sections.is_empty() && start.windows(MARK.len()).any(|window| window == MARK)
    }

    /// The first section of that name that has bytes in the file.
    pub(crate) fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name && section.kind != SHT_NOBITS && section.bytes > 0)
    }

    pub(crate) fn has_symbol_table(&self) -> bool {
        self.sections.iter().any(|section| section.kind == SHT_SYMTAB && section.bytes > 0)
    }

    /// The contents of a section, inflated if need be, and never more than `limit_bytes` of them.
    pub(crate) fn section_data(&self, name: &str, limit_bytes: u64) -> Result<Option<Vec<u8>>, BinaryError> {
        let Some(place) = self.section_place(name, limit_bytes)? else { return Ok(None) };
        let bytes = self.file(place.offset, place.bytes, "section")?;
        let (format, uncompressed_size) = match place.format {
            CompressionFormat::None => return Ok(Some(bytes)),
            format => (format, place.inflated_bytes),
        };
        let data = CompressedData { format, data: &bytes, uncompressed_size }.decompress();
        data.map(|data| Some(data.into_owned())).map_err(|_| BinaryError::malformed("debug section", place.offset))
    }

    /// Where a section is. Refuses one that is, or inflates to, more than `limit_bytes`.
    pub(crate) fn section_place(&self, name: &str, limit_bytes: u64) -> Result<Option<Place>, BinaryError> {
        let Some(section) = self.section(name) else { return Ok(None) };
        let (offset, bytes) = (section.offset, section.bytes);
        let malformed = || BinaryError::malformed("debug section", offset);
        if bytes > limit_bytes {
            return Err(BinaryError::Unsupported { what: "a section larger than the limit" });
        }
        if section.flags & SHF_COMPRESSED == 0 {
            return Ok(Some(Place { offset, bytes, format: CompressionFormat::None, inflated_bytes: bytes }));
        }
        let header = self.file(offset, bytes.min(COMPRESSION_HEADER_BYTES), "section")?;
        let format = match u32_at(&header, 0) {
            Some(ELFCOMPRESS_ZLIB) => CompressionFormat::Zlib,
            Some(ELFCOMPRESS_ZSTD) => CompressionFormat::Zstandard,
            _ => return Err(malformed()),
        };
        let inflated_bytes = u64_at(&header, 8).ok_or_else(malformed)?;
        if inflated_bytes > limit_bytes {
            return Err(BinaryError::Unsupported { what: "a compressed section larger than the limit" });
        }
        let bytes = bytes.checked_sub(COMPRESSION_HEADER_BYTES).ok_or_else(malformed)?;
        let offset = offset.checked_add(COMPRESSION_HEADER_BYTES).ok_or_else(malformed)?;
        Ok(Some(Place { offset, bytes, format, inflated_bytes }))
    }

    /// The pieces of the file that hold notes: by segments, and by sections for what the segments miss.
    pub(crate) fn note_ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        let sections = self.sections.iter().filter(|section| section.name.starts_with(".note"));
        self.notes.iter().copied().chain(sections.map(|section| (section.offset, section.bytes)))
    }

    /// `bytes` bytes of the file from `offset` on. The length is checked against the file before it is allocated.
    pub(crate) fn file(&self, offset: u64, bytes: u64, what: &'static str) -> Result<Vec<u8>, BinaryError> {
        let end = offset.checked_add(bytes).ok_or(BinaryError::malformed(what, offset))?;
        if end > self.source.len() {
            return Err(BinaryError::malformed(what, offset));
        }
        let size = usize::try_from(bytes).map_err(|_| BinaryError::malformed(what, offset))?;
        let mut buf = vec![0; size];
        self.source.read_at(FileOffset(offset), &mut buf)?;
        Ok(buf)
    }

    pub(crate) fn segment_at(&self, address: u64) -> Option<&Segment> {
        self.segments.iter().find(|segment| segment.contains(address))
    }

    pub(crate) fn file_offset(&self, address: VirtAddr) -> Option<FileOffset> {
        let segment = self.segment_at(address.0)?;
        Some(FileOffset(segment.offset + (address.0 - segment.address)))
    }

    fn address_of(&self, offset: FileOffset) -> Option<VirtAddr> {
        let holds = |segment: &&Segment| (segment.offset..segment.offset + segment.file_bytes).contains(&offset.0);
        let segment = self.segments.iter().find(holds)?;
        segment.address.checked_add(offset.0 - segment.offset).map(VirtAddr)
    }

    /// The file image at a virtual address; an error where it is not wholly file-backed.
    pub(crate) fn read(&self, address: u64, buf: &mut [u8]) -> Result<(), BinaryError> {
        let outside = BinaryError::Malformed { what: "address outside the file image", at: address };
        let Some(segment) = self.segment_at(address) else { return Err(outside) };
        if (buf.len() as u64) > segment.end() - address {
            return Err(outside);
        }
        Ok(self.source.read_at(FileOffset(segment.offset + (address - segment.address)), buf)?)
    }

    /// How many bytes the file backs from `address` on, to the end of its segment.
    pub(crate) fn backed(&self, address: u64) -> u64 {
        self.segment_at(address).map_or(0, |segment| segment.end() - address)
    }

    /// Up to `limit` bytes at `address`: fewer where the file image ends, none outside it.
    pub(crate) fn read_up_to(&self, address: u64, limit: usize) -> Result<Vec<u8>, BinaryError> {
        let size = usize::try_from(self.backed(address)).unwrap_or(usize::MAX).min(limit);
        let mut buf = vec![0; size];
        if size > 0 {
            self.read(address, &mut buf)?;
        }
        Ok(buf)
    }

    /// Begins a new question: it may scan [`MAX_SCANNED_BYTES`] again.
    pub(crate) fn begin_question(&self) {
        self.scan_left.store(MAX_SCANNED_BYTES, Ordering::Relaxed);
    }

    /// Takes `bytes` off what may still be scanned.
    fn spend(&self, bytes: u64, at: u64) -> Result<(), BinaryError> {
        let spend = |left: u64| left.checked_sub(bytes);
        let spent = self.scan_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend);
        spent.map(drop).map_err(|_| BinaryError::malformed("file: more to search than any program has", at))
    }

    /// Hands the bytes of `range` to `visit` in pieces, each with its address. Pieces are `PIECE_BYTES` long and
    /// each but the last is followed by `overlap` bytes of the next, so that a pattern of that length plus one is
    /// seen whole. Ends early once `visit` returns `Some`, and with an error once too much was scanned for one question.
    pub(crate) fn scan<T>(
        &self,
        range: std::ops::Range<u64>,
        overlap: usize,
        mut visit: impl FnMut(u64, &[u8]) -> Result<Option<T>, BinaryError>,
    ) -> Result<Option<T>, BinaryError> {
        const PIECE_BYTES: u64 = 256 << 10;
        let end = range.end.min(range.start.saturating_add(self.backed(range.start)));
        let mut buf = Vec::new();
        let mut at = range.start;
        while at < end {
            let size = (end - at).min(PIECE_BYTES + overlap as u64);
            self.spend(size, at)?;
            buf.resize(usize::try_from(size).unwrap_or_default(), 0);
            self.read(at, &mut buf)?;
            if let Some(found) = visit(at, &buf)? {
                return Ok(Some(found));
            }
            at += PIECE_BYTES;
        }
        Ok(None)
    }
}
