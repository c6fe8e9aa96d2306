//! Writes `functions.txt` anew from real toolchains, each named by a variable:
//!
//! ```text
//! PARKRANGER_GO_1_19=/usr/lib/go-1.19 PARKRANGER_GO_1_27=… \
//!     cargo test -p parkranger --lib -- --ignored refresh_functions
//! ```

use std::{env, fmt::Write as _, fs, path::Path, process::Command};

use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

const PROGRAM: &str = include_str!("probed.go.txt");

const FUNCTIONS: [&str; 10] = [
    "runtime.newproc1",
    "runtime.gopark",
    "runtime.park_m",
    "runtime.goexit0",
    "runtime.gdestroy",
    "runtime.execute",
    "main.large",
    "main.huge",
    "main.oddlyHuge",
    "main.unchecked",
];

#[test]
#[ignore = "writes functions.txt; needs the toolchains named by PARKRANGER_GO_1_19, PARKRANGER_GO_1_20, …"]
fn refresh_functions() {
    let folder = tempfile::tempdir().expect("a folder to build in");
    fs::write(folder.path().join("go.mod"), "module probed\ngo 1.19\n").expect("go.mod");
    fs::write(folder.path().join("main.go"), PROGRAM).expect("main.go");
    let mut lines = String::new();
    for minor in 19..60 {
        let Some(root) = env::var_os(format!("PARKRANGER_GO_1_{minor}")) else { continue };
        let mut builds = vec![("plain", "")];
        if [19, 27].contains(&minor) {
            builds.push(("noopt", "-gcflags=all=-N -l"));
        }
        // Optimising with a profile came with 1.21.
        if [21, 24, 27].contains(&minor) {
            builds.push(("pgo", "-pgo=cpu.profile"));
        }
        for (build, flag) in builds {
            for architecture in ["amd64", "arm64"] {
                if build == "pgo" && architecture == "amd64" {
                    go(Path::new(&root), folder.path(), env::consts::ARCH, "");
                    let ran = Command::new(folder.path().join("probed"))
                        .arg("cpu.profile")
                        .current_dir(folder.path())
                        .status()
                        .expect("the program runs");
                    assert!(ran.success(), "the program writes its profile");
                }
                go(Path::new(&root), folder.path(), architecture, flag);
                let version = fs::read_to_string(Path::new(&root).join("VERSION")).expect("a VERSION file");
                let version = version.split_whitespace().next().expect("a version").trim_start_matches("go");
                let binary = fs::read(folder.path().join("probed")).expect("the binary");
                append(&mut lines, &format!("{version} {architecture} {build}"), &binary);
            }
        }
    }
    assert!(!lines.is_empty(), "no toolchain was named");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/plan/tests/functions.txt");
    fs::write(path, lines).expect("functions.txt");
}

fn go(root: &Path, folder: &Path, architecture: &str, flag: &str) {
    let architecture = match architecture {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let built = Command::new(root.join("bin/go"))
        .args(["build", "-o", "probed"])
        .args((!flag.is_empty()).then_some(flag))
        .arg(".")
        .current_dir(folder)
        .env("GOROOT", root)
        .env("GOARCH", architecture)
        .env("GOTOOLCHAIN", "local")
        .env("CGO_ENABLED", "0")
        .status()
        .expect("go runs");
    assert!(built.success(), "{} builds {architecture} {flag}", root.display());
}

fn append(lines: &mut String, prefix: &str, binary: &[u8]) {
    let file = object::File::parse(binary).expect("an ELF file");
    for name in FUNCTIONS {
        for symbol in file.symbols().filter(|symbol| symbol.name() == Ok(name)) {
            let section = symbol.section_index().expect("a section");
            let section = file.section_by_index(section).expect("a section");
            let code = section.data_range(symbol.address(), symbol.size()).expect("code").expect("code");
            write!(lines, "{prefix} {name} {:x} ", symbol.address()).expect("a string");
            code.iter().for_each(|byte| write!(lines, "{byte:02x}").expect("a string"));
            lines.push('\n');
        }
    }
}
