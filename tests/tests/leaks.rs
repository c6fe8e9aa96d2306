//! `parkranger leaks` and `parkranger diff` on real processes: what they say, in which form, with which exit code.

#![allow(missing_docs, reason = "tests")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use parkranger_tests::go::{Program, Toolchain, Variant};
use parkranger_tests::on_every_go;
use parkranger_tests::skip::agent;
use serde_json::Value;

on_every_go!(agent: a_leak_is_found, a_pool_is_none, dumps_are_compared);

struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Service {
    fn start(program: &Path, name: &str) -> Result<Service> {
        let mut child = Command::new(program).arg(name).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("stdout")?).read_line(&mut line)?;
        Ok(Service(child))
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

fn parkranger(args: &[&str]) -> Result<Output> {
    let binary = std::env::var_os("PARKRANGER_BIN").context("PARKRANGER_BIN")?;
    Ok(Command::new(binary).args(args).output()?)
}

fn text(output: &Output) -> Result<String> {
    Ok(String::from_utf8(output.stdout.clone())?)
}

/// On every Go version and stripped: line, caller, shape, exit code; it ends before its time.
fn a_leak_is_found(go: &Toolchain) -> Result<()> {
    let service = Service::start(&go.build(Program::Leaks, Variant::Stripped)?.path, "through-own-helper")?;
    let begun = Instant::now();
    let output = parkranger(&["leaks", &service.pid(), "--for", "60s", "--json"])?;
    ensure!(begun.elapsed() < Duration::from_secs(45), "it was sure only after {:?}", begun.elapsed());
    ensure!(output.status.code() == Some(4), "{output:?}");
    let json: Value = serde_json::from_str(&text(&output)?)?;
    let finding = &json["findings"][0];
    ensure!(finding["pattern"] == "abandoned-sender" && finding["function"] == "main.reserveStock", "{json:#}");
    ensure!(finding["site"]["function"] == "main.safely", "{json:#}");
    ensure!(finding["confidence"].as_f64() > Some(0.9), "{json:#}");
    ensure!(finding["place"]["line"].as_u64() > Some(0) && finding["stack_bytes"].as_u64() > Some(0), "{json:#}");
    // It is told by its name as well, and as text.
    let output = parkranger(&["leaks", &service.pid(), "--for", "8s"])?;
    let said = text(&output)?;
    ensure!(said.contains("abandoned-sender  main.reserveStock channels.go:"), "{said}");
    ensure!(String::from_utf8_lossy(&output.stderr).contains("of 8 s"), "no progress: {output:?}");
    Ok(())
}

fn a_pool_is_none(go: &Toolchain) -> Result<()> {
    let service = Service::start(&go.build(Program::Leaks, Variant::Plain)?.path, "many-pools")?;
    let output = parkranger(&["leaks", &service.pid(), "--for", "12s"])?;
    ensure!(output.status.code() == Some(0) && text(&output)?.contains("no leak found"), "{output:?}");
    let nobody = parkranger(&["leaks", "no-such-executable-anywhere"])?;
    ensure!(nobody.status.code() == Some(3), "{nobody:?}");
    Ok(())
}

/// A process, our dumps of it in every form, and a program's own, from a file and by URL.
fn dumps_are_compared(go: &Toolchain) -> Result<()> {
    let program = go.build(Program::Leaks, Variant::Plain)?.path;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let address = format!("127.0.0.1:{port}");
    let mut command = Command::new(&program);
    command.arg("timeout-abandons-sender").env("LEAKS_PPROF", &address);
    let service = Service(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    let folder = tempfile::tempdir()?;
    std::thread::sleep(Duration::from_secs(2));
    let pid = service.pid();
    let mut earlier = Vec::new();
    for format in ["text", "json", "summary", "pprof"] {
        let path = folder.path().join(format);
        let path = path.to_str().context("path")?.to_owned();
        let output = parkranger(&["dump", "--pid", &pid, "--format", format, "-o", &path])?;
        ensure!(output.status.success(), "{output:?}");
        earlier.push((path, matches!(format, "text" | "json")));
    }
    for (query, numbered) in [("debug=1", false), ("debug=2", true), ("debug=0", false)] {
        let path = folder.path().join(query);
        std::fs::File::create(&path)?.write_all(&own(&address, query)?)?;
        earlier.push((path.to_str().context("path")?.to_owned(), numbered));
    }
    std::thread::sleep(Duration::from_secs(2));
    let url = format!("http://{address}/debug/pprof/goroutine?debug=2");
    for (before, numbered) in &earlier {
        for after in [pid.as_str(), url.as_str()] {
            let output = parkranger(&["diff", before, after, "--format", "json"])?;
            ensure!(output.status.success(), "{before} {after}: {output:?}");
            let json: Value = serde_json::from_str(&text(&output)?)?;
            ensure!(json["only_counts"].is_null() == *numbered, "{before} {after}: {json:#}");
            let row = &json["sites"][0];
            let name = if *numbered { &row["function"] } else { &row["start_function"] };
            let expected = if *numbered { "main.timeoutAbandons" } else { "main.fetchQuote" };
            ensure!(name.as_str().is_some_and(|name| name.starts_with(expected)), "{before} {after}: {json:#}");
            let (before, after) = (row["before"].as_u64(), row["after"].as_u64());
            ensure!(before >= Some(2) && after > before, "{row:#}");
            if *numbered {
                // One may still have been asking at the first look, and have gone since.
                let unmoved = row["unmoved"].as_u64().context("unmoved")?;
                ensure!(Some(unmoved + 1) >= before && row["went"].as_u64() <= Some(1), "{row:#}");
            }
        }
    }
    let profile = folder.path().join("difference");
    let profile = profile.to_str().context("path")?;
    let output = parkranger(&["diff", &earlier[0].0, &pid, "--format", "pprof", "-o", profile])?;
    ensure!(output.status.success(), "{output:?}");
    let top = go.tool(&["pprof", "-top", profile])?;
    ensure!(top.contains("main.fetchQuote"), "{top}");
    // One alone is grouped; what is no dump is refused.
    let groups = text(&parkranger(&["diff", &pid])?)?;
    ensure!(groups.contains("main.timeoutAbandons") && groups.contains("chan send: "), "{groups}");
    ensure!(parkranger(&["diff", program.to_str().context("path")?])?.status.code() == Some(1), "a program is no dump");
    Ok(())
}

fn own(address: &str, query: &str) -> Result<Vec<u8>> {
    let mut stream = std::net::TcpStream::connect(address)?;
    write!(stream, "GET /debug/pprof/goroutine?{query} HTTP/1.0\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let body = answer.windows(4).position(|four| four == b"\r\n\r\n").context("no body")?;
    Ok(answer[body + 4..].to_vec())
}
