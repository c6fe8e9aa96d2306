//! Sends the metrics to an OpenTelemetry collector, OTLP over HTTP. What cannot be sent is sent with the next: sums are
//! cumulative.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use axum::http::{Request, StatusCode, header};
use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};
use tracing::{info, warn};

use super::{problem::Problem, reading::made, settings::Collector, state::State, tls};
use crate::{
    export::{
        metrics::{SiteBook, families},
        otlp::{Times, request},
    },
    snapshot::Snapshot,
};

/// For a collector to take an export.
const SEND_WITHIN: Duration = Duration::from_secs(10);

/// Begins to send.
pub(super) fn start(collector: Collector, state: Arc<State>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let start = SystemTime::now();
        let book = Arc::new(Mutex::new(SiteBook::new(state.metrics.site_series())));
        let mut ticks = interval(collector.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            ticks.tick().await;
            let Some(snapshot) = state.latest() else { continue };
            let sent = match body(&state, snapshot, &book, start).await {
                Ok(body) => send(&collector, body).await,
                Err(problem) => Err(io::Error::other(problem.kind())),
            };
            state.metrics.export(sent.is_ok());
            match &sent {
                Err(error) if !failing => warn!("metrics not sent to {}: {error}", collector.authority),
                Ok(()) if failing => info!("metrics sent to {} again", collector.authority),
                _ => {}
            }
            failing = sent.is_err();
        }
    })
}

async fn body(
    state: &Arc<State>,
    snapshot: Arc<Snapshot>,
    book: &Arc<Mutex<SiteBook>>,
    start: SystemTime,
) -> Result<Vec<u8>, Problem> {
    let (state, book) = (Arc::clone(state), Arc::clone(book));
    made(move || {
        let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
        book.set_cap(state.metrics.site_series());
        let families = families(&snapshot, &state.facts(), &mut book);
        let host = rustix::system::uname();
        let host = host.nodename().to_string_lossy();
        let attributes =
            [("service.name", "parkranger"), ("service.version", env!("CARGO_PKG_VERSION")), ("host.name", &*host)];
        request(&families, Times { start, now: snapshot.time }, &attributes)
    })
    .await
}

async fn send(collector: &Collector, body: Vec<u8>) -> io::Result<()> {
    let post = async {
        let stream = TcpStream::connect(&collector.authority).await?;
        let Some(host) = &collector.tls else { return post(collector, stream, body).await };
        // Read anew each time: certificates are replaced while the daemon runs.
        let connector = TlsConnector::from(tls::client()?);
        let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
        post(collector, connector.connect(name, stream).await?, body).await
    };
    timeout(SEND_WITHIN, post).await.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
}

async fn post(
    collector: &Collector,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    body: Vec<u8>,
) -> io::Result<()> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let connection = tokio::spawn(connection);
    let request = Request::post(&collector.path)
        .header(header::HOST, &collector.authority)
        .header(header::CONTENT_TYPE, "application/x-protobuf")
        .body(Full::new(Bytes::from(body)))
        .map_err(io::Error::other)?;
    let status = sender.send_request(request).await.map(|response| response.status());
    connection.abort();
    match status.map_err(io::Error::other)? {
        StatusCode::OK => Ok(()),
        other => Err(io::Error::other(format!("it answers {other}"))),
    }
}
