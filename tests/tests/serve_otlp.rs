//! Metrics sent to an OpenTelemetry collector are those that are served.

#![allow(missing_docs, reason = "tests")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value::AsDouble;
use opentelemetry_proto::tonic::metrics::v1::{AggregationTemporality, Metric, NumberDataPoint, metric};
use parkranger_tests::daemon::{Daemon, Served};
use parkranger_tests::go::{Program, Variant, with_go};
use parkranger_tests::skip::agent;
use prost::Message;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

#[test]
fn a_collector_gets_what_is_served() {
    with_go("serve_otlp::a_collector_gets_what_is_served", 27, agent, |go| {
        let program = go.build(Program::Served, Variant::Plain)?.path;
        let mut served = Served::start(&program)?;
        let stats = served.ask("leak 12")?;
        let collector = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}", collector.local_addr()?);
        let daemon = Daemon::start_with(&program, &["--otlp-endpoint", &url, "--otlp-interval", "200ms"])?;
        let rest = |process: &serde_json::Value| process["goroutines"]["user"].as_i64() == Some(stats.goroutines);
        let process = daemon.wait_until(served.pid(), "at rest", rest)?;
        // The first is refused, and the next has everything all the same.
        take(&collector, "503 Service Unavailable")?;
        std::thread::sleep(Duration::from_millis(500));
        let mut export = take(&collector, "200 OK")?;
        // One may have been under way since before.
        for _ in 0..2 {
            export = take(&collector, "200 OK")?;
        }
        let resource = export.resource_metrics.first().context("a resource")?;
        let attributes = &resource.resource.as_ref().context("a resource")?.attributes;
        ensure!(attributes.iter().any(|attribute| attribute.key == "service.name"), "{attributes:?}");
        let metrics = &resource.scope_metrics.first().context("a scope")?.metrics;

        let goroutines = points(metrics, "parkranger_goroutines")?;
        let user = goroutines.iter().find(|point| has(point, "kind", "user")).context("user")?;
        ensure!(user.value == Some(AsDouble(stats.goroutines as f64)), "{user:?}, {stats:?}");
        ensure!(has(user, "pid", &served.pid().to_string()) && user.time_unix_nano > 0, "{user:?}");
        let births = points(metrics, "parkranger_births_total")?;
        ensure!(
            births.len() == 1 && births[0].value == process["births"].as_f64().map(AsDouble),
            "{births:?}, {process}"
        );
        ensure!(births[0].start_time_unix_nano > 0, "{births:?}");
        let sites = points(metrics, "parkranger_site_goroutines")?;
        let leak = sites.iter().find(|point| has(point, "function", "main.leak")).context("main.leak")?;
        ensure!(leak.value == Some(AsDouble(12.0)), "{leak:?}");

        std::thread::sleep(Duration::from_millis(300));
        let text = daemon.ok("/metrics")?;
        let text = text.text()?;
        ensure!(text.contains("parkranger_otlp_exports_total{result=\"failed\"} 1\n"), "{text}");
        Ok(())
    });
}

/// By TLS, to whom this host's certificates vouch for, and to nobody else.
#[test]
fn a_collector_proves_who_it_is() {
    with_go("serve_otlp::a_collector_proves_who_it_is", 27, agent, |go| {
        let program = go.build(Program::Served, Variant::Plain)?.path;
        let served = Served::start(&program)?;
        let collector = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("https://{}", collector.local_addr()?);
        let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
        let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
        let tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key)?;
        let tls = Arc::new(tls);
        let directory = tempfile::tempdir()?;
        let trusted = directory.path().join("trusted.pem");
        std::fs::write(&trusted, certified.cert.pem())?;
        let other = directory.path().join("other.pem");
        std::fs::write(&other, rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?.cert.pem())?;

        for (certificates, is_trusted) in [(&other, false), (&trusted, true)] {
            let variable = format!("SSL_CERT_FILE={}", certificates.display());
            let args = ["--otlp-endpoint", &url, "--otlp-interval", "200ms"];
            let daemon = Daemon::start_under(&["env", &variable], &program, &args)?;
            daemon.wait_until(served.pid(), "there", |_| true)?;
            let (stream, _) = collector.accept()?;
            stream.set_read_timeout(Some(Duration::from_secs(30)))?;
            let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(&tls))?, stream);
            if is_trusted {
                let export = take_from(&mut stream, "200 OK")?;
                let metrics = &export.resource_metrics[0].scope_metrics[0].metrics;
                ensure!(!points(metrics, "parkranger_goroutines")?.is_empty(), "{metrics:?}");
            } else {
                let heard = request(&mut stream);
                ensure!(heard.is_err(), "it was told to a stranger: {heard:?}");
            }
        }
        Ok(())
    });
}

/// What is no URL of a collector is refused at the start.
#[test]
fn other_urls() {
    parkranger_tests::skip::run("serve_otlp::other_urls", agent(), || {
        for url in ["ftp://collector.example", "localhost:4318", "x"] {
            let output = parkranger_tests::daemon::refused(["--otlp-endpoint", url])?;
            ensure!(output.status.code() == Some(1) && output.stderr.contains("otlp-endpoint"), "{url}: {output:?}");
        }
        Ok(())
    });
}

/// The data points of a metric; births must be a sum that only grows.
fn points<'a>(metrics: &'a [Metric], name: &str) -> Result<&'a [NumberDataPoint]> {
    let metric = metrics.iter().find(|metric| metric.name == name).with_context(|| format!("no {name}"))?;
    match metric.data.as_ref() {
        Some(metric::Data::Gauge(gauge)) if !name.ends_with("_total") => Ok(&gauge.data_points),
        Some(metric::Data::Sum(sum)) if name.ends_with("_total") => {
            let cumulative = sum.aggregation_temporality == AggregationTemporality::Cumulative as i32;
            ensure!(sum.is_monotonic && cumulative, "{sum:?}");
            Ok(&sum.data_points)
        }
        other => bail!("{name} is {other:?}"),
    }
}

fn has(point: &NumberDataPoint, key: &str, value: &str) -> bool {
    point.attributes.iter().any(|attribute| {
        attribute.key == key && format!("{:?}", attribute.value).contains(&format!("StringValue({value:?})"))
    })
}

/// Takes one export, and answers it so.
fn take(collector: &TcpListener, answer: &str) -> Result<ExportMetricsServiceRequest> {
    let (mut stream, _) = collector.accept()?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    take_from(&mut stream, answer)
}

fn take_from(stream: &mut (impl Read + Write), answer: &str) -> Result<ExportMetricsServiceRequest> {
    let (head, body) = request(stream)?;
    ensure!(head.starts_with("POST /v1/metrics HTTP/1.1\r\n"), "{head}");
    ensure!(head.to_ascii_lowercase().contains("content-type: application/x-protobuf"), "{head}");
    stream.write_all(format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n").as_bytes())?;
    Ok(ExportMetricsServiceRequest::decode(&body[..])?)
}

fn request(stream: &mut impl Read) -> Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 65536];
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end + 4].to_vec())?;
            let length = head.to_ascii_lowercase();
            let length = length.lines().find_map(|line| line.strip_prefix("content-length: ")).context("a length")?;
            let whole = end + 4 + length.trim().parse::<usize>()?;
            if bytes.len() >= whole {
                return Ok((head, bytes[end + 4..whole].to_vec()));
            }
        }
        let read = stream.read(&mut buffer)?;
        ensure!(read > 0, "the request ends early");
        bytes.extend_from_slice(&buffer[..read]);
    }
}
