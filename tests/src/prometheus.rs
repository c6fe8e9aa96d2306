//! A real Prometheus that scrapes a daemon, and promtool.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::http::get;

const PATIENCE: Duration = Duration::from_secs(60);

/// A Prometheus with a database of its own. Killed when dropped.
#[derive(Debug)]
pub struct Prometheus {
    child: Child,
    address: String,
    _directory: tempfile::TempDir,
}

impl Prometheus {
    /// Scrapes `target`, `HOST:PORT`, every second, and returns when it has once. `more` is added to the job.
    ///
    /// # Errors
    /// When it has not in time.
    pub fn start(target: &str, more: &str) -> Result<Prometheus> {
        let directory = tempfile::tempdir()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = directory.path().join("prometheus.yml");
        let job = format!(
            "scrape_configs:\n  - job_name: parkranger\n    static_configs:\n      - targets: ['{target}']\n{more}"
        );
        fs::write(&config, format!("global:\n  scrape_interval: 1s\n  evaluation_interval: 1s\n{job}"))?;
        let log = fs::File::create(directory.path().join("log"))?;
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let prometheus = Prometheus { child, address: format!("127.0.0.1:{port}"), _directory: directory };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let up = prometheus.value("up{job=\"parkranger\"}");
            if matches!(up, Ok(Some(1.0))) {
                return Ok(prometheus);
            }
            if Instant::now() > deadline {
                let log = fs::read_to_string(prometheus._directory.path().join("log"))?;
                bail!("Prometheus has not scraped {target} in {PATIENCE:?}: {up:?}: {log}");
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// What a query gives now: labels and value of each series.
    ///
    /// # Errors
    /// When it is no query.
    pub fn query(&self, query: &str) -> Result<Vec<(Value, f64)>> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let response = get(&self.address, &format!("/api/v1/query?query={encoded}"))?;
        let answer = response.json()?;
        ensure!(answer["status"] == "success", "{query}: {answer}");
        let result = answer["data"]["result"].as_array().with_context(|| format!("{query}: {answer}"))?;
        let series = result.iter().map(|series| {
            let value = series["value"][1].as_str().context("a value")?.parse()?;
            Ok((series["metric"].clone(), value))
        });
        series.collect()
    }

    /// The value of a query with one series; `None` where there is none.
    ///
    /// # Errors
    /// When there are several.
    pub fn value(&self, query: &str) -> Result<Option<f64>> {
        let series = self.query(query)?;
        ensure!(series.len() <= 1, "{query}: {series:?}");
        Ok(series.first().map(|(_, value)| *value))
    }

    /// Waits until a query has that value.
    ///
    /// # Errors
    /// When it has not in time.
    pub fn wait_for(&self, query: &str, wanted: f64) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let value = self.value(query)?;
            if value == Some(wanted) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{query} is {value:?} and not {wanted}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may be gone already, which is just as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What promtool says of text it is given.
///
/// # Errors
/// When it finds anything wrong.
pub fn check_metrics(text: &[u8]) -> Result<()> {
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = promtool.spawn()?;
    child.stdin.take().context("stdin")?.write_all(text)?;
    let output = child.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(output.status.success() && said.is_empty(), "promtool: {}", String::from_utf8_lossy(&said));
    Ok(())
}

/// Runs promtool on files of `deploy/prometheus`.
///
/// # Errors
/// When it finds anything wrong.
pub fn promtool(args: &[&str]) -> Result<String> {
    let output = Command::new("promtool").args(args).current_dir(deploy().join("prometheus")).output()?;
    let said = String::from_utf8([output.stdout, output.stderr].concat())?;
    ensure!(output.status.success(), "promtool {args:?}: {said}");
    Ok(said)
}

/// The folder of what is deployed with parkranger.
pub fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}
