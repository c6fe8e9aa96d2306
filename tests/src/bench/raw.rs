//! Programs of a few eBPF instructions each, written out here and loaded by the system call itself: what an event costs
//! when nothing is done, and what each part of counting adds to that. They are nothing of parkranger's, and parkranger
//! loads none of them.

#![allow(unsafe_code, reason = "bpf(2) has no safe interface")]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use parkranger::go_binary::GoBinaries;
use parkranger::program::Binaries;
use parkranger::symbols::SymbolSource;

use super::variants::{Event, Traced, Variant};
use crate::breakpoints::{wait_until_clean, wait_until_probed};

/// The floor: whatever is done at an instruction costs at least this.
pub const EMPTY: &str = "empty program, same instruction";

/// `enum bpf_cmd`, `enum bpf_prog_type`, `enum bpf_map_type`, `enum bpf_attach_type` of `linux/bpf.h`.
const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_PROG_TYPE_KPROBE: u32 = 2;
const BPF_MAP_TYPE_HASH: u32 = 1;
const BPF_MAP_TYPE_PERCPU_HASH: u32 = 5;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_TRACE_UPROBE_MULTI: u32 = 48;

/// Helpers, by their number in `linux/bpf.h`.
const MAP_LOOKUP_ELEM: i32 = 1;
const KTIME_GET_NS: i32 = 5;
const GET_CURRENT_PID_TGID: i32 = 14;
const PROBE_READ_USER: i32 = 112;
const GET_ATTACH_COOKIE: i32 = 174;

/// Offset of a register that Go keeps a readable address in, in `struct pt_regs` (the stack pointer) or
/// `struct user_pt_regs` (sp).
#[cfg(target_arch = "x86_64")]
const STACK_POINTER: i16 = 152;
#[cfg(target_arch = "aarch64")]
const STACK_POINTER: i16 = 31 * 8;

/// One thing that a program can do at a hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// `bpf_get_attach_cookie`.
    Cookie,
    /// `bpf_get_current_pid_tgid`.
    Tgid,
    /// `bpf_probe_read_user` of so many bytes.
    Read(i16),
    /// The same of 24 bytes by a program that uses 64 bytes of its stack: from there on a kernel gives it one in memory of its
    /// own (6.13), which hardened user copies look up with every read.
    ReadDeep,
    /// A look-up in a hash map with a key of so many bytes, which finds its entry.
    Hash(i16),
    /// The same in a per-CPU hash map.
    PerCpuHash(i16),
    /// A look-up in an array, which is compiled in.
    Array,
    /// `bpf_ktime_get_ns`.
    Time,
}

/// A program that does some of these things, in order, and nothing else.
#[derive(Debug)]
pub struct Raw {
    name: String,
    parts: Vec<Part>,
    attached: Option<(u32, OwnedFd)>,
}

impl Raw {
    /// The program that does nothing.
    #[must_use]
    pub fn empty() -> Self {
        Self { name: EMPTY.to_owned(), parts: Vec::new(), attached: None }
    }

    /// A program of these parts.
    #[must_use]
    pub fn of(name: &str, parts: &[Part]) -> Self {
        Self { name: name.to_owned(), parts: parts.to_vec(), attached: None }
    }
}

impl Variant for Raw {
    fn name(&self) -> &str {
        &self.name
    }

    fn attach(&mut self, target: &Traced, event: Event) -> Result<()> {
        let mut binaries = Binaries::new(Arc::new(GoBinaries::new(SymbolSource::Auto)));
        let file = binaries.understand(Arc::new(File::open(&target.path)?))?;
        let binary = binaries.get(file).context("the target's binary")?;
        let offsets: Vec<u64> =
            binary.set.probes.iter().filter(|probe| probe.event == event).map(|probe| probe.offset.0).collect();
        let mut maps = Vec::new();
        let mut code = Code::default();
        for part in &self.parts {
            code.part(*part, &mut maps)?;
        }
        let program = load(&code.end()).context("loading a program of a few instructions")?;
        let path = CString::new(target.path.as_os_str().as_bytes())?;
        self.attached = Some((target.pid, link(&program, &path, &offsets)?));
        for offset in offsets {
            wait_until_probed(target.pid, offset, Duration::from_secs(5))?;
        }
        Ok(())
    }

