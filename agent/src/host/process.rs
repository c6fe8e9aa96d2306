//! One process: its identity, its executable, where the executable was loaded.
//!
//! A process may end, or become another program, between any two reads. Every answer says so instead of guessing.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::address::{Bias, RuntimeAddr, VirtAddr};

/// Why a process could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// It has ended, or never was.
    #[error("there is no process {pid}")]
    NoSuchProcess {
        /// The pid asked for.
        pid: u32,
    },
    /// A kernel thread, or a process on its way out: it has no executable.
    #[error("process {pid} has no executable (a kernel thread, or it is exiting)")]
    NoExecutable {
        /// The pid asked for.
        pid: u32,
    },
    /// Not ours to look at.
    #[error("not permitted to look at process {pid}: {}", why_not_permitted())]
    NotPermitted {
        /// The pid asked for.
        pid: u32,
    },
    /// /proc says something this agent does not understand.
    #[error("cannot read {path}: {why}")]
    Unreadable {
        /// The file in /proc.
        path: PathBuf,
        /// The reason it is refused.
        why: String,
    },
}

impl HostError {
    /// Reason for which a command about the whole host leaves a process out, to be counted and said; `None` where there is
    /// nothing to look at: it has ended, or it is a kernel thread.
    #[must_use]
    pub fn left_out(&self) -> Option<String> {
        match self {
            Self::NoSuchProcess { .. } | Self::NoExecutable { .. } => None,
            Self::NotPermitted { .. } => Some(format!("not permitted: {}", why_not_permitted())),
            // Without the path: it has the pid, and every process would be a reason of its own.
            Self::Unreadable { path, why } => {
                let file = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
                Some(format!("/proc/PID/{file} cannot be read: {why}"))
            }
        }
    }
}

/// Reason for a refusal by the kernel, and where there is one the way out.
fn why_not_permitted() -> &'static str {
    if nix::unistd::geteuid().is_root() {
        "the kernel refuses it to root, too (CAP_SYS_PTRACE is missing, a security module forbids it, or the process is \
         not of this user namespace)"
    } else {
        "run as root"
    }
}

/// A process and not another one with its pid: a pid alone is reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// The pid (tgid).
    pub pid: u32,
    /// When it was started: clock ticks since boot, field 22 of /proc/PID/stat. A tick is 10 ms on both architectures
    /// (USER_HZ of the kernel's include/asm-generic/param.h).
    pub start_time: u64,
}

impl Identity {
    /// When it was started, since boot.
    #[must_use]
    pub fn since_boot(self) -> Duration {
        Duration::from_millis(self.start_time.saturating_mul(10))
    }
}

/// One thread's share of the processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadTime {
    /// Nanoseconds on a processor so far.
    pub ran_ns: u64,
    /// It waits for something, or is stopped.
    pub sleeps: bool,
}

/// /proc, or a folder that looks like it.
#[derive(Clone, Debug)]
pub struct Proc {
    root: PathBuf,
}

impl Default for Proc {
    fn default() -> Self {
        Self { root: PathBuf::from("/proc") }
    }
}

impl Proc {
    /// A /proc at `root`.
    #[must_use]
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// The path it is mounted at.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// True where the agent sees the pids that the kernel side sees: those of the initial pid namespace. Also where that
    /// cannot be told.
    #[must_use]
    pub fn is_initial_pid_namespace(&self) -> bool {
        /// PROC_PID_INIT_INO of the kernel's include/linux/proc_ns.h.
        const INITIAL: &str = "pid:[4026531836]";
        fs::read_link(self.root.join("self/ns/pid")).map_or(true, |namespace| namespace.as_os_str() == INITIAL)
    }

