//! Go versions that no toolchain can be had of: their layouts are their neighbours', proved on released programs.

#![allow(missing_docs, reason = "tests")]

use std::{
    env,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use parkranger_tests::{
    agent::{Top, run_once},
    skip::{self, Missing},
};

const REQUESTS: u64 = 50;

/// A running esbuild that serves HTTP. Killed when dropped.
struct Esbuild {
    child: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Esbuild {
    fn start(program: &Path) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("a.js"), "console.log(1)\n")?;
        let mut child = Command::new(program)
            .args(["a.js", "--bundle", "--outdir=out", "--servedir=.", "--serve=127.0.0.1:0"])
            .current_dir(folder.path())
            // It ends with its input.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(child.stderr.take().context("stderr")?).lines().map_while(Result::ok);
        let address = lines.find_map(|line| Some(line.split_once("http://")?.1.trim_end_matches('/').to_owned()));
        // Its output must be read, or it blocks.
        std::thread::spawn(move || lines.for_each(drop));
        let mut started = Self { child, address: String::new(), _folder: folder };
        started.address = address.context("esbuild does not say where it serves")?;
        Ok(started)
    }

    fn get(&self) -> Result<()> {
        let mut stream = TcpStream::connect(&self.address)?;
        write!(stream, "GET /out/a.js HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        Ok(())
    }
}

impl Drop for Esbuild {
    fn drop(&mut self) {
        // It may be gone already, which is just as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One goroutine per connection, counted to the last one; the stacks of those that wait read to the end.
fn counts_and_reads(variable: &str, version: &str) -> Result<()> {
    let program = env::var_os(variable).context("checked before")?;
    let esbuild = Esbuild::start(Path::new(&program))?;
    let pid = esbuild.child.id();
    let mut top = Top::start(pid)?;
    let before = top.wait_until("a baseline", |process| process.baseline)?;
    ensure!(before.go_version.starts_with(version), "{}", before.go_version);
    for _ in 0..REQUESTS {
        esbuild.get()?;
    }
    let site = |process: &parkranger_tests::agent::Process| {
        let site = process.sites.iter().find(|site| site.start_function == "net/http.(*conn).serve");
        site.map_or((0, 0, 0), |site| (site.births, site.exits, site.live))
    };
    let after = top.wait_until("every connection is over", |process| site(process) == (REQUESTS, REQUESTS, 0))?;
    ensure!(after.audits.drift == 0, "{:?}", after.audits);
    top.finish()?;
    let dump = run_once(["dump", "--pid", &pid.to_string()])?.stdout;
    for expected in ["goroutine 1 [", "main.main(", "[IO wait]:", "net.(*TCPListener).Accept("] {
        ensure!(dump.contains(expected), "no {expected} in {dump}");
    }
    Ok(())
}

fn test(name: &str, variable: &'static str, version: &str) {
    let missing = env::var_os(variable).is_none().then(|| Missing(format!("{variable} names no esbuild")));
    skip::run(name, missing.map_or_else(skip::agent, Err), || counts_and_reads(variable, version));
}

#[test]
fn go_1_18_is_watched_by_its_neighbours_layout() {
    test("go_1_18_is_watched_by_its_neighbours_layout", "PARKRANGER_ESBUILD_GO_1_18", "go1.18");
}

#[test]
fn go_1_20_is_watched_by_its_neighbours_layout() {
    test("go_1_20_is_watched_by_its_neighbours_layout", "PARKRANGER_ESBUILD_GO_1_20", "go1.20");
}
