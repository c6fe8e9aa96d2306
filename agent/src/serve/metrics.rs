//! `/metrics`, and what the daemon counts of itself.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{extract::State as Extracted, http::StatusCode, response::Response};
use bytes::Bytes;
use prometheus::{
    Encoder as _, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder, core::Collector, process_collector::ProcessCollector,
};
use tokio::task::JoinHandle;

use super::{
    problem::Problem,
    reading::{made, whole},
    state::State,
};
use crate::{
    export::metrics::{self, SiteBook},
    snapshot::Snapshot,
};

/// What is counted, and the latest exposition.
pub(super) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    durations: HistogramVec,
    rejected: IntCounterVec,
    censuses: Histogram,
    exports: IntCounterVec,
    series: IntGauge,
    exposition: Mutex<Exposition>,
}

struct Exposition {
    book: SiteBook,
    /// The snapshot's part, which is the same for everyone who asks before the next one.
    last: Option<(Arc<Snapshot>, Bytes)>,
}

impl Metrics {
    pub(super) fn new(site_series: usize, leaks: IntGaugeVec) -> prometheus::Result<Self> {
        let registry = Registry::new();
        let requests = IntCounterVec::new(
            Opts::new("parkranger_http_requests_total", "Answered requests, by route and status."),
            &["route", "code"],
        )?;
        let durations = HistogramVec::new(
            HistogramOpts::new("parkranger_http_request_duration_seconds", "Time until an answer began, by route."),
            &["route"],
        )?;
        let rejected = IntCounterVec::new(
            Opts::new("parkranger_http_rejected_total", "Requests and connections turned away, by reason."),
            &["reason"],
        )?;
        let censuses = Histogram::with_opts(HistogramOpts::new(
            "parkranger_census_duration_seconds",
            "Time to read the goroutines of a process for a request.",
        ))?;
        let exports = IntCounterVec::new(
            Opts::new("parkranger_otlp_exports_total", "Exports to an OpenTelemetry collector, by result."),
            &["result"],
        )?;
        let series =
            IntGauge::new("parkranger_site_series_limit", "Most sites of a process with series of their own.")?;
        let info = Opts::new("parkranger_build_info", "The running parkranger; 1.");
        let info = Gauge::with_opts(info.const_label("version", env!("CARGO_PKG_VERSION")))?;
        info.set(1.0);
        let all: [Box<dyn Collector>; 9] = [
            Box::new(requests.clone()),
            Box::new(durations.clone()),
            Box::new(rejected.clone()),
            Box::new(censuses.clone()),
            Box::new(exports.clone()),
            Box::new(series.clone()),
            Box::new(info),
            Box::new(leaks),
            Box::new(ProcessCollector::for_self()),
        ];
        for collector in all {
            registry.register(collector)?;
        }
        series.set(i64::try_from(site_series).unwrap_or(i64::MAX));
        let exposition = Mutex::new(Exposition { book: SiteBook::new(site_series), last: None });
        Ok(Self { registry, requests, durations, rejected, censuses, exports, series, exposition })
    }

    pub(super) fn set_site_series(&self, most: usize) {
        self.series.set(i64::try_from(most).unwrap_or(i64::MAX));
        let mut exposition = self.exposition.lock().unwrap_or_else(PoisonError::into_inner);
        exposition.book.set_cap(most);
        exposition.last = None;
    }

    /// Gets to know what is new in a snapshot, before anybody asks for it.
    fn learn(&self, snapshot: &Snapshot) {
        self.exposition.lock().unwrap_or_else(PoisonError::into_inner).book.learn(snapshot);
    }

    /// Counts an answer.
    pub(super) fn request(&self, route: &str, code: StatusCode, took: Duration) {
        self.requests.with_label_values(&[route, code.as_str()]).inc();
        self.durations.with_label_values(&[route]).observe(took.as_secs_f64());
    }

    /// Counts what was turned away.
    pub(super) fn rejected(&self, reason: &str) {
        self.rejected.with_label_values(&[reason]).inc();
    }

    /// Counts an export.
    pub(super) fn export(&self, done: bool) {
        self.exports.with_label_values(&[if done { "done" } else { "failed" }]).inc();
    }

    /// The most sites of a process with series of their own.
    pub(super) fn site_series(&self) -> usize {
        usize::try_from(self.series.get()).unwrap_or(0)
    }

    /// Notes how long a census took.
    pub(super) fn census(&self, took: Duration) {
        self.censuses.observe(took.as_secs_f64());
    }
}

/// Begins to look at each snapshot when it is published: the first scrape of a large host is to take no longer than others.
pub(super) fn start(state: Arc<State>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut snapshots = state.snapshots();
        while snapshots.changed().await.is_ok() {
            let Some(snapshot) = snapshots.borrow_and_update().clone() else { continue };
            let state = Arc::clone(&state);
            // It cannot fail; if it did, scrapes would take longer.
            let _ = made(move || state.metrics.learn(&snapshot)).await;
        }
    })
}

/// `/metrics`
pub(super) async fn exposition(Extracted(state): Extracted<Arc<State>>) -> Result<Response, Problem> {
    let snapshot = state.snapshot()?;
    let text = made(move || render(&state, &snapshot)).await?;
    let text = text.map_err(|error| Problem::internal(format!("the metrics cannot be written: {error}")))?;
    Ok(whole(metrics::CONTENT_TYPE, text))
}

fn render(state: &State, snapshot: &Arc<Snapshot>) -> prometheus::Result<Vec<u8>> {
    let mut text = of_snapshot(state, snapshot)?.to_vec();
    TextEncoder::new().encode(&state.metrics.registry.gather(), &mut text)?;
    Ok(text)
}

/// The snapshot's part, made once.
fn of_snapshot(state: &State, snapshot: &Arc<Snapshot>) -> prometheus::Result<Bytes> {
    let mut exposition = state.metrics.exposition.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((of, text)) = &exposition.last
        // Whoever comes late with an older one gets what is newer.
        && of.time >= snapshot.time
    {
        return Ok(text.clone());
    }
    let text = Bytes::from(metrics::render(snapshot, &state.facts(), &mut exposition.book)?);
    exposition.last = Some((Arc::clone(snapshot), text.clone()));
    Ok(text)
}
