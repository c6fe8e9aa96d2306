//! The memory of another process, read while it runs.
//!
//! Reads go through `process_vm_readv`, many pieces to a system call: the target is not stopped, not traced, and never
//! written to. A piece that cannot be read is missing, never zeroes. A process that ended or became another program
//! between two reads is noticed ([`ProcessMemory::still_there`]): an open /proc/PID/mem belongs to one address space and
//! answers "end of file" once that is gone, whoever has the pid by then.

use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
};

use super::{
    Batch, HostError, Identity, Proc,
    batch::{MAX_CALL_BYTES, Run},
};
use crate::address::RuntimeAddr;

/// Pieces of one system call: UIO_MAXIOV of the kernel's include/uapi/linux/uio.h.
const MAX_PIECES: usize = 1024;

/// Why memory could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The process has ended, or another program runs in it.
    #[error("process {pid} has ended or become another program")]
    Gone {
        /// The process.
        pid: u32,
    },
    /// Not ours to read.
    #[error("not permitted to read the memory of process {pid}: run as root, or with CAP_SYS_PTRACE")]
    NotPermitted {
        /// The process.
        pid: u32,
    },
    /// Nothing is mapped there, or it may not be read.
    #[error("process {pid} has no readable memory at {address} ({bytes} bytes)")]
    Unmapped {
        /// The process.
        pid: u32,
        /// The address of the piece.
        address: RuntimeAddr,
        /// Its length.
        bytes: usize,
    },
    /// The kernel says something else.
    #[error("cannot read the memory of process {pid}: {why}")]
    Failed {
        /// The process.
        pid: u32,
        /// The kernel's answer.
        why: io::Error,
    },
}

/// The memory of one process, or what a test has in its place.
pub trait Memory {
    /// Fills `buf` with what is at `address`, all of it or an error.
    ///
    /// # Errors
    ///
    /// Every [`MemoryError`].
    fn read(&self, address: RuntimeAddr, buf: &mut [u8]) -> Result<(), MemoryError>;

    /// Reads the pieces of `batch`. Pieces that cannot be read stay missing.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Gone`], [`MemoryError::NotPermitted`], [`MemoryError::Failed`]; never
    /// [`MemoryError::Unmapped`].
    fn read_batch(&self, batch: &mut Batch) -> Result<(), MemoryError>;

    /// Checks that it is still the same address space that is read.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Gone`].
    fn still_there(&self) -> Result<(), MemoryError>;

    /// The eight bytes at `address`.
    ///
    /// # Errors
    ///
    /// As [`Memory::read`].
    fn word(&self, address: RuntimeAddr) -> Result<u64, MemoryError> {
        let mut word = [0; 8];
        self.read(address, &mut word)?;
        Ok(u64::from_le_bytes(word))
    }
}

/// The memory of a live process.
#[derive(Debug)]
pub struct ProcessMemory {
    identity: Identity,
    /// Pins the address space, not the memory in it.
    mem: File,
    /// An address that stays mapped as long as the program runs.
    witness: RuntimeAddr,
}

impl ProcessMemory {
    /// The memory of `identity`. `witness` is an address that is always mapped in it, such as its function table's.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Gone`] if the process is another one by now, [`MemoryError::NotPermitted`],
    /// [`MemoryError::Failed`], [`MemoryError::Unmapped`] if the witness is not mapped.
    pub fn open(proc: &Proc, identity: Identity, witness: RuntimeAddr) -> Result<Self, MemoryError> {
        let pid = identity.pid;
        let path = proc.root().join(pid.to_string()).join("mem");
        let mem =
            File::options().read(true).custom_flags(libc::O_CLOEXEC).open(path).map_err(|error| failure(pid, error))?;
        // Only now: whoever has the pid after this is the one whose memory was opened.
        match proc.identity(pid) {
            Ok(now) if now == identity => {}
            Ok(_) | Err(HostError::NoSuchProcess { .. }) => return Err(MemoryError::Gone { pid }),
            Err(error) => return Err(MemoryError::Failed { pid, why: io::Error::other(error) }),
        }
        let memory = Self { identity, mem, witness };
        memory.still_there()?;
        Ok(memory)
    }