    /// All pids there are now, in order.
    ///
    /// # Errors
    ///
    /// [`HostError::Unreadable`].
    pub fn pids(&self) -> Result<Vec<u32>, HostError> {
        let unreadable = |error: io::Error| HostError::Unreadable { path: self.root.clone(), why: error.to_string() };
        let mut pids: Vec<u32> = fs::read_dir(&self.root)
            .map_err(unreadable)?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        pids.sort_unstable();
        Ok(pids)
    }

    /// The process that has `pid` now. A zombie counts as gone: it will never run again.
    ///
    /// # Errors
    ///
    /// [`HostError::NoSuchProcess`], [`HostError::NotPermitted`], [`HostError::Unreadable`].
    pub fn identity(&self, pid: u32) -> Result<Identity, HostError> {
        let path = self.path(pid, "stat");
        let stat = fs::read(&path).map_err(|error| host_error(pid, &path, &error))?;
        let stat = String::from_utf8_lossy(&stat);
        let malformed = || HostError::Unreadable { path: path.clone(), why: "not in the form of proc(5)".to_owned() };
        // The command is in parentheses and may hold any bytes, even parentheses: a name cut in the middle of a letter is
        // no UTF-8.
        let (_, fields) = stat.rsplit_once(") ").ok_or_else(malformed)?;
        let mut fields = fields.split(' ');
        let state = fields.next().ok_or_else(malformed)?;
        // Field 3 was the state; 22 is 18 further on.
        let start_time = fields.nth(18).and_then(|field| field.parse().ok()).ok_or_else(malformed)?;
        if matches!(state, "Z" | "X") && self.threads(pid) <= 1 {
            return Err(HostError::NoSuchProcess { pid });
        }
        Ok(Identity { pid, start_time })
    }

    /// True where `pid` is stopped by a signal or by a debugger: none of its threads runs until it is continued.
    #[must_use]
    pub fn is_stopped(&self, pid: u32) -> bool {
        let Ok(stat) = fs::read(self.path(pid, "stat")) else { return false };
        let stat = String::from_utf8_lossy(&stat);
        stat.rsplit_once(") ").is_some_and(|(_, fields)| fields.starts_with(['T', 't']))
    }

