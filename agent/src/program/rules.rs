//! Include and exclude rules: what a process must be like to be watched.
//!
//! A process is admitted if, of each kind of include rule that there is, at least one matches, and no exclude rule of any
//! kind does.

use std::{path::Path, str::FromStr};

use globset::{Glob, GlobMatcher};

use crate::host::{HostError, Proc, user_id};

/// Conditions that processes must meet, and those that leave them out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    /// Of each kind that there is, one must match.
    pub include: Patterns,
    /// None may match.
    pub exclude: Patterns,
}

/// Patterns by what they are matched against.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Patterns {
    /// The executable: its path, or its file name where the pattern has no slash.
    pub exe: Vec<Pattern>,
    /// The name of the process's first thread, as ps and top show it.
    pub comm: Vec<Pattern>,
    /// A control group: its path, or the name of any group on the path where the pattern has no slash.
    pub cgroup: Vec<Pattern>,
    /// The user it runs as.
    pub user: Vec<User>,
}

/// A glob pattern, equal to others by its text.
#[derive(Clone, Debug)]
pub struct Pattern(GlobMatcher);

/// A user, by the number that the kernel knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// As it was given: the name or the number.
    text: String,
    id: u32,
}

impl Rules {
    /// True if a process is to be watched. No more is read of it than rules ask for.
    ///
    /// # Errors
    ///
    /// A [`HostError`] where that cannot be read.
    pub fn admit(&self, proc: &Proc, pid: u32, exe: &Path) -> Result<bool, HostError> {
        let candidate = Candidate { proc, pid, exe };
        Ok(self.include.agree(&candidate)? && !self.exclude.match_any(&candidate)?)
    }

    /// The same of a process of which no more is known than its executable: refused where rules ask for more.
    #[must_use]
    pub fn admit_by_name(&self, exe: &Path) -> bool {
        let Patterns { exe: included, comm, cgroup, user } = &self.include;
        let more = !comm.is_empty() || !cgroup.is_empty() || !user.is_empty();
        let Patterns { exe: excluded, comm, cgroup, user } = &self.exclude;
        let more = more || !comm.is_empty() || !cgroup.is_empty() || !user.is_empty();
        !more && (included.is_empty() || any_exe(included, exe)) && !any_exe(excluded, exe)
    }

    /// As flags of the command line.
    #[must_use]
    pub fn flags(&self) -> Vec<(String, &str)> {
        let mut flags = Vec::new();
        for (before, patterns) in [("", &self.include), ("exclude-", &self.exclude)] {
            let Patterns { exe, comm, cgroup, user } = patterns;
            for (kind, patterns) in [("exe", exe), ("comm", comm), ("cgroup", cgroup)] {
                flags.extend(patterns.iter().map(|pattern| (format!("{before}{kind}"), pattern.text())));
            }
            flags.extend(user.iter().map(|user| (format!("{before}user"), user.text.as_str())));
        }
        flags
    }
}

/// A process that is looked at.
struct Candidate<'a> {
    proc: &'a Proc,
    pid: u32,
    exe: &'a Path,
}

impl Candidate<'_> {
    fn has_exe(&self, patterns: &[Pattern]) -> bool {
        any_exe(patterns, self.exe)
    }

    fn has_comm(&self, patterns: &[Pattern]) -> Result<bool, HostError> {
        let comm = self.proc.comm(self.pid)?;
        Ok(patterns.iter().any(|pattern| pattern.0.is_match(&comm)))
    }

    fn has_cgroup(&self, patterns: &[Pattern]) -> Result<bool, HostError> {
        let cgroup = self.proc.cgroup(self.pid)?;
        let mut paths = cgroup.paths();
        Ok(paths.any(|path| patterns.iter().any(|pattern| pattern.matches(path, path.split('/')))))
    }

    fn has_user(&self, users: &[User]) -> Result<bool, HostError> {
        let id = self.proc.user(self.pid)?;
        Ok(users.iter().any(|user| user.id == id))
    }
}

impl Patterns {
    fn agree(&self, candidate: &Candidate) -> Result<bool, HostError> {
        Ok((self.exe.is_empty() || candidate.has_exe(&self.exe))
            && (self.comm.is_empty() || candidate.has_comm(&self.comm)?)
            && (self.user.is_empty() || candidate.has_user(&self.user)?)
            && (self.cgroup.is_empty() || candidate.has_cgroup(&self.cgroup)?))
    }

    fn match_any(&self, candidate: &Candidate) -> Result<bool, HostError> {
        Ok(candidate.has_exe(&self.exe)
            || !self.comm.is_empty() && candidate.has_comm(&self.comm)?
            || !self.user.is_empty() && candidate.has_user(&self.user)?
            || !self.cgroup.is_empty() && candidate.has_cgroup(&self.cgroup)?)
    }
}

fn any_exe(patterns: &[Pattern], exe: &Path) -> bool {
    // The kernel marks a file that was replaced or removed.
    let path = exe.to_string_lossy();
    let path = Path::new(path.strip_suffix(" (deleted)").unwrap_or(&path));
    patterns.iter().any(|pattern| pattern.matches(path, path.file_name().into_iter()))
}