    /// The process that the memory is of.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// One call for consecutive runs. How many of them were read whole.
    fn read_runs(&self, runs: &[Run], bytes: &mut [u8]) -> Result<usize, MemoryError> {
        let remote: Vec<libc::iovec> = runs
            .iter()
            .map(|run| libc::iovec { iov_base: run.address as *mut libc::c_void, iov_len: run.bytes })
            .collect();
        let wanted: usize = runs.iter().map(|run| run.bytes).sum();
        debug_assert!(wanted <= bytes.len(), "runs fit their buffer");
        let local = [libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: wanted.min(bytes.len()) }];
        let pid = libc::pid_t::try_from(self.identity.pid).unwrap_or(-1);
        #[allow(unsafe_code, reason = "the one system call that reads another process's memory in pieces")]
        // SAFETY: `local` describes `bytes`, which is exclusively ours and lives through the call; the kernel writes no
        // more than `iov_len` bytes there. `remote` are addresses of the other process, which the kernel checks.
        let read = unsafe {
            libc::process_vm_readv(
                pid,
                local.as_ptr(),
                1,
                remote.as_ptr(),
                libc::c_ulong::try_from(remote.len()).unwrap_or(0),
                0,
            )
        };
        let Ok(mut read) = usize::try_from(read) else {
            let error = io::Error::last_os_error();
            return if error.raw_os_error() == Some(libc::EFAULT) { Ok(0) } else { Err(self.failure(error)) };
        };
        // A run cut short counts as not read: what is behind the cut is not memory of the target.
        let whole = runs.iter().take_while(|run| read.checked_sub(run.bytes).map(|left| read = left).is_some());
        Ok(whole.count())
    }

    fn failure(&self, error: io::Error) -> MemoryError {
        failure(self.identity.pid, error)
    }
}

fn failure(pid: u32, error: io::Error) -> MemoryError {
    match error.raw_os_error() {
        Some(libc::ESRCH | libc::ENOENT) => MemoryError::Gone { pid },
        Some(libc::EPERM | libc::EACCES) => MemoryError::NotPermitted { pid },
        _ => MemoryError::Failed { pid, why: error },
    }
}

impl Memory for ProcessMemory {
    fn read(&self, address: RuntimeAddr, buf: &mut [u8]) -> Result<(), MemoryError> {
        if buf.is_empty() {
            return Ok(());
        }
        let run = Run { address: address.0, bytes: buf.len(), at: 0, pieces: 0..0 };
        match self.read_runs(&[run], buf)? {
            0 => Err(MemoryError::Unmapped { pid: self.identity.pid, address, bytes: buf.len() }),
            _ => Ok(()),
        }
    }

