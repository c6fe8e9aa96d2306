//! `cargo xtask arm64`: the agent on a real arm64 Debian kernel, under software emulation: are its counts exact, and its
//! dumps the programs' own?
//!
//! Builds the agent and the test programs for arm64, boots Debian's cloud kernel in qemu with nothing but busybox and
//! `tests/vm`, and compares what was printed there with the programs that compare counts and dumps everywhere.

use std::{
    ffi::OsStr,
    fs, iter,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    agent::{self, Profile, Workspace, hush},
    apt, cross, ebpf,
    go::{Release, TESTED},
    paths::{Paths, in_path},
    setup,
    step::{fresh, note, openly, quietly, step},
};

const TARGET: &str = "aarch64-unknown-linux-musl";
/// The package that depends on the newest cloud kernel there is.
const KERNEL: &str = "linux-image-cloud-arm64:arm64";
const SECONDS: &str = "600";

pub(crate) fn run(paths: &Paths) -> Result<ExitCode> {
    for (program, package) in [("qemu-system-aarch64", "qemu-system-arm"), ("cpio", "cpio")] {
        if in_path(program).is_none() {
            apt::ensure(paths, &[package], "to boot an arm64 kernel")?;
        }
    }
    let guest = paths.cache.join("arm64");
    let kernel = kernel(paths, &guest)?;
    let root = guest.join("root");
    fs::remove_dir_all(&root).ok();
    for folder in ["bin", "t", "dev"] {
        fs::create_dir_all(root.join(folder))?;
    }
    let toolchain = setup::build(paths)?;
    let target: cross::Target = TARGET.parse()?;
    target.ensure(paths)?;
    let object = ebpf::build_for(paths, &toolchain, target.arch)?;
    let binary = agent::build_for(paths, &object, Profile::Release, Some(&target))?;
    fs::copy(&binary, root.join("t/parkranger")).context("copying the agent")?;
    for release in TESTED {
        step("build", &format!("the test programs for arm64 with Go {}", release.version()), || {
            ["exercise", "crowd"].iter().try_for_each(|program| fixture(paths, &release, program, &root.join("t")))
        })?;
    }
    for (from, to) in [
        (guest.join("packages/bin/busybox"), "bin/busybox"),
        (paths.root.join("tests/vm/init"), "init"),
        (paths.root.join("tests/vm/counts.sh"), "counts.sh"),
    ] {
        let to = root.join(to);
        fs::copy(&from, &to).with_context(|| format!("copying {}", from.display()))?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
    }
    let initrd = guest.join("initrd");
    let pack = format!("find . | cpio -o -H newc --quiet | gzip -1 > '{}'", initrd.display());
    quietly(Command::new("sh").args(["-c", &pack]).current_dir(&root), &paths.log("arm64"))?;
    let console = step("arm64", "counting in the guest", || boot(&kernel, &initrd))?;
    fs::write(paths.log("arm64-console"), &console)?;
    compare(paths, &console)
}

/// Debian's kernel and busybox for arm64, downloaded with a package list of their own: the host's is not touched.
fn kernel(paths: &Paths, guest: &Path) -> Result<PathBuf> {
    let packages = guest.join("packages");
    if let Some(kernel) = vmlinuz(&packages) {
        return Ok(kernel);
    }
    let log = paths.log("arm64");
    fs::create_dir_all(&packages)?;
    step("setup", "downloading Debian's arm64 kernel and busybox, to count there", || {
        fresh(&log)?;
        let mut command = Command::new("sh");
        command.args(["-ec", DOWNLOAD, "sh", KERNEL]).current_dir(guest);
        quietly(&mut command, &log)
    })?;
    vmlinuz(&packages).context("the downloaded package has no kernel")
}

const DOWNLOAD: &str = r#"
mkdir -p lists/partial archives/partial debs
cat > apt.conf <<C
Dir::State::lists "$PWD/lists"; Dir::Cache "$PWD"; APT::Architectures { "arm64"; }; APT::Architecture "arm64";
APT::Sandbox::User "root"; Dir::State::status "/dev/null";
C
export APT_CONFIG=$PWD/apt.conf
apt-get update -qq
cd debs
image=$(apt-cache depends "$1" | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -1)
apt-get download -qq "${image%:*}:arm64" busybox-static:arm64
for deb in *.deb; do dpkg-deb -x "$deb" ../packages; done
[ -e ../packages/bin/busybox ] || { mkdir -p ../packages/bin; cp ../packages/usr/bin/busybox ../packages/bin/; }
"#;