    fn detach(&mut self, _: u64) -> Result<()> {
        let Some((pid, link)) = self.attached.take() else { return Ok(()) };
        drop(link);
        wait_until_clean(pid, Duration::from_secs(5))
    }
}

/// `struct bpf_insn`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const R0: u8 = 0;
const R1: u8 = 1;
const R2: u8 = 2;
const R3: u8 = 3;
/// The context, kept.
const R6: u8 = 6;
const FRAME: u8 = 10;

#[derive(Default)]
struct Code(Vec<Instruction>);

impl Code {
    fn push(&mut self, code: u8, to: u8, from: u8, offset: i16, immediate: i32) {
        if self.0.is_empty() {
            self.0.push(Instruction { code: 0xbf, registers: R1 << 4 | R6, offset: 0, immediate: 0 });
        }
        self.0.push(Instruction { code, registers: from << 4 | to, offset, immediate });
    }

    /// `to = from`
    fn copy(&mut self, to: u8, from: u8) {
        self.push(0xbf, to, from, 0, 0);
    }

    /// `to = immediate`
    fn set(&mut self, to: u8, immediate: i32) {
        self.push(0xb7, to, 0, 0, immediate);
    }

    fn call(&mut self, helper: i32) {
        self.push(0x85, 0, 0, 0, helper);
    }

    /// `to = frame + offset`
    fn frame(&mut self, to: u8, offset: i16) {
        self.copy(to, FRAME);
        self.push(0x07, to, 0, 0, i32::from(offset));
    }

    /// A key of zeros, as long as a map's, and its look-up.
    fn look_up(&mut self, map: RawFd, key_bytes: i16) {
        for at in (1..=key_bytes / 8).map(|word| -8 * word) {
            // *(u64 *)(frame + at) = 0
            self.push(0x7a, FRAME, 0, at, 0);
        }
        // r1 = map, in two halves; 1 says that it is one
        self.push(0x18, R1, 1, 0, map);
        self.push(0, 0, 0, 0, 0);
        self.frame(R2, -key_bytes);
        self.call(MAP_LOOKUP_ELEM);
    }

    /// Reads so many bytes from where the stack pointer points to, to a place so deep in the frame.
    fn read(&mut self, bytes: i16, depth: i16) {
        // r3 = ctx->sp
        self.push(0x79, R3, R6, STACK_POINTER, 0);
        self.frame(R1, -depth);
        self.set(R2, i32::from(bytes));
        self.call(PROBE_READ_USER);
    }

    fn part(&mut self, part: Part, maps: &mut Vec<OwnedFd>) -> Result<()> {
        match part {
            Part::Cookie => {
                self.copy(R1, R6);
                self.call(GET_ATTACH_COOKIE);
            }
            Part::Tgid => self.call(GET_CURRENT_PID_TGID),
            Part::Time => self.call(KTIME_GET_NS),
            Part::Read(bytes) => self.read(bytes, (bytes + 7) / 8 * 8),
            Part::ReadDeep => self.read(24, 64),
            Part::Hash(bytes) | Part::PerCpuHash(bytes) => {
                let kind = if matches!(part, Part::Hash(_)) { BPF_MAP_TYPE_HASH } else { BPF_MAP_TYPE_PERCPU_HASH };
                let map = create(kind, u32::try_from(bytes)?)?;
                put_zeros(&map, usize::try_from(bytes)?)?;
                self.look_up(map.as_raw_fd(), bytes);
                maps.push(map);
            }
            Part::Array => {
                let map = create(BPF_MAP_TYPE_ARRAY, 4)?;
                self.push(0x7a, FRAME, 0, -8, 0);
                self.push(0x18, R1, 1, 0, map.as_raw_fd());
                self.push(0, 0, 0, 0, 0);
                self.frame(R2, -8);
                self.call(MAP_LOOKUP_ELEM);
                maps.push(map);
            }
        }
        Ok(())
    }

