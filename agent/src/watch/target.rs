//! Which processes are meant.

use std::path::Path;

use globset::GlobMatcher;

/// The user's choice.
#[derive(Clone, Debug)]
pub enum Target {
    /// These, each of which must be watchable.
    Pids(Vec<u32>),
    /// Those whose executable's path matches; a pattern without a slash is matched against the file name.
    Exe(GlobMatcher),
    /// Every Go process there is.
    All,
}

impl Target {
    /// The processes named one by one.
    #[must_use]
    pub fn pids(&self) -> &[u32] {
        match self {
            Self::Pids(pids) => pids,
            Self::Exe(_) | Self::All => &[],
        }
    }

    /// Whether a process is meant. The agent never watches itself.
    #[must_use]
    pub fn wants(&self, pid: u32, exe: &Path) -> bool {
        match self {
            Self::Pids(pids) => pids.contains(&pid),
            Self::All => pid != std::process::id(),
            Self::Exe(glob) => {
                // The kernel marks a file that was replaced or removed.
                let path = exe.to_string_lossy();
                let path = Path::new(path.strip_suffix(" (deleted)").unwrap_or(&path));
                if glob.glob().glob().contains('/') {
                    glob.is_match(path)
                } else {
                    path.file_name().is_some_and(|name| glob.is_match(name))
                }
            }
        }
    }

    /// "whose executable matches …", for a sentence.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Pids(pids) => format!("with pid {pids:?}"),
            Self::Exe(glob) => format!("whose executable matches {}", glob.glob()),
            Self::All => "on this host".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use globset::Glob;

    use super::*;

    fn exe(glob: &str) -> Target {
        Target::Exe(Glob::new(glob).unwrap().compile_matcher())
    }

    #[test]
    fn a_pattern_without_slash_is_for_the_name() {
        assert!(exe("api-*").wants(7, Path::new("/srv/api-gateway")));
        assert!(exe("api-*").wants(7, Path::new("/srv/api-gateway (deleted)")));
        assert!(!exe("api-*").wants(7, Path::new("/api-x/other")));
        assert!(exe("/srv/**").wants(7, Path::new("/srv/bin/other")));
        assert!(!exe("/srv/*/x").wants(7, Path::new("/opt/bin/x")));
    }

    #[test]
    fn the_agent_leaves_itself_alone() {
        assert!(!Target::All.wants(std::process::id(), Path::new("/x")));
        assert!(Target::All.wants(1, Path::new("/x")));
    }
}
