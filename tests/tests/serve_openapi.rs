//! The API is what its description says: schemathesis asks for everything in it, right and wrong.

#![allow(missing_docs, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use parkranger_tests::daemon::{serve, write_token};
use parkranger_tests::go::{Variant, with_go};
use parkranger_tests::skip::schemathesis;

const TOKEN: &str = "a-token-that-nobody-guesses";

#[test]
fn answers_are_as_described() {
    with_go("serve_openapi::answers_are_as_described", 27, schemathesis, |go| {
        // With a token: one request needs it even here.
        let directory = tempfile::tempdir()?;
        let token = directory.path().join("token");
        write_token(&token, TOKEN)?;
        let (mut served, daemon) = serve(go, Variant::Plain, &["--token-file", token.to_str().context("path")?])?;
        served.ask("leak 5")?;
        // A process that there is; no waiting for differences, which other tests have.
        let config = directory.path().join("schemathesis.toml");
        fs::write(&config, format!("[parameters]\npid = {}\nseconds = 0\n", served.pid()))?;
        let said = run(&config, &format!("http://{}", daemon.address()))?;
        // All but the description itself.
        ensure!(said.contains("Tested: 13"), "not all of it was tested: {said}");
        ensure!(daemon.get("/readyz")?.status == 200, "it lives");
        Ok(())
    });
}

/// Its report; an error where it found anything.
fn run(config: &Path, url: &str) -> Result<String> {
    let program = PathBuf::from(std::env::var_os("PARKRANGER_SCHEMATHESIS").context("schemathesis")?);
    let modules = program.parent().and_then(Path::parent).context("a folder")?;
    let output = Command::new(&program)
        .env("PYTHONPATH", modules)
        .arg("--config-file")
        .arg(config)
        .args(["run", "--url", url, "--max-examples", "20", "--phases", "coverage,fuzzing", "--seed", "1"])
        .args(["--header", &format!("Authorization: Bearer {TOKEN}")])
        .arg(format!("{url}/openapi.json"))
        .current_dir(config.parent().context("a folder")?)
        .output()?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "{said}");
    Ok(said)
}
