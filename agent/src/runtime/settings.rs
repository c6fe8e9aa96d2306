//! Settings of the Go runtime that bite in production: what a program was told by its environment, held against what it
//! is allowed to use.
//!
//! Sources: `runtime/extern.go` (the variables), `runtime/runtime1.go` (`dbgvars`, `parsedebugvars`), `runtime/mgcpacer.go`
//! (`readGOGC`), `runtime/string.go` (`parseByteCount`), and, from Go 1.25, `internal/runtime/cgroup`.

use crate::binary::GoVersion;

/// Settings of a process, from its environment and its build.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings<'a> {
    /// GODEBUG of the environment.
    pub godebug: Option<&'a str>,
    /// GODEBUG as the build sets it (`DefaultGODEBUG` of the build settings); the environment comes first.
    pub default_godebug: Option<&'a str>,
    /// GOGC.
    pub gogc: Option<&'a str>,
    /// GOMAXPROCS.
    pub gomaxprocs: Option<&'a str>,
    /// GOMEMLIMIT.
    pub gomemlimit: Option<&'a str>,
    /// GOTRACEBACK.
    pub gotraceback: Option<&'a str>,
}

/// Resources a process may use. `None` where there is no limit or it is not known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowance {
    /// CPUs by quota.
    pub cpu_quota: Option<f64>,
    /// CPUs it may be scheduled on.
    pub cpus: Option<u32>,
    /// Bytes of memory.
    pub memory_bytes: Option<u64>,
}

/// A GODEBUG switch, the values of it that bite, and how.
type Switch = (&'static str, fn(&str) -> bool, &'static str);

const SWITCHES: [Switch; 15] = [
    ("asyncpreemptoff", set, "a loop without calls holds up every garbage collection and stop of the world"),
    ("gcstoptheworld", set, "every garbage collection stops the program from start to end"),
    ("gcshrinkstackoff", set, "stacks never shrink"),
    ("sbrk", set, "nothing is ever freed"),
    ("madvdontneed", unset, "memory given back stays counted until the kernel needs it"),
    ("efence", set, "every object has a page of its own, and none is used again"),
    ("clobberfree", set, "every freed object is overwritten"),
    ("gccheckmark", set, "every garbage collection marks twice, the second time with the world stopped"),
    ("disablethp", set, "heap memory has no huge pages"),
    ("allocfreetrace", set, "every allocation prints a stack"),
    ("schedtrace", set, "the scheduler's state is printed all the time"),
    ("scheddetail", set, "the scheduler's state is printed all the time"),
    ("gctrace", set, "every garbage collection prints a line"),
    ("dataindependenttiming", set, "arithmetic is slowed down"),
    ("invalidptr", unset, "broken pointers go unnoticed"),
];

fn set(value: &str) -> bool {
    value != "0"
}

fn unset(value: &str) -> bool {
    value == "0"
}

impl<'a> Settings<'a> {
    /// One sentence for each setting that bites.
    #[must_use]
    pub fn warnings(&self, version: &GoVersion, allowance: &Allowance) -> Vec<String> {
        let mut warnings = Vec::new();
        for (name, bites, how) in SWITCHES {
            if let Some(value) = self.switch(name).filter(|value| bites(value)) {
                warnings.push(format!("GODEBUG {name}={value}: {how}"));
            }
        }
        warnings.extend(self.threads(version, allowance));
        warnings.extend(self.memory(allowance));
        match self.gotraceback {
            Some("none" | "0") => warnings.push("GOTRACEBACK=none: a crash leaves no stacks".to_owned()),
            Some("crash") => warnings.push("GOTRACEBACK=crash: a crash dumps core".to_owned()),
            Some(level @ ("wer" | "system" | "2")) => {
                warnings.push(format!("GOTRACEBACK={level}: a crash prints every goroutine, the runtime's too"));
            }
            _ => {}
        }
        warnings
    }

