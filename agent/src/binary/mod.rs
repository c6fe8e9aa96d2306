//! Facts about one Go binary, read from its bytes alone.
//!
//! Input is hostile: any container can craft the file an agent running as root opens. Every length, offset, count and
//! string is checked against the file before it is used, nothing panics, and nothing the file says decides how much is
//! allocated or how long a loop runs beyond stated limits.
//!
//! | file | reads |
//! |---|---|
//! | `source` | bytes, by position |
//! | `elf` | segments, sections, notes |
//! | `build_info` | Go version, module, settings |
//! | `code` | which data and functions the code of a function refers to |
//! | `locate` | where gopclntab and moduledata are |
//! | `pclntab` | functions, lines, inline trees |
//! | `pc_values` | the tables of what holds where in a function |
//! | `names` | functions by name, inlined copies |
//! | `prefix` | the first part of a compressed section |
//! | `debug_file` | a debug file beside the binary |
//! | `debug_info` | the units of DWARF, for `runtime` and `symbols` |
//!
//! Refused: anything but 64-bit little-endian ELF for amd64 and arm64, and Go before 1.18.

#![warn(clippy::indexing_slicing)]

mod build_info;
pub(crate) mod bytes;
pub(crate) mod code;
mod debug_file;
pub(crate) mod debug_info;
pub(crate) mod elf;
mod error;
mod locate;
mod names;
mod pc_values;
pub(crate) mod pclntab;
pub(crate) mod prefix;
mod relocations;
mod source;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod version;

use std::sync::{Arc, OnceLock};

pub use build_info::{BuildInfo, GoVersion};
pub use debug_file::{DebugLink, DebugProof};
pub use error::BinaryError;
#[cfg(test)]
pub(crate) use locate::{PLACES_IN_MODULEDATA, gofunc_place};
pub use source::Source;

use crate::address::{Bias, FileOffset, RuntimeAddr, VirtAddr};
use elf::Image;
use names::RuntimeNames;
use pclntab::{Pclntab, Record};

const NOTE_GO_BUILD_ID: u32 = 4;
const NOTE_GNU_BUILD_ID: u32 = 3;

const PACKED: &str =
    "packed by UPX: whether it is a Go program cannot be seen, and probes need code in a file (unpack it: upx -d)";

/// The processors Go binaries are watched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// x86-64.
    Amd64,
    /// AArch64.
    Arm64,
}

impl Architecture {
    /// The one this agent was built for, and so the only one whose processes it can watch; `None` elsewhere.
    #[must_use]
    pub const fn of_this_agent() -> Option<Self> {
        if cfg!(target_arch = "x86_64") {
            Some(Self::Amd64)
        } else if cfg!(target_arch = "aarch64") {
            Some(Self::Arm64)
        } else {
            None
        }
    }
}

/// Whether a file is worth parsing as a Go binary: cheap, for the hundreds of shared objects of a host. Where there is a
/// section table, one of the sections that only Go's linker makes must be in it.
pub fn may_hold_go(source: Arc<dyn Source>) -> bool {
    const SECTIONS: [&str; 6] =
        [".gopclntab", ".data.rel.ro.gopclntab", ".go.buildinfo", ".note.go.buildid", ".go.module", ".typelink"];
    Image::parse(source)
        .is_ok_and(|image| image.sections.is_empty() || SECTIONS.iter().any(|name| image.section(name).is_some()))
}

/// A function as gopclntab has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Name as the runtime prints it: `main.(*T).f`, `main.spawn[...]`.
    pub name: String,
    /// Address of its first instruction.
    pub entry: VirtAddr,
    /// Address of the next function, padding included.
    pub end: VirtAddr,
    /// Whether the compiler made it to adapt a call (ABI0 to ABIInternal, `go f(x)`, method value).
    pub wrapper: bool,
}

/// One executable or shared object that holds a Go runtime. Shared between all its processes.
///
/// Facts are read when asked for; what is kept is small and does not grow with the number of questions.
pub struct Binary {
    image: Image,
    /// Debug information in a file of its own.
    debug_file: Option<Image>,
    table: Pclntab,
    version: GoVersion,
    build_info: Option<BuildInfo>,
    go_build_id: Option<String>,
    gnu_build_id: Option<Vec<u8>>,
    runtime_names: OnceLock<RuntimeNames>,
    wrapper_id: OnceLock<u8>,
}

