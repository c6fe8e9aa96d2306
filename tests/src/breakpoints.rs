//! What uprobes have changed in the code of a live process: its executable memory beside the file it came from.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// x86-64 `int3`, which the kernel puts over the first byte of a probed instruction.
pub const INT3: u8 = 0xcc;

/// An executable mapping of a process's own executable.
struct Mapping {
    start: u64,
    end: u64,
    offset: u64,
}

/// Offsets in the executable file where the process's code differs from it.
///
/// # Errors
/// When the process is gone or cannot be read.
pub fn changed_offsets(pid: u32) -> Result<Vec<u64>> {
    let memory = File::open(format!("/proc/{pid}/mem")).with_context(|| format!("memory of process {pid}"))?;
    let file = File::open(format!("/proc/{pid}/exe"))?;
    let mut changed = Vec::new();
    for mapping in executable_mappings(pid)? {
        let size = usize::try_from(mapping.end - mapping.start)?;
        let mut live = vec![0; size];
        memory.read_exact_at(&mut live, mapping.start)?;
        // The last page goes on beyond the end of the file's part of it: those bytes are whatever the file has there.
        let mut original = live.clone();
        let read = file.read_at(&mut original, mapping.offset)?;
        for (at, (live, original)) in live.iter().zip(&original).take(read).enumerate() {
            if live != original {
                changed.push(mapping.offset + u64::try_from(at)?);
            }
        }
    }
    Ok(changed)
}

/// The byte of the process's code that came from this offset of its executable file.
///
/// # Errors
/// When the process is gone, cannot be read, or does not map that offset executably.
pub fn live_byte(pid: u32, file_offset: u64) -> Result<u8> {
    let memory = File::open(format!("/proc/{pid}/mem")).with_context(|| format!("memory of process {pid}"))?;
    for mapping in executable_mappings(pid)? {
        let Some(within) = file_offset.checked_sub(mapping.offset) else { continue };
        if within < mapping.end - mapping.start {
            let mut byte = [0];
            memory.read_exact_at(&mut byte, mapping.start + within)?;
            return Ok(byte[0]);
        }
    }
    bail!("process {pid} does not map offset {file_offset:#x} of its executable as code")
}

/// Waits until a probe is in place at an offset of the executable file.
///
/// # Errors
/// When it is not within `patience`.
pub fn wait_until_probed(pid: u32, file_offset: u64, patience: Duration) -> Result<()> {
    let deadline = Instant::now() + patience;
    while live_byte(pid, file_offset)? != INT3 {
        if Instant::now() > deadline {
            bail!("no breakpoint at {file_offset:#x} of process {pid} after {patience:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Waits until the process's code is what its file says: no breakpoint is left.
///
/// # Errors
/// When that is not so within `patience`: where it differs.
pub fn wait_until_clean(pid: u32, patience: Duration) -> Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        let changed = changed_offsets(pid)?;
        if changed.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("process {pid} still differs from its file at {changed:#x?} after {patience:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits for them where need be: whoever started a process can be back before its program is mapped.
fn executable_mappings(pid: u32) -> Result<Vec<Mapping>> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let mappings = mapped_code(pid)?;
        if !mappings.is_empty() {
            return Ok(mappings);
        }
        ensure!(Instant::now() < deadline, "process {pid} has no code of its executable mapped");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn mapped_code(pid: u32) -> Result<Vec<Mapping>> {
    let executable: PathBuf = std::fs::read_link(format!("/proc/{pid}/exe"))?;
    let executable = executable.to_str().context("a path that is not text")?;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let mut mappings = Vec::new();
    for line in maps.lines() {
        // start-end perms offset dev inode   path
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [range, permissions, offset, _, _, path] = fields[..] else { continue };
        if path != executable || !permissions.contains('x') {
            continue;
        }
        let (start, end) = range.split_once('-').context("a range in /proc/PID/maps")?;
        mappings.push(Mapping {
            start: u64::from_str_radix(start, 16)?,
            end: u64::from_str_radix(end, 16)?,
            offset: u64::from_str_radix(offset, 16)?,
        });
    }
    Ok(mappings)
}