    fn read_batch(&self, batch: &mut Batch) -> Result<(), MemoryError> {
        batch.plan();
        let mut bytes = std::mem::take(&mut batch.bytes);
        let mut next = 0;
        let mut outcome = Ok(());
        while next < batch.runs.len() {
            // As many runs as fit one call.
            let rest = batch.runs.get(next..).unwrap_or_default();
            let mut total = 0;
            let count = rest
                .iter()
                .take(MAX_PIECES)
                .take_while(|run| {
                    total += run.bytes;
                    total <= MAX_CALL_BYTES
                })
                .count()
                .max(1);
            let group = rest.get(..count).unwrap_or_default();
            let start = group.first().map_or(0, |run| run.at);
            let read = bytes.get_mut(start..).map_or(Ok(0), |bytes| self.read_runs(group, bytes));
            match read {
                Ok(read) => {
                    (next..next + read).for_each(|run| batch.done(run));
                    next += read;
                    if read < count {
                        self.read_pieces(batch, next, &mut bytes)?;
                        next += 1;
                    }
                }
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        batch.bytes = bytes;
        outcome
    }

    fn still_there(&self) -> Result<(), MemoryError> {
        let mut byte = [0];
        match self.mem.read_at(&mut byte, self.witness.0) {
            Ok(0) => Err(MemoryError::Gone { pid: self.identity.pid }),
            Ok(_) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EIO) => {
                Err(MemoryError::Unmapped { pid: self.identity.pid, address: self.witness, bytes: 1 })
            }
            Err(error) => Err(self.failure(error)),
        }
    }
}

impl ProcessMemory {
    /// Reads the pieces of a run that could not be read as a whole, one by one.
    fn read_pieces(&self, batch: &mut Batch, run: usize, bytes: &mut [u8]) -> Result<(), MemoryError> {
        let Some(run) = batch.runs.get(run).cloned() else { return Ok(()) };
        if run.pieces.len() < 2 {
            return Ok(());
        }
        for &index in batch.order.get(run.pieces.clone()).unwrap_or_default() {
            let Some(piece) = batch.pieces.get_mut(index as usize) else { continue };
            let skip = usize::try_from(piece.address - run.address).unwrap_or(usize::MAX);
            let Some(at) = run.at.checked_add(skip) else { continue };
            let Some(buf) = bytes.get_mut(at..at + piece.bytes as usize) else { continue };
            let alone = Run { address: piece.address, bytes: buf.len(), at, pieces: 0..0 };
            if self.read_runs(&[alone], buf)? == 1 {
                piece.at = Some(at);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own_memory(witness: &u8) -> ProcessMemory {
        let proc = Proc::default();
        let identity = proc.identity(std::process::id()).unwrap();
        ProcessMemory::open(&proc, identity, RuntimeAddr(std::ptr::from_ref(witness) as u64)).unwrap()
    }

    #[test]
    fn pieces_far_and_near_come_back_in_the_order_asked() {
        let data: Vec<u8> = (0..200_000u32).map(|n| (n * 7) as u8).collect();
        let memory = own_memory(&data[0]);
        let base = data.as_ptr() as u64;
        let mut batch = Batch::default();
        let wanted: Vec<(usize, u32)> =
            vec![(150_000, 10), (5, 100), (0, 50), (105, 3), (90_000, 4096), (700, 1), (5, 100)];
        for (at, bytes) in &wanted {
            batch.add(RuntimeAddr(base + *at as u64), *bytes);
        }
        memory.read_batch(&mut batch).unwrap();
        for (piece, (at, bytes)) in wanted.iter().enumerate() {
            assert_eq!(batch.get(piece).unwrap(), &data[*at..at + *bytes as usize]);
        }
        assert!(batch.runs.len() < wanted.len(), "neighbours were merged");
    }

    #[test]
    fn what_is_not_mapped_is_missing_and_spoils_nothing_else() {
        let data = vec![42u8; 8192 * 3];
        let memory = own_memory(&data[0]);
        let mut batch = Batch::default();
        for n in 0..3000u64 {
            let address = if n % 3 == 1 { 8 * n } else { data.as_ptr() as u64 + n * 8 };
            batch.add(RuntimeAddr(address), 8);
        }
        memory.read_batch(&mut batch).unwrap();
        for n in 0..3000 {
            assert_eq!(batch.get(n), if n % 3 == 1 { None } else { Some(&[42u8; 8][..]) }, "piece {n}");
        }
        assert!(matches!(memory.word(RuntimeAddr(8)), Err(MemoryError::Unmapped { .. })));
        assert_eq!(memory.word(RuntimeAddr(data.as_ptr() as u64)).unwrap(), 0x2a2a_2a2a_2a2a_2a2a);
    }

    #[test]
    fn another_process_with_the_pid_is_noticed() {
        let proc = Proc::default();
        let identity = proc.identity(std::process::id()).unwrap();
        let other = Identity { start_time: identity.start_time + 1, ..identity };
        let byte = 1u8;
        let opened = ProcessMemory::open(&proc, other, RuntimeAddr(&raw const byte as u64));
        assert!(matches!(opened, Err(MemoryError::Gone { .. })));
    }

    #[test]
    fn an_ended_process_is_noticed() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let proc = Proc::default();
        let own = proc.executable_path(std::process::id()).unwrap();
        // Until it runs its own program its memory is about to go, and a moment longer its auxiliary vector is empty.
        let at_phdr = loop {
            if proc.executable_path(child.id()).unwrap() == own {
                continue;
            }
            let auxv = std::fs::read(format!("/proc/{}/auxv", child.id())).unwrap();
            let words: Vec<u64> = auxv.as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word)).collect();
            if let Some([_, at_phdr]) = words.as_chunks::<2>().0.iter().find(|pair| pair[0] == 3) {
                break *at_phdr;
            }
        };
        let identity = proc.identity(child.id()).unwrap();
        let memory = ProcessMemory::open(&proc, identity, RuntimeAddr(at_phdr)).unwrap();
        assert!(memory.word(RuntimeAddr(at_phdr)).is_ok());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(memory.still_there(), Err(MemoryError::Gone { .. })));
        assert!(matches!(memory.word(RuntimeAddr(at_phdr)), Err(MemoryError::Gone { .. })));
    }
}
