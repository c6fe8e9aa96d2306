//! Debian packages: installs the missing ones, or says what to install by hand.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Result, anyhow};

use crate::{
    paths::{Paths, in_path},
    rust::Version,
    step::{fresh, output_of, quietly, step},
};

/// How this user may act as root.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Privilege {
    /// We are root.
    Root,
    /// `sudo` asks for no password.
    Sudo,
    /// Not at all.
    None,
}

impl Privilege {
    pub(crate) fn find() -> Self {
        if fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0) {
            Self::Root
        } else if output_of(Command::new("sudo").args(["-n", "true"])).is_some() {
            Self::Sudo
        } else {
            Self::None
        }
    }

    /// `program`, to be run as root; `None` if it cannot be.
    pub(crate) fn command(self, program: impl AsRef<std::ffi::OsStr>) -> Option<Command> {
        match self {
            Self::Root => Some(Command::new(program)),
            Self::Sudo => {
                let mut command = Command::new("sudo");
                command.arg("-n").arg(program);
                Some(command)
            }
            Self::None => None,
        }
    }
}

/// Can packages be installed the Debian way on this machine at all?
pub(crate) fn available() -> bool {
    in_path("apt-get").is_some() && in_path("dpkg-query").is_some()
}

/// A package, and the oldest upstream version that will do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Package<'a> {
    pub(crate) name: &'a str,
    /// `None` where any will do.
    pub(crate) at_least: Option<Version>,
}

impl Package<'_> {
    /// True where Debian's `version` of it, such as `1:1.96.0+dfsg1-1~deb12u2`, is new enough.
    fn is_met_by(&self, version: &str) -> bool {
        let Some(wanted) = self.at_least else { return true };
        let upstream = version.split_once(':').map_or(version, |(_, rest)| rest);
        upstream.parse::<Version>().is_ok_and(|version| version >= wanted)
    }
}

/// Step towards having a package.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Action {
    /// It is installed and new enough.
    Nothing,
    /// The package lists offer one that is new enough: install it, or upgrade to it.
    Install,
    /// The lists offer none, or one that is too old: they may be old themselves.
    Refresh,
}

/// Next step for `package` where `installed` is on the machine and the package lists offer `candidate`.
fn action(package: Package<'_>, installed: Option<&str>, candidate: Option<&str>) -> Action {
    if installed.is_some_and(|version| package.is_met_by(version)) {
        Action::Nothing
    } else if candidate.is_some_and(|version| package.is_met_by(version)) {
        Action::Install
    } else {
        Action::Refresh
    }
}

/// Installs those of `packages` that are missing. `why` completes "needed ...".
pub(crate) fn ensure(paths: &Paths, packages: &[&str], why: &str) -> Result<()> {
    let packages: Vec<Package<'_>> = packages.iter().map(|name| Package { name, at_least: None }).collect();
    ensure_versions(paths, &packages, why)
}

