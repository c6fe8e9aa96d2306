//! One metric family in the making.

use prometheus::proto::{Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

pub(super) struct Family {
    name: String,
    help: &'static str,
    kind: MetricType,
    metrics: Vec<Metric>,
}

impl Family {
    pub(super) fn counter(name: &str, help: &'static str) -> Self {
        Self { name: name.to_owned(), help, kind: MetricType::COUNTER, metrics: Vec::new() }
    }

    pub(super) fn gauge(name: &str, help: &'static str) -> Self {
        Self { name: name.to_owned(), help, kind: MetricType::GAUGE, metrics: Vec::new() }
    }

    pub(super) fn histogram(name: &str, help: &'static str) -> Self {
        Self { name: name.to_owned(), help, kind: MetricType::HISTOGRAM, metrics: Vec::new() }
    }

    /// For histograms.
    pub(super) fn observe(&mut self, labels: Vec<LabelPair>, histogram: Histogram) {
        let mut metric = Metric::from_label(labels);
        metric.set_histogram(histogram);
        self.metrics.push(metric);
    }

    /// For counters and gauges.
    pub(super) fn add(&mut self, labels: Vec<LabelPair>, value: f64) {
        let mut metric = Metric::from_label(labels);
        if self.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.metrics.push(metric);
    }

    /// The family; `None` where there is nothing in it.
    pub(super) fn finish(self) -> Option<MetricFamily> {
        if self.metrics.is_empty() {
            return None;
        }
        let mut family = MetricFamily::default();
        family.set_name(self.name);
        family.set_help(self.help.to_owned());
        family.set_field_type(self.kind);
        family.set_metric(self.metrics);
        Some(family)
    }
}

pub(super) fn label(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}