impl Pattern {
    fn text(&self) -> &str {
        self.0.glob().glob()
    }

    /// True if it matches a path or, if it has no slash, one of these names on it.
    fn matches(&self, path: impl AsRef<Path>, mut names: impl Iterator<Item: AsRef<Path>>) -> bool {
        if self.text().contains('/') { self.0.is_match(path) } else { names.any(|name| self.0.is_match(name)) }
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl FromStr for Pattern {
    type Err = globset::Error;

    fn from_str(text: &str) -> Result<Self, globset::Error> {
        Ok(Self(Glob::new(text)?.compile_matcher()))
    }
}

impl FromStr for User {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let id = match text.parse() {
            Ok(id) => id,
            Err(_) => user_id(text)?,
        };
        Ok(Self { text: text.to_owned(), id })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const PID: u32 = 7;

    /// A /proc with one process.
    fn process(comm: &str, cgroup: &str, uid: u32) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join(PID.to_string());
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("comm"), format!("{comm}\n")).unwrap();
        fs::write(folder.join("cgroup"), format!("{cgroup}\n")).unwrap();
        fs::write(folder.join("status"), format!("Name:\t{comm}\nUid:\t1\t{uid}\t1\t1\nGid:\t1\t1\t1\t1\n")).unwrap();
        root
    }

    fn patterns(flags: &[(&str, &str)]) -> Patterns {
        let mut patterns = Patterns::default();
        for (kind, text) in flags {
            match *kind {
                "exe" => patterns.exe.push(text.parse().unwrap()),
                "comm" => patterns.comm.push(text.parse().unwrap()),
                "cgroup" => patterns.cgroup.push(text.parse().unwrap()),
                _ => patterns.user.push(text.parse().unwrap()),
            }
        }
        patterns
    }

    fn rules(include: &[(&str, &str)], exclude: &[(&str, &str)]) -> Rules {
        Rules { include: patterns(include), exclude: patterns(exclude) }
    }

    fn admit(rules: &Rules, exe: &str) -> bool {
        let root = process("worker", "0::/system.slice/api.service", 33);
        rules.admit(&Proc::at(root.path().to_owned()), PID, Path::new(exe)).unwrap()
    }

    #[test]
    fn a_pattern_without_slash_is_for_the_name() {
        let exe = |pattern: &str, path: &str| admit(&rules(&[("exe", pattern)], &[]), path);
        assert!(exe("api-*", "/srv/api-gateway"));
        assert!(exe("api-*", "/srv/api-gateway (deleted)"));
        assert!(!exe("api-*", "/api-x/other"));
        assert!(exe("/srv/**", "/srv/bin/other"));
        assert!(!exe("/srv/*/x", "/opt/bin/x"));
        let cgroup = |pattern: &str| admit(&rules(&[("cgroup", pattern)], &[]), "/x");
        assert!(cgroup("api.service") && cgroup("system.*") && cgroup("/system.slice/**") && !cgroup("/api.service"));
    }

    #[test]
    fn each_kind_must_agree_and_one_of_a_kind_is_enough() {
        assert!(admit(&rules(&[], &[]), "/x"));
        assert!(admit(&rules(&[("comm", "web"), ("comm", "work*")], &[]), "/x"));
        assert!(!admit(&rules(&[("comm", "worker"), ("user", "34")], &[]), "/x"));
        assert!(admit(&rules(&[("comm", "worker"), ("user", "34"), ("user", "33")], &[]), "/x"));
        assert!(!admit(&rules(&[("comm", "worker"), ("cgroup", "web.service")], &[]), "/x"));
    }

    #[test]
    fn exclusion_wins() {
        let include = [("comm", "worker"), ("user", "33"), ("exe", "x")];
        assert!(admit(&rules(&include, &[("comm", "web")]), "/x"));
        for exclude in [("comm", "w*"), ("user", "33"), ("exe", "/x"), ("cgroup", "*.service")] {
            assert!(!admit(&rules(&include, &[exclude]), "/x"), "{exclude:?}");
            assert!(!admit(&rules(&[], &[("comm", "other"), exclude]), "/x"), "{exclude:?}");
        }
    }

    #[test]
    fn who_is_gone_is_no_answer() {
        let proc = Proc::at("/nowhere".into());
        assert!(rules(&[("comm", "x")], &[]).admit(&proc, PID, Path::new("/x")).is_err());
        assert!(rules(&[], &[("user", "0")]).admit(&proc, PID, Path::new("/x")).is_err());
        // The executable is known already.
        assert!(rules(&[("exe", "x")], &[]).admit(&proc, PID, Path::new("/x")).unwrap());
        assert!(rules(&[("exe", "x")], &[("exe", "y")]).admit_by_name(Path::new("/x")));
        assert!(!rules(&[("exe", "x")], &[("user", "1")]).admit_by_name(Path::new("/x")));
        assert!(!rules(&[], &[("exe", "x")]).admit_by_name(Path::new("/x")));
    }

    #[test]
    fn users_have_names() {
        assert_eq!("root".parse::<User>().unwrap().id, 0);
        assert!("no such user".parse::<User>().is_err());
        assert_ne!("root".parse::<User>().unwrap(), "1".parse().unwrap());
    }
}
