//! The control group of a process: the container or systemd unit it belongs to, and the limits it runs under.
//!
//! Both versions of control groups are read. The names in a path are chosen by whoever made the groups, which may be a
//! container: they are compared and shown, and a path with a part that leads upwards is not followed.

use std::{
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
};

use super::{HostError, Proc};
use crate::printable;

const MAX_CGROUP_BYTES: u64 = 64 << 10;
const MAX_LIMIT_BYTES: u64 = 256;
const MAX_NAME_CHARACTERS: usize = 256;
/// Deeper than any hierarchy seen; a limit may stand on every level.
const MAX_LEVELS: usize = 32;
/// cgroup v1 writes "no memory limit" as the largest multiple of a page.
const NO_LIMIT_FROM: u64 = 1 << 62;

/// Where a process belongs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroup {
    /// The paths by version 1 controller; the one of version 2 is under "".
    paths: Vec<(String, String)>,
}

/// The same in names that people and their tools use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The container's id.
    pub container: Option<String>,
    /// The uid of the Kubernetes pod.
    pub pod: Option<String>,
    /// The systemd unit.
    pub unit: Option<String>,
}

/// Resources a process may use, counting every level above it. `None` where there is no limit or it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// CPUs: quota over period.
    pub cpu: Option<f64>,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
}

impl Cgroup {
    /// Reads the lines `id:controllers:path`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut paths = Vec::new();
        for line in text.lines() {
            let mut fields = line.splitn(3, ':');
            if let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) {
                paths.extend(controllers.split(',').map(|controller| (controller.to_owned(), path.to_owned())));
            }
        }
        Self { paths }
    }

    /// The id of the container: 64 hex digits in the name of a group, as every runtime has them (`docker-ID.scope`,
    /// `/kubepods/…/ID`, `cri-containerd-ID.scope`, `libpod-ID.scope`). The innermost, where containers nest.
    #[must_use]
    pub fn container_id(&self) -> Option<&str> {
        const ID_DIGITS: usize = 64;
        self.parts().rev().find_map(|part| {
            let part = part.strip_suffix(".scope").unwrap_or(part);
            let id = part.rsplit(['-', ':']).next()?;
            (id.len() == ID_DIGITS && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
        })
    }

    /// The uid of the Kubernetes pod: behind "pod" in the name of a group, with underscores where systemd made the group
    /// (`kubepods-burstable-podUID.slice`, `/kubepods/burstable/podUID/…`).
    #[must_use]
    pub fn pod_uid(&self) -> Option<String> {
        const UID_CHARACTERS: usize = 36;
        self.parts().rev().find_map(|part| {
            let part = part.strip_suffix(".slice").unwrap_or(part);
            let (_, uid) = part.rsplit_once("pod").filter(|(before, _)| before.is_empty() || before.ends_with('-'))?;
            let uid = uid.replace('_', "-");
            let is_uid = uid.len() == UID_CHARACTERS
                && uid.char_indices().all(|(at, c)| match at {
                    8 | 13 | 18 | 23 => c == '-',
                    _ => c.is_ascii_hexdigit(),
                });
            is_uid.then_some(uid)
        })
    }

    /// The path of its group in each hierarchy.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.paths.iter().map(|(_, path)| path.as_str())
    }

    /// All names there are for where the process belongs.
    #[must_use]
    pub fn place(&self) -> Place {
        Place { container: self.container_id().map(str::to_owned), pod: self.pod_uid(), unit: self.unit() }
    }

    /// The systemd unit: the innermost group called like a service or scope.
    #[must_use]
    pub fn unit(&self) -> Option<String> {
        let unit = self.parts().rev().find(|part| part.ends_with(".service") || part.ends_with(".scope"))?;
        Some(printable::name(&unit.chars().take(MAX_NAME_CHARACTERS).collect::<String>()).into_owned())
    }

    /// The names of all groups, outermost first.
    fn parts(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.paths.iter().flat_map(|(_, path)| path.split('/')).filter(|part| !part.is_empty())
    }

    /// The limits, read below `root` (usually /sys/fs/cgroup).
    #[must_use]
    pub fn limits(&self, root: &Path) -> Limits {
        let mut limits = Limits::default();
        for (controller, path) in &self.paths {
            let folder = if controller.is_empty() { root.to_owned() } else { root.join(controller) };
            // A hybrid system mounts version 2 beside the controllers of version 1.
            let folder =
                if controller.is_empty() && root.join("unified").is_dir() { root.join("unified") } else { folder };
            for level in levels(&folder, path) {
                let cpu = match controller.as_str() {
                    "" => read(&level.join("cpu.max")).and_then(|text| quota(&text)),
                    "cpu" => read(&level.join("cpu.cfs_quota_us"))
                        .zip(read(&level.join("cpu.cfs_period_us")))
                        .and_then(|(quota_us, period_us)| quota(&format!("{quota_us} {period_us}"))),
                    _ => None,
                };
                let memory = match controller.as_str() {
                    "" => read(&level.join("memory.max")),
                    "memory" => read(&level.join("memory.limit_in_bytes")),
                    _ => None,
                };
                let memory = memory.and_then(|text| text.parse().ok()).filter(|&bytes: &u64| bytes < NO_LIMIT_FROM);
                limits.cpu = smaller(limits.cpu, cpu, f64::min);
                limits.memory_bytes = smaller(limits.memory_bytes, memory, u64::min);
            }
        }
        limits
    }
}

fn smaller<T: Copy>(a: Option<T>, b: Option<T>, min: fn(T, T) -> T) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(min(a, b)),
        (a, b) => a.or(b),
    }
}

