//! Metrics: a real Prometheus scrapes them, and what its queries give is what the ledger and the program say.

#![allow(missing_docs, reason = "tests")]

use std::fs;

use anyhow::{Context, Result, ensure};
use parkranger_tests::daemon::{Daemon, Served, Stats, serve};
use parkranger_tests::go::{Program, Toolchain, Variant, with_go};
use parkranger_tests::on_every_go;
use parkranger_tests::prometheus::{Prometheus, check_metrics, deploy, promtool};
use parkranger_tests::skip::{self, agent, prometheus};
use parkranger_tests::target::Target;
use serde::Deserialize;
use serde_json::Value;

on_every_go!(agent: runtimes_of_themselves, who_wants_to_run_is_in_a_queue);

/// The value of the one series of the daemon's own exposition that begins so.
fn metric(text: &str, series: &str) -> Result<f64> {
    let mut found = text.lines().filter(|line| line.starts_with(series));
    let line = found.next().with_context(|| format!("no {series}"))?;
    ensure!(found.next().is_none(), "{series} is there twice");
    Ok(line.rsplit_once(' ').context("a value")?.1.parse()?)
}

/// Garbage collections, heap, processors: as the program says, whether or not the binary has names for them.
fn runtimes_of_themselves(go: &Toolchain) -> Result<()> {
    for variant in [Variant::Plain, Variant::Pie, Variant::Stripped] {
        let program = go.build(Program::Served, variant)?.path;
        let mut served = Served::start(&program)?;
        let stats: Stats = served.ask("gc 5")?;
        let daemon = Daemon::start(&program)?;
        let rest = |process: &Value| process["goroutines"]["user"].as_i64() == Some(stats.goroutines);
        daemon.wait_until(served.pid(), "at rest", rest)?;
        // The numbers are read after the first snapshot, and shown with the next.
        std::thread::sleep(std::time::Duration::from_millis(700));
        let response = daemon.ok("/metrics")?;
        let text = response.text()?;
        // Nothing was collected since: no goroutine of the program runs.
        ensure!(metric(text, "parkranger_go_gc_cycles_total{")? == f64::from(stats.gc_cycles), "{stats:?}: {text}");
        let pause = metric(text, "parkranger_go_gc_pause_seconds_total{")?;
        ensure!((pause - stats.pause_ns as f64 * 1e-9).abs() < 1e-9, "{variant:?}: {pause}, {stats:?}");
        let goal = metric(text, "parkranger_go_heap_goal_bytes{")?;
        ensure!(goal == stats.next_gc as f64, "{variant:?}: {goal}, {stats:?}");
        let live = metric(text, "parkranger_go_heap_live_bytes{")?;
        // Whole spans are more than the objects in them.
        ensure!(live > 0.0 && live < goal, "{variant:?}: {live}, {stats:?}");
        ensure!(metric(text, "parkranger_go_processors{")? == f64::from(stats.processors), "{variant:?}: {text}");
        let idle = metric(text, "parkranger_go_idle_processors{")?;
        ensure!(idle <= f64::from(stats.processors), "{variant:?}: {idle}");
        let threads = fs::read_dir(format!("/proc/{}/task", served.pid()))?.count();
        let ours = metric(text, "parkranger_go_threads{")?;
        ensure!(ours >= 1.0 && ours <= threads as f64 + 1.0, "{variant:?}: {ours} Ms, {threads} threads");
        for queue in ["global_run_queue", "local_run_queue", "longest_run_queue"] {
            let waiting = metric(text, &format!("parkranger_go_{queue}_goroutines{{"))?;
            ensure!(waiting == 0.0, "{variant:?}: {waiting} in the {queue} of a program at rest");
        }
    }
    Ok(())
}

/// Of goroutines that all want to run, as many do as there are processors, and the others wait in the queues.
fn who_wants_to_run_is_in_a_queue(go: &Toolchain) -> Result<()> {
    const BUSY: f64 = 50.0;
    for variant in [Variant::Plain, Variant::Stripped] {
        let program = go.build(Program::Waits, variant)?.path;
        let mut target = Target::start(&program)?;
        let Busy { processors } = target.ask(&format!("busy {BUSY}"))?;
        let daemon = Daemon::start(&program)?;
        let is_watched = |process: &Value| process["goroutines"]["user"].as_f64() >= Some(BUSY);
        daemon.wait_until(target.pid(), "watched", is_watched)?;
        std::thread::sleep(std::time::Duration::from_millis(700));
        let response = daemon.ok("/metrics")?;
        let text = response.text()?;
        let global = metric(text, "parkranger_go_global_run_queue_goroutines{")?;
        let local = metric(text, "parkranger_go_local_run_queue_goroutines{")?;
        let longest = metric(text, "parkranger_go_longest_run_queue_goroutines{")?;
        // Not all is read at the same moment, and one that is moved may be seen twice, or not at all.
        let moved = processors;
        let waiting = BUSY - processors;
        ensure!(
            global + local >= waiting - moved && global + local <= BUSY + moved,
            "{variant:?}: {global} and {local} wait, of {BUSY} on {processors} Ps"
        );
        ensure!(longest <= local && longest * processors >= local, "{variant:?}: {longest} of {local}");
    }
    Ok(())
}

/// What `busy` answers; see `programs/waits/main.go`.
#[derive(Deserialize)]
struct Busy {
    processors: f64,
}

