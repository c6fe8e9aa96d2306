//! Virtual machines that qemu emulates: one of Debian's cloud kernels and busybox, downloaded with a package list of their
//! own, and beside them what `tests/vm` has and what a command puts there. The host's packages are not touched.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use crate::{
    agent::{Workspace, hush},
    apt,
    go::Release,
    paths::{Paths, in_path},
    qemu::Qemu,
    step::{fresh, openly, output_of, quietly, step},
};

const SECONDS: &str = "900";
const MIRROR: &str = "http://deb.debian.org/debian";

/// A machine that qemu emulates.
pub(crate) struct Machine {
    /// As Debian and Go name its architecture.
    arch: &'static str,
    qemu: &'static str,
    package: &'static str,
    args: &'static [&'static str],
    console: &'static str,
}

pub(crate) const AMD64: Machine = Machine {
    arch: "amd64",
    qemu: "qemu-system-x86_64",
    package: "qemu-system-x86",
    args: &["-M", "q35", "-cpu", "max"],
    console: "ttyS0",
};

pub(crate) const ARM64: Machine = Machine {
    arch: "arm64",
    qemu: "qemu-system-aarch64",
    package: "qemu-system-arm",
    args: &["-M", "virt", "-cpu", "cortex-a57"],
    console: "ttyAMA0",
};

/// A machine with the kernel of one of Debian's suites.
pub(crate) struct Guest<'a> {
    paths: &'a Paths,
    machine: &'a Machine,
    qemu: Qemu,
    folder: PathBuf,
    /// For logs.
    name: String,
}

impl<'a> Guest<'a> {
    /// Downloads what is missing: the newest cloud kernel that the suite has. One that is there already is kept, unless
    /// there is to be an `update`.
    pub(crate) fn new(paths: &'a Paths, machine: &'a Machine, suite: &str, update: bool) -> Result<Self> {
        let qemu = Qemu::ensure(paths, machine.qemu, machine.package)?;
        if in_path("cpio").is_none() {
            apt::ensure(paths, &["cpio"], "to boot another kernel")?;
        }
        let name = format!("{}-{suite}", machine.arch);
        let folder = paths.cache.join("guests").join(&name);
        let log = paths.log(&name);
        fresh(&log)?;
        if update || !folder.join("vmlinuz").exists() {
            fs::create_dir_all(&folder)?;
            let what = format!("downloading Debian's {} kernel of {suite} and busybox, to count there", machine.arch);
            step("setup", &what, || {
                let mut command = Command::new("sh");
                command.args(["-ec", DOWNLOAD, "sh", machine.arch, suite, &mirror()]).current_dir(&folder);
                quietly(&mut command, &log)
            })?;
        }
        let guest = Self { paths, machine, qemu, folder, name };
        guest.furnish()?;
        Ok(guest)
    }

    /// Where the root folder of the machine is made; programs go into `t`.
    pub(crate) fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    /// A root folder with nothing but busybox, the first process and the scripts.
    fn furnish(&self) -> Result<()> {
        let root = self.root();
        fs::remove_dir_all(&root).ok();
        for folder in ["bin", "t", "dev"] {
            fs::create_dir_all(root.join(folder))?;
        }
        let scripts = self.paths.root.join("tests/vm");
        put(&self.folder.join("busybox"), &root.join("bin/busybox"))?;
        for name in ["init", "counts.sh"] {
            put(&scripts.join(name), &root.join(name))?;
        }
        Ok(())
    }

    /// Puts a test program there, built with a release.
    pub(crate) fn program(&self, release: &Release, program: &str) -> Result<()> {
        let mut command = release.command(self.paths)?;
        command
            .args(["build", "-trimpath", "-ldflags=-s -w", "-o"])
            .arg(self.root().join("t").join(format!("{program}-{}", release.version())))
            .current_dir(self.paths.root.join("tests/programs").join(program))
            .envs([("GOARCH", self.machine.arch), ("GOFLAGS", "-mod=mod")]);
        quietly(&mut command, &self.paths.log(&self.name))
    }

    /// Starts it, waits until it has powered off, and gives the file with all it printed.
    pub(crate) fn boot(&self) -> Result<PathBuf> {
        let initrd = self.folder.join("initrd");
        let pack = format!("find . | cpio -o -H newc --quiet | gzip -1 > '{}'", initrd.display());
        quietly(Command::new("sh").args(["-c", &pack]).current_dir(self.root()), &self.paths.log(&self.name))?;
        let output = self
            .qemu
            .command(SECONDS)
            .args(self.machine.args)
            .args(["-accel", "tcg,thread=multi", "-smp", "2", "-m", "2048", "-nographic", "-no-reboot", "-append"])
            .arg(format!("console={} quiet panic=-1", self.machine.console))
            .arg("-kernel")
            .arg(self.folder.join("vmlinuz"))
            .arg("-initrd")
            .arg(&initrd)
            .stdin(Stdio::null())
            .output()
            .context("cannot start qemu")?;
        let console = self.paths.log(&format!("{}-console", self.name));
        let complaints = String::from_utf8_lossy(&output.stderr);
        fs::write(&console, format!("{}{complaints}", String::from_utf8_lossy(&output.stdout).replace('\r', "")))?;
        Ok(console)
    }
}

/// Holds what guests printed to what it should be: `how` is what the program `guest` of the tests package is told of each.
pub(crate) fn compare(paths: &Paths, how: &[String]) -> Result<()> {
    let mut command = Workspace::new(paths)?.compiling("run");
    hush(&mut command).args(["--package", "parkranger-tests", "--bin", "guest", "--"]).args(how);
    openly(&mut command, "what the guests printed is not as it should be")
}

/// Copies a program.
pub(crate) fn put(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("copying {}", from.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).with_context(|| to.display().to_string())
}

/// The mirror of this host, if it is a Debian that has one.
fn mirror() -> String {
    let mut asked = Command::new("apt-get");
    asked.args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian", "Label: Debian"]);
    output_of(&mut asked)
        .and_then(|uris| uris.lines().next().map(str::to_owned))
        .filter(|uri| uri.starts_with("http"))
        .unwrap_or_else(|| MIRROR.to_owned())
}

/// apt checks what it downloads by the signed index of the suite, of any age: mirrors may be frozen. Debian's own newest kernel is what its meta package
/// depends on, over two steps where the image is a package of its own.
const DOWNLOAD: &str = r#"
arch=$1 suite=$2 mirror=$3
rm -rf debs packages
mkdir -p etc/apt.conf.d etc/preferences.d etc/sources.list.d lists/partial archives/partial debs packages
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" > etc/sources.list
cat > apt.conf <<C
Dir::Etc "$PWD/etc"; Dir::State::lists "$PWD/lists"; Dir::Cache "$PWD"; Dir::State::status "/dev/null";
APT::Architectures { "$arch"; }; APT::Architecture "$arch"; APT::Sandbox::User "root"; Acquire::Languages "none"; Acquire::Check-Valid-Until "false";
C
export APT_CONFIG=$PWD/apt.conf
apt-get update -qq
cd debs
images=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
    --no-enhances "linux-image-cloud-$arch" | grep -E '^linux-(image|binary)-[0-9]' | sort -u)
apt-get download -qq $images busybox-static
cd ..
for deb in debs/*.deb; do dpkg-deb -x "$deb" packages; done
mv "$(find packages -path '*bin/busybox')" busybox
mv "$(find packages -name 'vmlinuz*')" vmlinuz
rm -rf debs packages lists
"#;