impl Binary {
    /// Finds the Go runtime in a file.
    ///
    /// # Errors
    ///
    /// [`BinaryError::NotElf`] and [`BinaryError::NotGo`] for what is simply something else; the other variants as
    /// they say.
    pub fn parse(source: Arc<dyn Source>) -> Result<Self, BinaryError> {
        let image = Image::parse(source)?;
        let build_info = BuildInfo::read(&image)?;
        let by_build_info = build_info.as_ref().and_then(|info| GoVersion::parse(&info.go_version));
        let table = locate::pclntab(&image, by_build_info.as_ref()).map_err(|error| match error {
            BinaryError::NotGo if image.is_packed() => BinaryError::Unsupported { what: PACKED },
            error => error,
        })?;
        let go_build_id = build_info::note(&image, b"Go\0\0", NOTE_GO_BUILD_ID);
        let go_build_id = go_build_id.and_then(|id| String::from_utf8(id).ok()).filter(|id| !id.is_empty());
        let gnu_build_id = build_info::note(&image, b"GNU\0", NOTE_GNU_BUILD_ID).filter(|id| !id.is_empty());
        let mut binary = Self {
            image,
            debug_file: None,
            table,
            version: GoVersion::default(),
            build_info,
            go_build_id,
            gnu_build_id,
            runtime_names: OnceLock::new(),
            wrapper_id: OnceLock::new(),
        };
        binary.version = match by_build_info {
            Some(version) => version,
            None => version::of(&binary)?,
        };
        Ok(binary)
    }

    /// The processor it is for.
    #[must_use]
    pub fn architecture(&self) -> Architecture {
        self.image.architecture
    }

    /// The Go version it was built with.
    #[must_use]
    pub fn go_version(&self) -> &GoVersion {
        &self.version
    }

    /// What the linker wrote about the build; `None` in binaries made to hide it.
    #[must_use]
    pub fn build_info(&self) -> Option<&BuildInfo> {
        self.build_info.as_ref()
    }

    /// Go's own build id (`.note.go.buildid`).
    #[must_use]
    pub fn go_build_id(&self) -> Option<&str> {
        self.go_build_id.as_deref()
    }

    /// The build id of the system linker, or of Go 1.24 and later (`.note.gnu.build-id`).
    #[must_use]
    pub fn gnu_build_id(&self) -> Option<&[u8]> {
        self.gnu_build_id.as_deref()
    }

    /// Whether the kernel chooses where it is loaded (PIE, shared object).
    #[must_use]
    pub fn is_position_independent(&self) -> bool {
        self.image.position_independent
    }

    /// Whether it asks for a dynamic loader.
    #[must_use]
    pub fn is_dynamic(&self) -> bool {
        self.image.interpreter
    }

    /// Whether it has DWARF of its own.
    #[must_use]
    pub fn has_dwarf(&self) -> bool {
        self.image.section(".debug_info").is_some() && self.image.section(".debug_abbrev").is_some()
    }

    /// Whether it has a symbol table (`.symtab`).
    #[must_use]
    pub fn has_symbol_table(&self) -> bool {
        self.image.has_symbol_table()
    }

    /// Where its program header table is loaded, before the bias: `AT_PHDR` of a process minus this is the bias.
    /// `None` where no segment holds the table.
    #[must_use]
    pub fn program_headers_address(&self) -> Option<VirtAddr> {
        self.image.program_headers
    }

    /// Where its function table is loaded, before the bias: mapped and readable as long as the program runs.
    #[must_use]
    pub fn function_table_address(&self) -> VirtAddr {
        VirtAddr(self.table.address)
    }

    /// Where in the file the byte at `address` is. `None` outside the file-backed part of the segments.
    #[must_use]
    pub fn file_offset(&self, address: VirtAddr) -> Option<FileOffset> {
        self.image.file_offset(address)
    }

    /// How far it was moved in a process that has the file's bytes from `offset` on mapped as code at `start` to `end`.
    /// `None` where no segment of code starts in that part.
    #[must_use]
    pub fn bias_of_mapping(&self, start: RuntimeAddr, end: RuntimeAddr, offset: FileOffset) -> Option<Bias> {
        let mapped = offset.0..offset.0.checked_add(end.0.checked_sub(start.0)?)?;
        let code = self.image.segments.iter().find(|code| code.executable && mapped.contains(&code.offset))?;
        // RuntimeAddr = VirtAddr + bias, at the segment's first byte.
        let first = start.0.checked_add(code.offset - offset.0)?;
        Some(Bias(first.wrapping_sub(code.address)))
    }

