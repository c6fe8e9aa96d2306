//! The ways to attach that this kernel and these privileges allow. The kernel is asked, not its version: distributions
//! backport.

use std::{fs, path::Path};

use aya::sys::{UProbeMultiFeature, is_uprobe_multi_supported};

use super::KernelError;

/// Ways to attach probes, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Method {
    /// One uprobe_multi link per binary (kernel 6.6).
    #[value(name = "uprobe-multi")]
    UprobeMulti,
    /// Perf-event uprobes with a cookie (kernel 5.15). They detach slowly, about 0.1 s each.
    #[value(name = "perf-cookie")]
    PerfCookie,
    /// Perf-event uprobes without a cookie (kernel 5.8): only listed processes are counted.
    #[value(name = "perf")]
    PerfPlain,
}

impl Method {
    /// All of them, best first.
    pub const ALL: [Self; 3] = [Self::UprobeMulti, Self::PerfCookie, Self::PerfPlain];

    /// The name in `parkranger check`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UprobeMulti => "uprobe_multi",
            Self::PerfCookie => "perf-event uprobes with cookies",
            Self::PerfPlain => "perf-event uprobes",
        }
    }

    /// One sentence on what is worse than with the best way, and why; `None` for the best.
    #[must_use]
    pub const fn fallback(self) -> Option<&'static str> {
        match self {
            Self::UprobeMulti => None,
            Self::PerfCookie => Some(
                "no uprobe_multi links (kernel 6.6): over budget, parks are no longer counted instead of sampled, and \
                 probes take a tenth of a second each to come off",
            ),
            Self::PerfPlain => Some(
                "no uprobe_multi links (kernel 6.6): over budget, parks are no longer counted instead of sampled, and \
                 probes take a tenth of a second each to come off; no attach cookies (kernel 5.15): a process that begins \
                 later is counted from when the agent has found it, not from its first goroutine",
            ),
        }
    }
}

/// The kernel's answers.
#[derive(Clone, Debug)]
pub struct Capability {
    /// `uname -r`.
    pub release: String,
    /// True where the kernel has perf-event uprobes (CONFIG_UPROBE_EVENTS).
    pub perf_uprobes: bool,
    /// True where uprobe_multi links can be made; an error where the kernel would not say.
    pub uprobe_multi: Result<bool, String>,
    /// True where the effective capabilities suffice to load programs.
    pub may_load: bool,
    /// Effective capabilities that matter, by name.
    pub capabilities: Vec<(&'static str, bool)>,
}

/// CAP_* numbers of linux/capability.h.
const CAPABILITIES: [(&str, u32); 5] =
    [("CAP_BPF", 39), ("CAP_PERFMON", 38), ("CAP_SYS_PTRACE", 19), ("CAP_SYS_ADMIN", 21), ("CAP_DAC_READ_SEARCH", 2)];

impl Capability {
    /// Asks the kernel. Needs no privilege; without any, `uprobe_multi` is unknown.
    #[must_use]
    pub fn ask(proc_root: &Path) -> Self {
        let effective = effective_capabilities(proc_root);
        let has = |name: &str| CAPABILITIES.iter().any(|(known, bit)| *known == name && effective >> bit & 1 == 1);
        let may_load = has("CAP_SYS_ADMIN") || has("CAP_BPF") && has("CAP_PERFMON");
        let uprobe_multi = if may_load {
            // Before 5.11 maps count against RLIMIT_MEMLOCK, and so does the program this asks with.
            // Where it stays too low, loading says so.
            let _ = super::load::raise_memlock();
            is_uprobe_multi_supported(UProbeMultiFeature::LinkCreation).map_err(|error| error.to_string())
        } else {
            Err("not permitted to ask".to_owned())
        };
        Self {
            release: rustix::system::uname().release().to_string_lossy().into_owned(),
            perf_uprobes: Path::new("/sys/bus/event_source/devices/uprobe/type").exists(),
            uprobe_multi,
            may_load,
            capabilities: CAPABILITIES.iter().map(|(name, _)| (*name, has(name))).collect(),
        }
    }

    /// Checks that anything can be attached. The error says in one sentence why not.
    ///
    /// # Errors
    ///
    /// [`KernelError::NotPermitted`] and [`KernelError::Unsupported`].
    pub fn require(&self) -> Result<(), KernelError> {
        if !self.may_load {
            return Err(KernelError::NotPermitted);
        }
        if !self.perf_uprobes && self.uprobe_multi != Ok(true) {
            return Err(KernelError::Unsupported {
                release: self.release.clone(),
                missing: "it was built without CONFIG_UPROBE_EVENTS".to_owned(),
            });
        }
        Ok(())
    }
}

fn effective_capabilities(proc_root: &Path) -> u64 {
    // The agent's own name is in it: bytes, like all names.
    fs::read(proc_root.join("self/status"))
        .ok()
        .and_then(|status| {
            let status = String::from_utf8_lossy(&status);
            let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
            u64::from_str_radix(line.trim(), 16).ok()
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(may_load: bool, perf_uprobes: bool, uprobe_multi: bool) -> Capability {
        Capability {
            release: "5.10.0-test".to_owned(),
            perf_uprobes,
            uprobe_multi: Ok(uprobe_multi),
            may_load,
            capabilities: Vec::new(),
        }
    }

    #[test]
    fn a_kernel_without_uprobes_is_named_with_what_it_lacks() {
        let error = answers(true, false, false).require().unwrap_err().to_string();
        assert_eq!(error, "this kernel (5.10.0-test) cannot attach uprobes: it was built without CONFIG_UPROBE_EVENTS");
        assert!(answers(true, true, false).require().is_ok());
        assert!(answers(true, false, true).require().is_ok());
    }

    #[test]
    fn privileges_come_first() {
        assert!(matches!(answers(false, false, false).require(), Err(KernelError::NotPermitted)));
    }
}