    /// The value of a GODEBUG switch: the last one in the environment, else the last one of the build.
    fn switch(&self, name: &str) -> Option<&'a str> {
        let last = |list: &'a str| list.rsplit(',').find_map(|setting| setting.strip_prefix(name)?.strip_prefix('='));
        [self.godebug, self.default_godebug].into_iter().flatten().find_map(last)
    }

    /// Threads that run Go code, against the CPU time there is for them.
    fn threads(&self, version: &GoVersion, allowance: &Allowance) -> Option<String> {
        let quota = allowance.cpu_quota?;
        let enough = quota.ceil().max(1.0);
        let how = "threads are throttled together, and tail latency grows";
        if let Some(threads) = self.gomaxprocs.and_then(|threads| threads.parse::<u32>().ok()).filter(|&n| n > 0) {
            let above = f64::from(threads) > enough;
            return above.then(|| format!("GOMAXPROCS={threads} is above the CPU quota of {quota:.2}: {how}"));
        }
        // Unset, Go 1.25 and later go by the quota, but not below 2.
        let by_quota = (version.major, version.minor) >= (1, 25) && self.switch("containermaxprocs").is_none_or(set);
        let threads = allowance.cpus.filter(|_| !version.raw.is_empty())?;
        if by_quota || f64::from(threads) <= enough {
            return None;
        }
        Some(format!(
            "GOMAXPROCS is unset and {} runs {threads} threads over a CPU quota of {quota:.2}: {how}",
            version.raw
        ))
    }

    fn memory(&self, allowance: &Allowance) -> Vec<String> {
        let mut warnings = Vec::new();
        let goal = self.gomemlimit.and_then(byte_count);
        if let (Some(goal), Some(limit)) = (goal, allowance.memory_bytes)
            && goal > limit
        {
            warnings.push(format!(
                "GOMEMLIMIT={} is above the memory limit of {} MiB: the kernel kills the process first",
                self.gomemlimit.unwrap_or_default(),
                limit >> 20
            ));
        }
        if self.gogc == Some("off") {
            warnings.push(match goal {
                None => "GOGC=off without GOMEMLIMIT: garbage is never collected".to_owned(),
                Some(_) => "GOGC=off: garbage is collected only at GOMEMLIMIT, and then all the time".to_owned(),
            });
        }
        warnings
    }
}

/// A GOMEMLIMIT: digits and one of the suffixes B, KiB, MiB, GiB, TiB. `None` for "off" and for what the runtime refuses.
fn byte_count(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match text.strip_prefix(digits)? {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warnings(settings: Settings<'_>, version: &str, allowance: Allowance) -> Vec<String> {
        settings.warnings(&GoVersion::parse(version).unwrap(), &allowance)
    }

    #[test]
    fn nothing_set_is_nothing_to_say() {
        assert_eq!(warnings(Settings::default(), "go1.27.3", Allowance::default()), [""; 0]);
        let harmless =
            Settings { godebug: Some("asyncpreemptoff=0,http2client=0"), gogc: Some("50"), ..Default::default() };
        assert_eq!(warnings(harmless, "go1.27.3", Allowance::default()), [""; 0]);
    }

    #[test]
    fn the_environment_goes_before_the_build_and_the_last_of_a_list_counts() {
        let settings = Settings {
            godebug: Some("asyncpreemptoff=0,asyncpreemptoff=1"),
            default_godebug: Some("asyncpreemptoff=0,madvdontneed=0"),
            ..Default::default()
        };
        let warnings = warnings(settings, "go1.21.1", Allowance::default());
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].starts_with("GODEBUG asyncpreemptoff=1"), "{warnings:?}");
        assert!(warnings[1].starts_with("GODEBUG madvdontneed=0"), "{warnings:?}");
    }

    #[test]
    fn threads_are_held_against_the_quota() {
        let allowance = Allowance { cpu_quota: Some(1.5), cpus: Some(16), memory_bytes: None };
        let with = |gomaxprocs| Settings { gomaxprocs, ..Default::default() };
        assert_eq!(warnings(with(Some("2")), "go1.24.1", allowance), [""; 0]);
        assert!(warnings(with(Some("8")), "go1.27.1", allowance)[0].contains("GOMAXPROCS=8 is above"));
        assert!(warnings(with(None), "go1.24.1", allowance)[0].contains("runs 16 threads"));
        assert_eq!(warnings(with(None), "go1.25.0", allowance), [""; 0]);
        let off = Settings { default_godebug: Some("containermaxprocs=0"), ..Default::default() };
        assert!(warnings(off, "go1.25.0", allowance)[0].contains("runs 16 threads"));
    }

    #[test]
    fn memory_is_held_against_the_limit() {
        let allowance = Allowance { memory_bytes: Some(512 << 20), ..Default::default() };
        let with = |gomemlimit, gogc| Settings { gomemlimit, gogc, ..Default::default() };
        assert_eq!(warnings(with(Some("400MiB"), None), "go1.22.0", allowance), [""; 0]);
        assert!(warnings(with(Some("1GiB"), None), "go1.22.0", allowance)[0].contains("limit of 512 MiB"));
        assert!(warnings(with(None, Some("off")), "go1.22.0", allowance)[0].contains("never collected"));
        assert!(warnings(with(Some("off"), Some("off")), "go1.22.0", allowance)[0].contains("never collected"));
        assert_eq!(byte_count("1.5GiB"), None);
        assert_eq!(byte_count("99999999999TiB"), None);
        assert_eq!(byte_count("1048576"), Some(1 << 20));
    }

    #[test]
    fn what_a_crash_leaves_is_said() {
        let with = |gotraceback| Settings { gotraceback, ..Default::default() };
        assert!(warnings(with(Some("none")), "go1.22.0", Allowance::default())[0].contains("no stacks"));
        assert_eq!(warnings(with(Some("all")), "go1.22.0", Allowance::default()), [""; 0]);
    }
}
