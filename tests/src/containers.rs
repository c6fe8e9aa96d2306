//! Containers of one image, as far as a tracer sees them: each has a mount namespace of its own with an overlay mount of
//! the same lower folder. `stat` says another device in each; the file below is one.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::executable;

/// The image, with one program in it.
#[derive(Debug)]
pub struct Image {
    directory: TempDir,
    containers: usize,
}

impl Image {
    /// An image that has a copy of `program`.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn of(program: &Path) -> Result<Image> {
        let folder = program.parent().context("a program without a folder")?;
        let directory = tempfile::tempdir_in(folder)?;
        fs::create_dir(directory.path().join("image"))?;
        executable::copy(program, &directory.path().join("image/program"))?;
        Ok(Image { directory, containers: 0 })
    }

    /// The program as it is on the host.
    #[must_use]
    pub fn program(&self) -> PathBuf {
        self.directory.path().join("image/program")
    }

    /// A command that becomes the program in a container of its own. The mount goes when its last process ends.
    ///
    /// # Errors
    /// When folders cannot be made.
    pub fn container(&mut self) -> Result<Command> {
        self.containers += 1;
        let folder = self.directory.path().join(self.containers.to_string());
        for part in ["upper", "work", "root"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let script = "mount -t overlay overlay -o \"lowerdir=$1,upperdir=$2/upper,workdir=$2/work\" \"$2/root\" && \
                      exec \"$2/root/program\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
        command.arg(self.directory.path().join("image")).arg(&folder);
        Ok(command)
    }
}

/// Device and inode of the executable of each of these, as `stat` names them.
///
/// # Errors
/// When one has ended.
pub fn names(pids: &[u32]) -> Result<Vec<(u64, u64)>> {
    let name = |pid: &u32| {
        let metadata = fs::metadata(format!("/proc/{pid}/exe"))?;
        Ok((metadata.dev(), metadata.ino()))
    };
    pids.iter().map(name).collect()
}

/// Runs of a process's eBPF programs, by the kernel's own account. Needs [`BpfStats`].
///
/// # Errors
/// When the process has ended, or nothing of it is accounted for.
pub fn program_runs(pid: u32) -> Result<Runs> {
    let mut programs = Vec::new();
    let mut runs = Runs::default();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let Ok(info) = fs::read_to_string(entry?.path()) else { continue };
        let number = |name: &str| {
            info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse::<u64>().ok())
        };
        // Kprobe programs, which those of uprobes are: `BPF_PROG_TYPE_KPROBE`.
        let (Some(2), Some(program)) = (number("prog_type"), number("prog_id")) else { continue };
        if !programs.contains(&program) {
            programs.push(program);
            runs.count += number("run_cnt").unwrap_or_default();
            runs.ns += number("run_time_ns").unwrap_or_default();
        }
    }
    ensure!(!programs.is_empty(), "process {pid} has no uprobe programs");
    Ok(runs)
}

/// Runs of programs, and their time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Runs {
    /// Number of runs.
    pub count: u64,
    /// Time of all runs in ns, with the kernel's own reading of the clock.
    pub ns: u64,
}

/// Has the kernel account for the runs of eBPF programs, until it is dropped.
#[derive(Debug)]
pub struct BpfStats(String);

const BPF_STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";

impl BpfStats {
    /// # Errors
    /// When the kernel refuses.
    pub fn on() -> Result<BpfStats> {
        let before = fs::read_to_string(BPF_STATS)?;
        fs::write(BPF_STATS, "1")?;
        Ok(BpfStats(before))
    }
}

impl Drop for BpfStats {
    fn drop(&mut self) {
        // Best effort: it costs some ns for each run of a program.
        let _ = fs::write(BPF_STATS, &self.0);
    }
}