    /// Opens the executable of `pid`: the file that runs, whatever its path says by now.
    ///
    /// # Errors
    ///
    /// [`HostError::NoSuchProcess`], [`HostError::NoExecutable`], [`HostError::NotPermitted`],
    /// [`HostError::Unreadable`].
    pub fn open_executable(&self, pid: u32) -> Result<Arc<File>, HostError> {
        let path = self.path(pid, "exe");
        match File::open(&path) {
            Ok(file) => Ok(Arc::new(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.identity(pid)?;
                Err(HostError::NoExecutable { pid })
            }
            Err(error) => Err(host_error(pid, &path, &error)),
        }
    }

    /// The executable's path as the process sees it; " (deleted)" is the kernel's own mark.
    ///
    /// # Errors
    ///
    /// As [`Proc::open_executable`].
    pub fn executable_path(&self, pid: u32) -> Result<PathBuf, HostError> {
        let path = self.path(pid, "exe");
        fs::read_link(&path).map_err(|error| host_error(pid, &path, &error))
    }

    /// The load bias of the executable of `pid`, given where its program headers are in the file's
    /// own addresses. The kernel tells every program where they ended up (AT_PHDR, in /proc/PID/auxv).
    ///
    /// # Errors
    ///
    /// [`HostError::NoSuchProcess`], [`HostError::NotPermitted`], [`HostError::Unreadable`].
    pub fn bias(&self, pid: u32, program_headers: VirtAddr) -> Result<Bias, HostError> {
        const AT_PHDR: u64 = 3;
        let path = self.path(pid, "auxv");
        let auxv = fs::read(&path).map_err(|error| host_error(pid, &path, &error))?;
        let mut words = auxv.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default()));
        while let (Some(kind), Some(value)) = (words.next(), words.next()) {
            if kind == AT_PHDR {
                return Ok(Bias(RuntimeAddr(value).0.wrapping_sub(program_headers.0)));
            }
        }
        Err(HostError::Unreadable { path, why: "it does not say where the program headers are (AT_PHDR)".to_owned() })
    }

    /// When the host was started, to the second; `None` where /proc/stat does not say.
    #[must_use]
    pub fn boot_time(&self) -> Option<SystemTime> {
        const MAX_STAT_BYTES: u64 = 4 << 20;
        let mut stat = String::new();
        File::open(self.root.join("stat")).ok()?.take(MAX_STAT_BYTES).read_to_string(&mut stat).ok()?;
        let seconds = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    }

    /// The start of a file of /proc/PID, no more than `limit_bytes`: its length is up to the process.
    pub(super) fn read_limited(&self, pid: u32, file: &str, limit_bytes: u64) -> Result<Vec<u8>, HostError> {
        let path = self.path(pid, file);
        let mut bytes = Vec::new();
        File::open(&path)
            .and_then(|file| file.take(limit_bytes).read_to_end(&mut bytes))
            .map_err(|error| host_error(pid, &path, &error))?;
        Ok(bytes)
    }

    /// The CPU time of each thread of `pid`, in ns. Empty where the kernel does not say.
    #[must_use]
    pub fn thread_times(&self, pid: u32) -> Vec<(u32, u64)> {
        let Ok(threads) = fs::read_dir(self.path(pid, "task")) else { return Vec::new() };
        let tids = threads.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        tids.filter_map(|tid| Some((tid, self.thread_time(pid, tid)?.ran_ns))).collect()
    }

    /// The CPU time of one thread, and whether it sleeps. `None` where it is gone or the kernel does not say.
    #[must_use]
    pub fn thread_time(&self, pid: u32, tid: u32) -> Option<ThreadTime> {
        let task = self.path(pid, "task").join(tid.to_string());
        let schedstat = fs::read_to_string(task.join("schedstat")).ok()?;
        let ran_ns = schedstat.split(' ').next()?.trim().parse().ok()?;
        let stat = fs::read(task.join("stat")).ok()?;
        let stat = String::from_utf8_lossy(&stat);
        let sleeps = !stat.rsplit_once(") ")?.1.starts_with('R');
        Some(ThreadTime { ran_ns, sleeps })
    }

    fn threads(&self, pid: u32) -> usize {
        fs::read_dir(self.path(pid, "task")).map_or(0, Iterator::count)
    }

    pub(super) fn path(&self, pid: u32, file: &str) -> PathBuf {
        self.root.join(pid.to_string()).join(file)
    }
}