fn vmlinuz(packages: &Path) -> Option<PathBuf> {
    let mut kernels = fs::read_dir(packages.join("boot")).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    kernels.find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")))
}

fn fixture(paths: &Paths, release: &Release, program: &str, to: &Path) -> Result<()> {
    let go = release.ensure(paths)?;
    let mut command = Command::new(go);
    command
        .args(["build", "-trimpath", "-ldflags=-s -w", "-o"])
        .arg(to.join(format!("{program}-{}", release.version())))
        .current_dir(paths.root.join("tests/programs").join(program))
        .envs([("GOARCH", "arm64"), ("CGO_ENABLED", "0"), ("GOTOOLCHAIN", "local"), ("GOPROXY", "off")])
        .envs([("GOFLAGS", "-mod=mod")])
        .env("GOCACHE", paths.fixtures().join("cache"))
        .env("GOPATH", paths.fixtures().join("gopath"));
    quietly(&mut command, &paths.log("arm64"))
}

fn boot(kernel: &Path, initrd: &Path) -> Result<String> {
    let output = Command::new("timeout")
        .args([SECONDS, "qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a57", "-accel", "tcg,thread=multi"])
        .args(["-smp", "2", "-m", "2048", "-nographic", "-no-reboot", "-append", "console=ttyAMA0 quiet panic=-1"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initrd)
        .stdin(Stdio::null())
        .output()
        .context("cannot start qemu")?;
    Ok(String::from_utf8_lossy(&output.stdout).replace('\r', ""))
}

/// One comparison for each version that printed both lines; a missing one fails.
fn compare(paths: &Paths, console: &str) -> Result<ExitCode> {
    let line = |what: &str, version: &str| {
        let start = format!("{what} {version} ");
        let found = console.lines().find_map(|line| line.strip_prefix(&start));
        found.with_context(|| {
            format!("the guest printed no {what} for Go {version}: see {}", paths.log("arm64-console").display())
        })
    };
    if let Some(booted) = console.lines().find(|line| line.starts_with("BOOTED ")) {
        note("arm64", booted);
    }
    let toolchain = setup::build(paths)?;
    let object = ebpf::build(paths, &toolchain)?;
    let mut wrong = 0;
    for release in TESTED {
        let version = release.version();
        let files = ["STATS", "TOP"].map(|what| (what, paths.log(&format!("arm64-{what}"))));
        for (what, file) in &files {
            fs::write(file, line(what, version)?)?;
        }
        let dumps = ["ours", "own", "running"].map(|what| (what, paths.log(&format!("arm64-dump-{what}"))));
        for (what, file) in &dumps {
            decode(line(&format!("DUMP-{what}"), version)?, file, &paths.log("arm64"))?;
        }
        let counts: Vec<&OsStr> = files.iter().map(|(_, file)| file.as_os_str()).collect();
        let dumps: Vec<&OsStr> =
            iter::once(version.as_ref()).chain(dumps.iter().map(|(_, file)| file.as_os_str())).collect();
        for (program, args) in [("compare", counts), ("dumps", dumps)] {
            let mut command = Workspace::new(paths, &object)?.compiling("run");
            hush(&mut command).args(["--package", "parkranger-tests", "--bin", program, "--"]).args(args);
            if let Err(error) = openly(&mut command, &format!("Go {version} is not exact")) {
                note("arm64", &format!("{error:#}"));
                wrong += 1;
            }
        }
    }
    if wrong > 0 {
        bail!("{wrong} of {} comparisons failed on arm64", 2 * TESTED.len());
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes what is there in base64 to a file.
fn decode(text: &str, file: &Path, log: &Path) -> Result<()> {
    let encoded = file.with_extension("base64");
    fs::write(&encoded, text)?;
    let decode = "base64 -d \"$1\" > \"$2\"";
    quietly(Command::new("sh").args(["-c", decode, "sh"]).args([&encoded, file]), log)
}
