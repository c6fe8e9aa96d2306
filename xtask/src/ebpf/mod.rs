//! `cargo xtask ebpf`: compiles `ebpf/` for each architecture into the objects that are committed in `ebpf/objects`, or
//! checks that those are what the sources give.
//!
//! Bytes are the same from any folder: paths are cut to what does not differ between machines, and the debug information that
//! BTF was made from is left out. Another compiler or linker gives other bytes, so the lock names them.

#[path = "../../../ebpf/objects/fingerprint.rs"]
mod fingerprint;
mod linker;
mod toolchain;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};

use self::toolchain::Toolchain;
use crate::{
    paths::Paths,
    rust::encode_flags,
    step::{note, openly, quietly, step},
};

const TARGET: &str = "bpfel-unknown-none";
const OBJECT: &str = "parkranger-ebpf";
/// `pt_regs` differs between architectures, so there is one object for each.
const ARCHITECTURES: [&str; 2] = ["x86_64", "aarch64"];

/// Installs what building the objects needs.
pub(crate) fn setup(paths: &Paths) -> Result<()> {
    let toolchain = Toolchain::ensure(paths)?;
    note("setup", &format!("the eBPF objects would be built by {toolchain}"));
    Ok(())
}

pub(crate) fn run(paths: &Paths, check: bool) -> Result<ExitCode> {
    let toolchain = Toolchain::ensure(paths)?;
    let folder = paths.root.join("ebpf/objects");
    let lock = Lock::of(paths, &toolchain)?;
    let lock_file = folder.join("lock.toml");
    let mut built = Vec::new();
    for arch in ARCHITECTURES {
        let object = step("ebpf", &format!("{arch}, by {toolchain}"), || build(paths, &toolchain, arch))?;
        built.push((folder.join(format!("{arch}.o")), object));
    }
    if !check {
        for (path, bytes) in built {
            fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
            println!("built {}", paths.shown(&path));
        }
        fs::write(&lock_file, lock.text()).with_context(|| format!("cannot write {}", lock_file.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let locked = fs::read_to_string(&lock_file).with_context(|| format!("cannot read {}", lock_file.display()))?;
    if !locked.contains(&lock.sources_line()) {
        bail!(
            "the committed eBPF objects are not built from the sources as they are: run `cargo xtask ebpf` and commit them"
        );
    }
    if locked != lock.text() {
        // Other bytes are right then: what can be held is the sources' sum, and that these compilers take the sources.
        note(
            "ebpf",
            &format!("built from these sources, by another compiler than {toolchain}: bytes were not compared"),
        );
        return Ok(ExitCode::SUCCESS);
    }
    for (path, bytes) in built {
        if fs::read(&path).ok().as_ref() != Some(&bytes) {
            bail!(
                "{} is not what its sources give with the compiler and linker that the lock names: run `cargo xtask ebpf` and \
                 commit it",
                paths.shown(&path)
            );
        }
    }
    note("ebpf", "the committed objects are what the sources give, byte for byte");
    Ok(ExitCode::SUCCESS)
}

/// The committed statement of what the objects come from.
struct Lock {
    sources: String,
    compiler: String,
    linker: String,
}

impl Lock {
    fn of(paths: &Paths, toolchain: &Toolchain) -> Result<Self> {
        let sources = fingerprint::of_sources(&paths.root).context("cannot read the eBPF sources")?;
        Ok(Self { sources, compiler: toolchain.compiler(), linker: toolchain.linker_version()? })
    }

    fn sources_line(&self) -> String {
        format!("sources = \"{}\"\n", self.sources)
    }

    fn text(&self) -> String {
        format!(
            "# Written by `cargo xtask ebpf`, held to the objects by `cargo xtask ebpf --check`.\n{}compiler = \"{}\"\nlinker = \
             \"{}\"\n",
            self.sources_line(),
            self.compiler,
            self.linker
        )
    }
}

/// The bytes of the object for one architecture.
fn build(paths: &Paths, toolchain: &Toolchain, arch: &str) -> Result<Vec<u8>> {
    let own_target = paths.target.join("ebpf-build").join(arch);
    let log = paths.log(&format!("ebpf-{arch}"));
    let mut command = command(paths, toolchain, &own_target, arch)?;
    openly(command.current_dir(paths.root.join("ebpf")), "the eBPF half did not compile")?;
    let built = own_target.join(TARGET).join("release").join(OBJECT);
    let stripped = own_target.join(format!("{arch}.o"));
    let mut objcopy = Command::new(toolchain.objcopy());
    objcopy.arg("--strip-debug").arg(&built).arg(&stripped);
    quietly(&mut objcopy, &log)?;
    fs::read(&stripped).with_context(|| format!("the eBPF build left no {}", stripped.display()))
}

fn command(paths: &Paths, toolchain: &Toolchain, own_target: &Path, arch: &str) -> Result<Command> {
    let linker = toolchain.linker.to_str().context("the path of bpf-linker is not UTF-8")?;
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cargo")))
        .context("no home folder: set CARGO_HOME")?;
    // Paths are in BTF's line information.
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let flags = [
        &format!("-Clinker={linker}"),
        &format!("--cfg=bpf_target_arch=\"{arch}\""),
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
        &remap(&paths.root, "parkranger"),
        &remap(&cargo_home, "cargo"),
        &remap(&toolchain.sysroot()?, "rust"),
    ];
    let mut command = toolchain.cargo();
    command
        .args(["build", "--quiet", "--release", "--locked", "--ignore-rust-version"])
        .args(["-Z", "build-std=core", "--target", TARGET, "--target-dir"])
        .arg(own_target)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", encode_flags(flags));
    Ok(command)
}