    /// The bytes of the file image at `address`.
    ///
    /// # Errors
    ///
    /// [`BinaryError::Malformed`] where the file does not back all of them, [`BinaryError::Read`].
    pub fn read(&self, address: VirtAddr, buf: &mut [u8]) -> Result<(), BinaryError> {
        self.image.read(address.0, buf)
    }

    /// As [`Binary::read`], with pointer words as the loader would set them at bias 0.
    pub(crate) fn read_relocated(&self, address: VirtAddr, buf: &mut [u8]) -> Result<(), BinaryError> {
        relocations::read_relocated(&self.image, address.0, buf)
    }

    /// All functions of that name: a body and its ABI0 wrapper share one. In order of address.
    ///
    /// # Errors
    ///
    /// [`BinaryError::Malformed`], [`BinaryError::Read`].
    pub fn functions_named(&self, name: &str) -> Result<Vec<Function>, BinaryError> {
        self.image.begin_question();
        let records = self.records_named(name)?;
        records.into_iter().map(|record| self.function(&record)).collect()
    }

    /// The function that holds `pc`; `None` outside Go code (C code, padding before the first function).
    ///
    /// # Errors
    ///
    /// [`BinaryError::Malformed`], [`BinaryError::Read`].
    pub fn function_at(&self, pc: VirtAddr) -> Result<Option<Function>, BinaryError> {
        let record = self.record_at(pc)?;
        record.map(|record| self.function(&record)).transpose()
    }

    /// The names of the functions that contain an inlined copy of `name`; empty if it is nowhere inlined.
    ///
    /// # Errors
    ///
    /// [`BinaryError::Unsupported`] where the inline trees cannot be found, so that nothing can be said;
    /// [`BinaryError::Malformed`], [`BinaryError::Read`].
    pub fn inlined_into(&self, name: &str) -> Result<Vec<String>, BinaryError> {
        self.image.begin_question();
        names::inlined_into(&self.image, &self.table, name)
    }

    pub(crate) fn image(&self) -> &Image {
        &self.image
    }

    pub(crate) fn table(&self) -> &Pclntab {
        &self.table
    }

    pub(crate) fn record_at(&self, pc: VirtAddr) -> Result<Option<Record>, BinaryError> {
        let index = self.table.index_of(&self.image, pc.0)?;
        index.map(|index| self.table.record(&self.image, index)).transpose()
    }

    pub(crate) fn function(&self, record: &Record) -> Result<Function, BinaryError> {
        Ok(Function {
            name: self.table.name(&self.image, record.name_offset)?,
            entry: VirtAddr(record.entry),
            end: VirtAddr(record.end),
            wrapper: record.id == self.wrapper_id()?,
        })
    }

    fn records_named(&self, name: &str) -> Result<Vec<Record>, BinaryError> {
        if !names::is_of_runtime(name) {
            return names::find(&self.image, &self.table, name);
        }
        let names = match self.runtime_names.get() {
            Some(names) => names,
            None => {
                let built = RuntimeNames::build(&self.image, &self.table)?;
                self.runtime_names.get_or_init(|| built)
            }
        };
        names.find(&self.image, &self.table, name)
    }

    /// The function id that marks wrappers in this binary.
    ///
    /// Ids are renumbered with almost every Go version, so the binary is asked first: of two functions called
    /// `runtime.newproc`, the body has id 0 (normal) and the other is the ABI0 wrapper.
    fn wrapper_id(&self) -> Result<u8, BinaryError> {
        const NORMAL: u8 = 0;
        if let Some(&id) = self.wrapper_id.get() {
            return Ok(id);
        }
        let mut id = match self.version.minor {
            _ if self.version.major != 1 => 23,
            ..=21 => 21,
            22..=24 => 22,
            _ => 23,
        };
        for name in ["runtime.newproc", "runtime.goexit1"] {
            let mut ids: Vec<u8> = self.records_named(name)?.iter().map(|record| record.id).collect();
            ids.sort_unstable();
            if let [NORMAL, other] = ids[..]
                && other != NORMAL
            {
                id = other;
                break;
            }
        }
        Ok(*self.wrapper_id.get_or_init(|| id))
    }
}