/// Installs those of `packages` that are missing, and upgrades those that are too old. Package lists that offer nothing new
/// enough are refreshed first. `why` completes "needed ...".
pub(crate) fn ensure_versions(paths: &Paths, packages: &[Package<'_>], why: &str) -> Result<()> {
    let names = || packages.iter().map(|package| package.name).collect::<Vec<_>>().join(", ");
    if !available() {
        return Err(anyhow!(
            "{} needed {why}, and there is no apt-get to install {} with: install what your distribution calls {}, then \
             run this again",
            names(),
            if packages.len() == 1 { "it" } else { "them" },
            if packages.len() == 1 { "that" } else { "those" },
        ));
    }
    let wanted = packages.iter().copied().filter(|package| {
        let version = installed(package.name);
        action(*package, version.as_deref(), None) != Action::Nothing
    });
    let wanted: Vec<Package<'_>> = wanted.collect();
    let missing: Vec<&str> = wanted.iter().map(|package| package.name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let by_hand = format!("`sudo apt-get install --no-install-recommends {}`", missing.join(" "));
    let privilege = Privilege::find();
    if privilege == Privilege::None {
        return Err(anyhow!(
            "{} needed {why}, and may not be installed from here (not root, and no passwordless sudo): run {by_hand}, \
             then run this again",
            missing.join(", ")
        ));
    }
    step("setup", &format!("installing {}, needed {why}", missing.join(", ")), || install(paths, &wanted, privilege))
        .map_err(|error| {
            error.context(format!(
                "{} could not be installed (needed {why}). If the network is the reason, try again with one; otherwise \
                 see what {by_hand} says",
                missing.join(", ")
            ))
        })
}

/// Debian's version of the package that is installed.
fn installed(package: &str) -> Option<String> {
    let printed =
        output_of(Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status} ${Version}\n", package]))?;
    printed.lines().find_map(|line| line.strip_prefix("installed ").map(str::to_owned))
}

/// Debian's version of the package that the package lists offer.
fn candidate(package: &str) -> Option<String> {
    let printed = output_of(Command::new("apt-cache").env("LC_ALL", "C").args(["policy", package]))?;
    let version = printed.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_owned())
}

/// Refreshes the package lists where they do not offer all `packages` in the versions that are wanted, or where the first try
/// failed with them.
fn install(paths: &Paths, packages: &[Package<'_>], privilege: Privilege) -> Result<()> {
    let log = paths.log("apt");
    fresh(&log)?;
    let is_offered =
        |package: &&Package<'_>| action(**package, None, candidate(package.name).as_deref()) == Action::Install;
    let mut updated = false;
    if !packages.iter().all(|package| is_offered(&package)) {
        update(privilege, &log)?;
        updated = true;
    }
    if let Some(Package { name, at_least: Some(wanted) }) = packages.iter().find(|package| !is_offered(package)) {
        let offered = candidate(name).map_or_else(|| "no version".to_owned(), |version| format!("version {version}"));
        return Err(anyhow!(
            "this machine's package sources offer {offered} of {name}, and {wanted} or newer is needed"
        ));
    }
    // No package of the user's may go for ours: rustc-web conflicts with Debian's own rustc, for one.
    let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends", "--no-remove"];
    arguments.extend(["-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0"]);
    arguments.extend(packages.iter().map(|package| package.name));
    match quietly(&mut apt_get(privilege, &arguments)?, &log) {
        Err(_) if !updated => {
            update(privilege, &log)?;
            quietly(&mut apt_get(privilege, &arguments)?, &log)
        }
        result => result,
    }
}

/// One unreachable third-party source makes `apt-get update` fail though the rest is fresh: the install that follows
/// decides, and the log has both.
fn update(privilege: Privilege, log: &Path) -> Result<()> {
    let mut command = apt_get(privilege, &["update", "-qq", "-o", "DPkg::Lock::Timeout=300"])?;
    quietly(&mut command, log).or(Ok(()))
}

fn apt_get(privilege: Privilege, arguments: &[&str]) -> Result<Command> {
    let mut command = privilege.command("env").ok_or_else(|| anyhow!("not root"))?;
    command.arg("DEBIAN_FRONTEND=noninteractive").arg("apt-get").args(arguments).stdin(Stdio::null());
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUSTC: Package<'_> = Package { name: "rustc-web", at_least: Some(Version(1, 96, 0)) };
    const OLD: Option<&str> = Some("1.85.0+dfsg3-1~deb12u3");
    const NEW: Option<&str> = Some("1.96.0+dfsg1-1~deb12u2");

    #[test]
    fn old_package_lists_are_refreshed_before_a_package_that_is_too_old_is_taken() {
        assert_eq!(action(RUSTC, None, OLD), Action::Refresh);
        assert_eq!(action(RUSTC, None, None), Action::Refresh);
        assert_eq!(action(RUSTC, None, NEW), Action::Install);
    }

    #[test]
    fn a_package_that_is_installed_and_too_old_is_upgraded() {
        assert_eq!(action(RUSTC, OLD, OLD), Action::Refresh);
        assert_eq!(action(RUSTC, OLD, NEW), Action::Install);
        assert_eq!(action(RUSTC, NEW, OLD), Action::Nothing);
    }

    #[test]
    fn where_no_version_is_asked_for_any_will_do() {
        let any = Package { name: "gcc", at_least: None };
        assert_eq!(action(any, Some("4:12.2.0-3"), None), Action::Nothing);
        assert_eq!(action(any, None, Some("4:12.2.0-3")), Action::Install);
        let epoch = Package { name: "gcc", at_least: Some(Version(12, 0, 0)) };
        assert_eq!(action(epoch, Some("4:12.2.0-3"), None), Action::Nothing);
    }
}
