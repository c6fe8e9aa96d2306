//! `cargo xtask build --target`: the agent for another machine.
//!
//! A musl target needs its standard library, which rustup has, and the linker that comes with every Rust: the result is
//! static and runs on any distribution. Another architecture needs Debian's cross compiler, for the C in the TLS library;
//! for a gnu target it is the linker, too.

use std::{
    env::consts::ARCH,
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
};

use anyhow::{Context as _, Error, Result, bail};

use crate::{
    apt,
    paths::{Paths, in_path},
    rust::Surroundings,
    step::{fresh, output_of, quietly, step},
};

/// A machine to build for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Target {
    /// As rustc names it.
    pub(crate) triple: String,
    /// Whose registers the eBPF half reads.
    pub(crate) arch: &'static str,
    musl: bool,
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(triple: &str) -> Result<Self> {
        let known = |triple: &str| {
            let (arch, libc) = triple.split_once("-unknown-linux-")?;
            let arch = ["x86_64", "aarch64"].into_iter().find(|known| *known == arch)?;
            matches!(libc, "gnu" | "musl").then_some((arch, libc == "musl"))
        };
        match known(triple) {
            Some((arch, musl)) => Ok(Self { triple: triple.to_owned(), arch, musl }),
            None => bail!("parkranger runs on x86_64 and aarch64: {{x86_64,aarch64}}-unknown-linux-{{gnu,musl}}"),
        }
    }
}

impl Target {
    /// Installs what is missing to build for it.
    pub(crate) fn ensure(&self, paths: &Paths) -> Result<()> {
        let installed =
            output_of(Surroundings::Active.apply(Command::new("rustup").args(["target", "list", "--installed"])));
        let installed = installed.with_context(|| {
            format!("no rustup to ask for the standard library of {}: install it and run this again", self.triple)
        })?;
        if !installed.lines().any(|line| line == self.triple) {
            let log = paths.log("rustup");
            let what = format!("adding the Rust target {}, as it is built for", self.triple);
            step("setup", &what, || {
                fresh(&log)?;
                quietly(Surroundings::Active.apply(Command::new("rustup").args(["target", "add", &self.triple])), &log)
            })?;
        }
        let headers = format!("/usr/{}-linux-gnu/include/stdint.h", self.arch);
        if self.arch != ARCH && (in_path(&self.gcc()).is_none() || !Path::new(&headers).exists()) {
            let debian = if self.arch == "aarch64" { "arm64" } else { "amd64" };
            let packages =
                [format!("gcc-{}-linux-gnu", self.arch.replace('_', "-")), format!("libc6-dev-{debian}-cross")];
            apt::ensure(paths, &packages.each_ref().map(String::as_str), "as the C compiler for another machine")?;
        }
        Ok(())
    }

    fn gcc(&self) -> String {
        format!("{}-linux-gnu-gcc", self.arch)
    }

    /// Tells cargo to build for it.
    pub(crate) fn apply(&self, command: &mut Command) -> Result<()> {
        command.args(["--target", &self.triple]);
        if self.arch != ARCH {
            command.env(format!("CC_{}", self.triple.replace('-', "_")), self.gcc());
        }
        let variable = format!("CARGO_TARGET_{}_LINKER", self.triple.to_uppercase().replace('-', "_"));
        if self.musl {
            command.env(variable, rust_lld()?);
        } else if self.arch != ARCH {
            command.env(variable, self.gcc());
        }
        Ok(())
    }
}

/// The linker in the active toolchain.
fn rust_lld() -> Result<PathBuf> {
    let folder = output_of(Surroundings::Active.apply(Command::new("rustc").args(["--print", "target-libdir"])));
    let folder = PathBuf::from(folder.context("`rustc --print target-libdir` does not run")?.trim());
    let linker = folder.parent().context("the target's folder")?.join("bin/rust-lld");
    if linker.is_file() { Ok(linker) } else { bail!("this Rust comes without {}", linker.display()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_machines_that_can_be_watched_are_built_for() -> Result<()> {
        let target: Target = "aarch64-unknown-linux-musl".parse()?;
        assert_eq!((target.arch, target.musl), ("aarch64", true));
        assert!(!"x86_64-unknown-linux-gnu".parse::<Target>()?.musl);
        for bad in ["riscv64gc-unknown-linux-gnu", "aarch64-apple-darwin", "aarch64-unknown-linux-uclibc", ""] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
        Ok(())
    }
}