pub(super) fn host_error(pid: u32, path: &Path, error: &io::Error) -> HostError {
    match error.kind() {
        io::ErrorKind::NotFound => HostError::NoSuchProcess { pid },
        io::ErrorKind::PermissionDenied => HostError::NotPermitted { pid },
        _ if error.raw_os_error() == Some(libc::ESRCH) => HostError::NoSuchProcess { pid },
        _ => HostError::Unreadable { path: path.to_owned(), why: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fake(files: &[(&str, &[u8])]) -> (tempfile::TempDir, Proc) {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let proc = Proc::at(dir.path().to_owned());
        (dir, proc)
    }

    #[test]
    fn a_command_may_hold_parentheses_and_spaces() {
        let stat = b"7 (a) S (b) R 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 0 0 18446744073709551615\n";
        let (_dir, proc) = fake(&[("7/stat", stat)]);
        assert_eq!(proc.identity(7).unwrap(), Identity { pid: 7, start_time: 4242 });
    }

    #[test]
    fn a_command_is_bytes() {
        // "orderservice-nö" as the kernel keeps it: 15 bytes, the last letter cut in its middle.
        let stat = b"7 (orderservice-n\xc3) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 0 0 0\n";
        let files: [(&str, &[u8]); 4] = [
            ("7/stat", stat),
            ("7/task/9/stat", stat),
            ("7/task/9/schedstat", b"5 6 7\n"),
            ("7/comm", b"orderservice-n\xc3\n"),
        ];
        let (_dir, proc) = fake(&files);
        assert_eq!(proc.identity(7).unwrap(), Identity { pid: 7, start_time: 4242 });
        assert_eq!(proc.thread_time(7, 9), Some(ThreadTime { ran_ns: 5, sleeps: true }));
        assert_eq!(proc.comm(7).unwrap(), "orderservice-n\u{fffd}");
    }

    #[test]
    fn a_stopped_process_is_told_from_one_that_runs() {
        let stat = |state: char| format!("7 (x) T) {state} 1 7 7 0 -1 0 1 0 0 0 0 0 0 0 20 0 1 0 4242 0 0 0\n");
        let (stopped, traced, runs) = (stat('T'), stat('t'), stat('S'));
        let (_dir, proc) =
            fake(&[("7/stat", stopped.as_bytes()), ("8/stat", traced.as_bytes()), ("9/stat", runs.as_bytes())]);
        assert_eq!([7, 8, 9, 10].map(|pid| proc.is_stopped(pid)), [true, true, false, false]);
    }

    #[test]
    fn what_is_left_out_has_a_reason_and_root_is_not_told_to_be_root() {
        let unreadable =
            |pid: u32| HostError::Unreadable { path: format!("/proc/{pid}/maps").into(), why: "EIO".into() };
        assert_eq!(unreadable(1).left_out(), unreadable(2).left_out(), "one reason, not one for each process");
        assert_eq!(HostError::NoSuchProcess { pid: 1 }.left_out(), None);
        let said = HostError::NotPermitted { pid: 1 }.to_string();
        assert_eq!(said.contains("run as root"), !nix::unistd::geteuid().is_root(), "{said}");
    }

    #[test]
    fn a_pid_namespace_of_ones_own_is_noticed() {
        let (dir, proc) = fake(&[("self/x", b"")]);
        assert!(proc.is_initial_pid_namespace(), "unknown");
        fs::create_dir_all(dir.path().join("self/ns")).unwrap();
        std::os::unix::fs::symlink("pid:[4026532201]", dir.path().join("self/ns/pid")).unwrap();
        assert!(!proc.is_initial_pid_namespace());
    }

    #[test]
    fn a_zombie_is_gone() {
        let stat = b"7 (x) Z 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 0 0 0\n";
        let (_dir, proc) = fake(&[("7/stat", stat), ("7/task/7/stat", b"")]);
        assert!(matches!(proc.identity(7), Err(HostError::NoSuchProcess { pid: 7 })));
    }

    #[test]
    fn the_bias_comes_from_the_auxiliary_vector() {
        let words: Vec<u8> =
            [16u64, 0xff, 3, 0x5555_0000_0040, 0, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
        let (_dir, proc) = fake(&[("7/auxv", &words), ("8/auxv", b"")]);
        assert_eq!(proc.bias(7, VirtAddr(0x40)).unwrap(), Bias(0x5555_0000_0000));
        assert!(matches!(proc.bias(8, VirtAddr(0x40)), Err(HostError::Unreadable { .. })));
        assert!(matches!(proc.bias(9, VirtAddr(0x40)), Err(HostError::NoSuchProcess { pid: 9 })));
    }

    #[test]
    fn nonsense_is_an_error() {
        let (_dir, proc) = fake(&[("7/stat", b"7 (x"), ("8/stat", b"8 (x) S 1")]);
        assert!(matches!(proc.identity(7), Err(HostError::Unreadable { .. })));
        assert!(matches!(proc.identity(8), Err(HostError::Unreadable { .. })));
        assert!(matches!(proc.identity(9), Err(HostError::NoSuchProcess { pid: 9 })));
        assert_eq!(proc.pids().unwrap(), [7, 8]);
    }
}
