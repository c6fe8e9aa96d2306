//! Where things are: the repository, its target directory, and the cache that outlives both.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// The folders that every command works in.
pub(crate) struct Paths {
    /// The repository.
    pub(crate) root: PathBuf,
    /// Cargo's target directory of the main workspace.
    pub(crate) target: PathBuf,
    /// Toolchains and test fixtures, shared by all clones: `$PARKRANGER_CACHE`, else the user's cache folder.
    pub(crate) cache: PathBuf,
    /// Output of what ran quietly, one file per step.
    pub(crate) logs: PathBuf,
}

impl Paths {
    pub(crate) fn find() -> Result<Self> {
        // Cargo sets it when it runs us; the folder of build time is for a binary that was started by hand.
        let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = PathBuf::from(&package)
            .parent()
            .map(Path::to_path_buf)
            .with_context(|| format!("{} has no parent folder", Path::new(&package).display()))?;
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir));
        let cache = cache_folder(
            env::var_os("PARKRANGER_CACHE").map(PathBuf::from),
            env::var_os("XDG_CACHE_HOME").map(PathBuf::from),
            env::home_dir(),
        )
        .context("no cache folder: set PARKRANGER_CACHE, XDG_CACHE_HOME or HOME")?;
        let logs = target.join("xtask-logs");
        for folder in [&logs, &cache] {
            fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        Ok(Self { root, target, cache, logs })
    }

    /// Built Go test programs and Go's build cache: the test harness fills it.
    pub(crate) fn fixtures(&self) -> PathBuf {
        self.cache.join("fixtures")
    }

    pub(crate) fn log(&self, step: &str) -> PathBuf {
        self.logs.join(format!("{step}.log"))
    }

    /// `path` as a person in the repository would type it.
    pub(crate) fn shown<'a>(&self, path: &'a Path) -> std::path::Display<'a> {
        path.strip_prefix(&self.root).unwrap_or(path).display()
    }
}

fn cache_folder(own: Option<PathBuf>, xdg: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    let set = |path: Option<PathBuf>| path.filter(|path| path.is_absolute());
    set(own)
        .or_else(|| set(xdg).map(|xdg| xdg.join("parkranger")))
        .or_else(|| set(home).map(|home| home.join(".cache/parkranger")))
}

/// Finds an executable the way a shell does.
pub(crate) fn in_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(name)).find(|file| is_executable(file))
}

pub(crate) fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_folder_is_the_first_absolute_one() {
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(cache_folder(path("/own"), path("/xdg"), path("/home")), path("/own"));
        assert_eq!(cache_folder(path("relative"), path("/xdg"), path("/home")), path("/xdg/parkranger"));
        assert_eq!(cache_folder(None, None, path("/home")), path("/home/.cache/parkranger"));
        assert_eq!(cache_folder(None, None, None), None);
    }
}
