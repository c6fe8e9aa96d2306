//! An independent count of how often an instruction is reached: the kernel's own uprobe event counter, no eBPF and
//! nothing of parkranger's.
//!
//! A uprobe event bound to a process counts only on the one thread it was opened for, and Go starts threads when it
//! likes. So the event is opened for every process (`pid` −1) once per CPU, and the counts are added up: that is
//! exact, whatever threads there are. It counts every process that runs the file, so a test that wants the count of
//! its own target gives the target a copy of the executable (`Fixture::private_copy`), which is an inode of its own.

#![allow(unsafe_code, reason = "perf_event_open has no safe interface")]

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::FromRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};

/// Where the kernel says which number its uprobe events have.
pub const PMU_TYPE: &str = "/sys/bus/event_source/devices/uprobe/type";

/// `struct perf_event_attr` of `linux/perf_event.h`, in its first published size (`PERF_ATTR_SIZE_VER1`, which has
/// `config2`): what a bare counter needs.
#[repr(C)]
#[derive(Default)]
struct PerfEventAttr {
    kind: u32, // `type`
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    config1: u64, // uprobe_path: address of the path
    config2: u64, // probe_offset: offset in that file
}

/// `PERF_FLAG_FD_CLOEXEC`
const CLOSE_ON_EXEC: libc::c_ulong = 1 << 3;

/// Counts from its opening until it is dropped. Dropping takes some 0.1 s per CPU: the kernel waits out its readers.
#[derive(Debug)]
pub struct KernelCount {
    per_cpu: Vec<File>,
}

impl KernelCount {
    /// Starts to count how often any process reaches the instruction at this offset of the file.
    ///
    /// # Errors
    /// When the kernel refuses: not root, no such instruction boundary, no uprobes.
    pub fn open(path: &Path, file_offset: u64) -> Result<KernelCount> {
        let kind = std::fs::read_to_string(PMU_TYPE).context(PMU_TYPE)?.trim().parse()?;
        let c_path = CString::new(path.as_os_str().as_bytes())?;
        let attr = PerfEventAttr {
            kind,
            size: u32::try_from(size_of::<PerfEventAttr>())?,
            config1: c_path.as_ptr().addr() as u64,
            config2: file_offset,
            ..PerfEventAttr::default()
        };
        let mut per_cpu = Vec::new();
        for cpu in online_cpus()? {
            // SAFETY: attr is a perf_event_attr of the size it states, and c_path outlives the call, in which the
            // kernel copies the path. The result is checked before it is used as a file descriptor.
            let fd = unsafe {
                libc::syscall(libc::SYS_perf_event_open, &raw const attr, -1 as libc::pid_t, cpu, -1, CLOSE_ON_EXEC)
            };
            let fd = i32::try_from(fd)?;
            if fd < 0 {
                let error = std::io::Error::last_os_error();
                return Err(error).with_context(|| format!("counting {} at {file_offset:#x}", path.display()));
            }
            // SAFETY: fd is a fresh descriptor that nothing else owns.
            per_cpu.push(unsafe { File::from_raw_fd(fd) });
        }
        Ok(KernelCount { per_cpu })
    }

    /// Hits so far. A hit is counted before the instruction runs.
    ///
    /// # Errors
    /// When a counter cannot be read.
    pub fn read(&mut self) -> Result<u64> {
        let mut sum = 0;
        for counter in &mut self.per_cpu {
            let mut value = [0; 8];
            counter.read_exact(&mut value)?;
            sum += u64::from_ne_bytes(value);
        }
        Ok(sum)
    }
}

/// Parses a CPU list such as `0-3,8`.
fn online_cpus() -> Result<Vec<i32>> {
    let list = std::fs::read_to_string("/sys/devices/system/cpu/online")?;
    let mut cpus = Vec::new();
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        cpus.extend(first.parse::<i32>()?..=last.parse()?);
    }
    Ok(cpus)
}