/// What promtool finds wrong with the exposition: nothing. Sites beyond the cap are summed, and nothing is lost in it.
#[test]
fn conventions_and_cardinality() {
    with_go("serve_metrics::conventions_and_cardinality", 27, prometheus, |go| {
        let (mut served, daemon) = serve(go, Variant::Plain, &["--site-series", "6"])?;
        served.ask("leak 40")?;
        let process = daemon.wait_until(served.pid(), "leaking", |process| process["births"].as_u64() >= Some(40))?;
        daemon.ok(&format!("/pids/{}/debug/pprof/goroutine", served.pid()))?;
        let response = daemon.ok("/metrics")?;
        check_metrics(&response.body)?;
        let text = response.text()?;
        let sites: Vec<&str> = text.lines().filter(|line| line.starts_with("parkranger_site_goroutines{")).collect();
        ensure!(sites.len() == 7 && sites.iter().any(|site| site.contains("main.leak")), "{sites:?}");
        let sum: f64 = sites.iter().filter_map(|site| site.rsplit_once(' ')?.1.parse::<f64>().ok()).sum();
        ensure!(Some(sum) == process["goroutines"]["live"].as_f64(), "{sum}: {sites:?}, {process}");
        Ok(())
    });
}

/// A scrape by the real thing; the queries of the dashboard; the alerts.
#[test]
fn prometheus_scrapes_it() {
    with_go("serve_metrics::prometheus_scrapes_it", 27, prometheus, |go| {
        let (mut served, daemon) = serve(go, Variant::Plain, &[])?;
        let stats = served.ask("leak 25")?;
        let rest = |process: &Value| {
            process["goroutines"]["user"].as_i64() == Some(stats.goroutines) && process["births"].as_u64() >= Some(25)
        };
        daemon.wait_until(served.pid(), "at rest", rest)?;
        let prometheus = Prometheus::start(daemon.address(), "")?;
        prometheus.wait_for("sum(parkranger_goroutines{kind=\"user\"})", stats.goroutines as f64)?;

        let sites = daemon.ok(&format!("/api/v1/processes/{}/sites?limit=1000", served.pid()))?.json()?;
        for site in sites["sites"].as_array().context("sites")? {
            let (function, start) = (site["function"].as_str(), site["start_function"].as_str());
            let location = format!("{}:{}", site["file"].as_str().unwrap_or_default(), site["line"]);
            let series = format!(
                "function={function:?},start_function={start:?},location={location:?}",
                function = function.unwrap_or_default(),
                start = start.unwrap_or_default()
            );
            for (metric, field) in [("goroutines", "live"), ("births_total", "births"), ("exits_total", "exits")] {
                let value = prometheus.value(&format!("parkranger_site_{metric}{{{series}}}"))?;
                ensure!(
                    value == site[field].as_f64(),
                    "{metric}{{{series}}}: {value:?}, the ledger has {}",
                    site[field]
                );
            }
        }
        let all = prometheus.value("sum(parkranger_site_goroutines)")?;
        let live = prometheus.value("sum(parkranger_goroutines)")?;
        ensure!(all.is_some() && all == live, "{all:?} by site, {live:?} by kind");
        // No stack is smaller than 2 KiB.
        let all = prometheus.value("sum(parkranger_site_stack_bytes)")?;
        let bytes = prometheus.value("sum(parkranger_stack_bytes)")?;
        ensure!(all == bytes && bytes > live.map(|live| live * 1024.0), "{all:?} by site, {bytes:?} in all, {live:?}");

        std::thread::sleep(std::time::Duration::from_secs(3));
        for query in dashboard_queries()? {
            let series = prometheus.query(&query)?;
            ensure!(!series.is_empty(), "the dashboard's {query} gives nothing");
        }
        let drift = prometheus.value("sum(parkranger_drift_goroutines_total)")?;
        ensure!(drift == Some(0.0), "{drift:?}");
        Ok(())
    });
}

/// Every query of the dashboard, its variables filled in.
fn dashboard_queries() -> Result<Vec<String>> {
    let dashboard: Value = serde_json::from_slice(&fs::read(deploy().join("grafana/parkranger.json"))?)?;
    let panels = dashboard["panels"].as_array().context("panels")?;
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let fill = |query: &str| {
        query
            .replace("$instance", ".*")
            .replace("$exe", ".*")
            .replace("$__rate_interval", "10s")
            .replace("[5m]", "[10s]")
            .replace("[1h]", "[10s]")
    };
    let queries: Vec<String> = targets.filter_map(|target| target["expr"].as_str()).map(fill).collect();
    ensure!(queries.len() > 15, "{queries:?}");
    Ok(queries)
}

/// Each alert fires when it should and not else, by promtool's word.
#[test]
fn alerts() {
    skip::run("serve_metrics::alerts", prometheus(), || {
        let said = promtool(&["check", "rules", "alerts.yml"])?;
        let rules = fs::read_to_string(deploy().join("prometheus/alerts.yml"))?;
        let tests = fs::read_to_string(deploy().join("prometheus/alerts_test.yml"))?;
        let names = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
        for name in names {
            ensure!(tests.contains(&format!("alertname: {name}\n")), "{name} has no test");
        }
        ensure!(said.contains("SUCCESS"), "{said}");
        promtool(&["test", "rules", "alerts_test.yml"])?;
        Ok(())
    });
}
