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
    step::{fresh, output_of, quietly, step},
};

const PACKAGE_LISTS: &str = "/var/lib/apt/lists";

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

/// Installs those of `packages` that are missing. `why` completes "needed ...".
pub(crate) fn ensure(paths: &Paths, packages: &[&str], why: &str) -> Result<()> {
    if !available() {
        return Err(anyhow!(
            "{} needed {why}, and there is no apt-get to install {} with: install what your distribution calls {}, then \
             run this again",
            packages.join(", "),
            if packages.len() == 1 { "it" } else { "them" },
            if packages.len() == 1 { "that" } else { "those" },
        ));
    }
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !is_installed(package)).collect();
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
    step("setup", &format!("installing {}, needed {why}", missing.join(", ")), || install(paths, &missing, privilege))
        .map_err(|error| {
            error.context(format!(
                "{} could not be installed (needed {why}). If the network is the reason, try again with one; otherwise \
                 see what {by_hand} says",
                missing.join(", ")
            ))
        })
}

fn is_installed(package: &str) -> bool {
    output_of(Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}\n", package]))
        .is_some_and(|status| status.lines().any(|line| line == "installed"))
}

/// Refreshes the package lists only where they are absent, or where the first try failed with them.
fn install(paths: &Paths, packages: &[&str], privilege: Privilege) -> Result<()> {
    let log = paths.log("apt");
    fresh(&log)?;
    let mut updated = false;
    if !has_package_lists(Path::new(PACKAGE_LISTS)) {
        update(privilege, &log)?;
        updated = true;
    }
    // No package of the user's may go for ours: rustc-web conflicts with Debian's own rustc, for one.
    let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends", "--no-remove"];
    arguments.extend(["-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0"]);
    arguments.extend(packages);
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

fn has_package_lists(folder: &Path) -> bool {
    fs::read_dir(folder)
        .is_ok_and(|entries| entries.flatten().any(|entry| entry.file_name().to_string_lossy().contains("_Packages")))
}