/// A group's folder and those above it, up to the root of the hierarchy.
fn levels(root: &Path, path: &str) -> Vec<PathBuf> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).take(MAX_LEVELS).collect();
    // A group outside the agent's own cgroup namespace is shown as /../…: not to be found from here.
    if parts.iter().any(|part| *part == ".." || *part == ".") {
        return Vec::new();
    }
    let mut levels = vec![root.to_owned()];
    for part in parts {
        levels.push(levels.last().map_or_else(PathBuf::new, |level| level.join(part)));
    }
    levels
}

/// `quota period` in microseconds; "max" and -1 are no limit.
fn quota(text: &str) -> Option<f64> {
    let (quota, period) = text.split_once(' ')?;
    let (quota, period) = (quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?);
    (period > 0).then(|| quota as f64 / period as f64)
}

fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(MAX_LIMIT_BYTES).read_to_string(&mut text).ok()?;
    Some(text.trim().to_owned())
}

impl Proc {
    /// The control groups of `pid`.
    ///
    /// # Errors
    ///
    /// [`HostError::NoSuchProcess`], [`HostError::NotPermitted`], [`HostError::Unreadable`].
    pub fn cgroup(&self, pid: u32) -> Result<Cgroup, HostError> {
        Ok(Cgroup::parse(&String::from_utf8_lossy(&self.read_limited(pid, "cgroup", MAX_CGROUP_BYTES)?)))
    }

    /// The mount point of the hierarchies, as the agent sees it: beside the /proc that is read.
    #[must_use]
    pub fn cgroup_root(&self) -> PathBuf {
        let beside = self.root().parent().unwrap_or(Path::new("/")).join("sys/fs/cgroup");
        fs::canonicalize(&beside).unwrap_or(beside)
    }

    /// The number of CPUs `pid` may run on: its affinity.
    ///
    /// # Errors
    ///
    /// [`HostError::NoSuchProcess`], [`HostError::NotPermitted`], [`HostError::Unreadable`].
    pub fn allowed_cpus(&self, pid: u32) -> Result<Option<u32>, HostError> {
        const MAX_STATUS_BYTES: u64 = 64 << 10;
        let status = String::from_utf8_lossy(&self.read_limited(pid, "status", MAX_STATUS_BYTES)?).into_owned();
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        Ok(list.map(|list| {
            let ranges = list.trim().split(',').filter_map(|range| {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
                last.checked_sub(first).map(|distance| distance.saturating_add(1))
            });
            ranges.fold(0, u32::saturating_add)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn containers_of_all_runtimes_are_known() {
        for path in [
            format!("0::/system.slice/docker-{ID}.scope"),
            format!("0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope"),
            format!("4:memory:/kubepods/burstable/pod9/{ID}"),
            format!("0::/machine.slice/libpod-{ID}.scope/container"),
            format!("0::/kubepods-besteffort-pod2.slice:cri-containerd:{ID}"),
        ] {
            assert_eq!(Cgroup::parse(&path).container_id(), Some(ID), "{path}");
        }
        assert_eq!(Cgroup::parse("0::/user.slice/user-1000.slice/session-2.scope").container_id(), None);
        assert_eq!(Cgroup::parse("0::/").container_id(), None);
    }

    #[test]
    fn pods_are_known_by_their_uid() {
        let pod = |text: &str| Cgroup::parse(text).pod_uid();
        let uid = "0a1b2c3d-1111-2222-3333-444455556666";
        let slice = format!("kubepods-burstable-pod{}.slice", uid.replace('-', "_"));
        assert_eq!(pod(&format!("0::/kubepods.slice/{slice}/cri-containerd-{ID}.scope")).as_deref(), Some(uid));
        assert_eq!(pod(&format!("4:memory:/kubepods/besteffort/pod{uid}/{ID}")).as_deref(), Some(uid));
        assert_eq!(pod("0::/kubepods.slice/kubepods-pod1.slice"), None);
        assert_eq!(pod(&format!("0::/system.slice/docker-{ID}.scope")), None);
        assert_eq!(pod("0::/machine.slice/tripod-of-things.scope"), None);
    }

    #[test]
    fn the_innermost_unit_counts() {
        let unit = |text| Cgroup::parse(text).unit();
        assert_eq!(unit("0::/system.slice/api.service"), Some("api.service".to_owned()));
        assert_eq!(
            unit("0::/user.slice/user-1.slice/user@1.service/app.slice/web.service"),
            Some("web.service".to_owned())
        );
        assert_eq!(unit("0::/init"), None);
        assert_eq!(unit("nonsense"), None);
    }

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn the_smallest_limit_of_all_levels_counts() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            &[
                ("a/cpu.max", "50000 100000\n"),
                ("a/memory.max", "max\n"),
                ("a/b/cpu.max", "max 100000\n"),
                ("a/b/memory.max", "1048576\n"),
            ],
        );
        let limits = Cgroup::parse("0::/a/b").limits(root.path());
        assert_eq!(limits, Limits { cpu: Some(0.5), memory_bytes: Some(1 << 20) });
    }

    #[test]
    fn version_one_is_read_and_its_way_to_say_no_limit() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            &[
                ("cpu/c/cpu.cfs_quota_us", "250000\n"),
                ("cpu/c/cpu.cfs_period_us", "100000\n"),
                ("memory/c/memory.limit_in_bytes", "9223372036854771712\n"),
            ],
        );
        let limits = Cgroup::parse("3:cpu,cpuacct:/c\n2:memory:/c\n").limits(root.path());
        assert_eq!(limits, Limits { cpu: Some(2.5), memory_bytes: None });
    }

    #[test]
    fn a_path_that_leads_upwards_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), &[("secret/cpu.max", "1 1\n"), ("x/y", "")]);
        assert_eq!(Cgroup::parse("0::/../secret").limits(&root.path().join("x")), Limits::default());
    }
}