    /// `return 0`
    fn end(mut self) -> Vec<Instruction> {
        self.set(R0, 0);
        self.push(0x95, 0, 0, 0, 0);
        self.0
    }
}

/// The part of `union bpf_attr` that `BPF_MAP_CREATE` reads.
#[repr(C)]
struct MapAttributes {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

fn create(kind: u32, key_size: u32) -> Result<OwnedFd> {
    let attributes = MapAttributes { kind, key_size, value_size: 64, max_entries: 1024, flags: 0 };
    bpf(BPF_MAP_CREATE, &attributes).context("making a map")
}

/// The part of `union bpf_attr` that `BPF_MAP_UPDATE_ELEM` reads.
#[repr(C)]
struct ElementAttributes {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

fn put_zeros(map: &OwnedFd, key_bytes: usize) -> Result<()> {
    const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
    // A per-CPU map takes a value for each possible CPU.
    let (key, value) = (vec![0u8; key_bytes], vec![0u8; 64 * 4096]);
    let attributes = ElementAttributes {
        map: map.as_raw_fd().cast_unsigned(),
        padding: 0,
        key: key.as_ptr().expose_provenance() as u64,
        value: value.as_ptr().expose_provenance() as u64,
        flags: 0,
    };
    call(BPF_MAP_UPDATE_ELEM, &attributes).map(|_| ()).context("writing to a map")
}

/// The part of `union bpf_attr` that `BPF_PROG_LOAD` reads.
#[repr(C)]
struct ProgramAttributes {
    kind: u32,
    instructions: u32,
    code: u64,
    licence: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attach_type: u32,
}

fn load(code: &[Instruction]) -> Result<OwnedFd> {
    let mut log = vec![0u8; 1 << 16];
    let attributes = ProgramAttributes {
        kind: BPF_PROG_TYPE_KPROBE,
        instructions: u32::try_from(code.len())?,
        code: code.as_ptr().expose_provenance() as u64,
        licence: c"GPL".as_ptr().expose_provenance() as u64,
        log_level: 1,
        log_size: u32::try_from(log.len())?,
        log: log.as_mut_ptr().expose_provenance() as u64,
        kernel_version: 0,
        flags: 0,
        name: *b"bench_raw\0\0\0\0\0\0\0",
        interface: 0,
        expected_attach_type: BPF_TRACE_UPROBE_MULTI,
    };
    bpf(BPF_PROG_LOAD, &attributes).with_context(|| String::from_utf8_lossy(&log).trim_matches('\0').to_owned())
}

/// The part of `union bpf_attr` that `BPF_LINK_CREATE` reads for uprobe_multi.
#[repr(C)]
struct LinkAttributes {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    path: u64,
    offsets: u64,
    reference_counters: u64,
    cookies: u64,
    count: u32,
    multi_flags: u32,
    pid: u32,
    padding: u32,
}

fn link(program: &OwnedFd, path: &CString, offsets: &[u64]) -> Result<OwnedFd> {
    let cookies = vec![1u64; offsets.len()];
    let attributes = LinkAttributes {
        program: program.as_raw_fd().cast_unsigned(),
        target: 0,
        attach_type: BPF_TRACE_UPROBE_MULTI,
        flags: 0,
        path: path.as_ptr().expose_provenance() as u64,
        offsets: offsets.as_ptr().expose_provenance() as u64,
        reference_counters: 0,
        cookies: cookies.as_ptr().expose_provenance() as u64,
        count: u32::try_from(offsets.len())?,
        multi_flags: 0,
        pid: 0,
        padding: 0,
    };
    bpf(BPF_LINK_CREATE, &attributes).context("attaching a program of a few instructions (uprobe_multi, kernel 6.6)")
}

fn bpf<A>(command: libc::c_int, attributes: &A) -> io::Result<OwnedFd> {
    let fd = call(command, attributes)?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just handed it out, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn call<A>(command: libc::c_int, attributes: &A) -> io::Result<libc::c_long> {
    // SAFETY: `attributes` is laid out as the command wants it, of the size it is said to be; what it points to outlives
    // the call, in which alone the kernel uses it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
