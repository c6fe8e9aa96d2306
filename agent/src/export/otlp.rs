//! Metric families as OpenTelemetry takes them (OTLP): the same names, labels and values as for Prometheus. What only
//! grows is a cumulative sum, histograms are those, everything else a gauge.

use std::time::SystemTime;

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
        ScopeMetrics, Sum, metric, number_data_point,
    },
    resource::v1::Resource,
};
use prometheus::proto::{Metric as Series, MetricFamily, MetricType};
use prost::Message as _;

/// Between when and when.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// When sums began.
    pub start: SystemTime,
    /// When the values were read.
    pub now: SystemTime,
}

/// The body of an export request, with `attributes` of who sends it. Families that are none of counters, gauges and
/// histograms are left out.
#[must_use]
pub fn request(families: &[MetricFamily], times: Times, attributes: &[(&str, &str)]) -> Vec<u8> {
    let metrics = families.iter().filter_map(|family| metric(family, times)).collect();
    let scope = InstrumentationScope {
        name: "parkranger".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let attributes = attributes.iter().map(|(key, value)| attribute(key, value)).collect();
    let resource = ResourceMetrics {
        resource: Some(Resource { attributes, ..Resource::default() }),
        scope_metrics: vec![ScopeMetrics { scope: Some(scope), metrics, ..ScopeMetrics::default() }],
        ..ResourceMetrics::default()
    };
    ExportMetricsServiceRequest { resource_metrics: vec![resource] }.encode_to_vec()
}

fn metric(family: &MetricFamily, times: Times) -> Option<Metric> {
    let points = |value: fn(&Series) -> f64| {
        family.get_metric().iter().map(|series| point(series, value(series), times)).collect()
    };
    let data = match family.get_field_type() {
        MetricType::COUNTER => metric::Data::Sum(Sum {
            data_points: points(|series| series.get_counter().get_value()),
            aggregation_temporality: AggregationTemporality::Cumulative.into(),
            is_monotonic: true,
        }),
        MetricType::GAUGE => {
            metric::Data::Gauge(Gauge { data_points: points(|series| series.get_gauge().get_value()) })
        }
        MetricType::HISTOGRAM => metric::Data::Histogram(Histogram {
            data_points: family.get_metric().iter().map(|series| histogram(series, times)).collect(),
            aggregation_temporality: AggregationTemporality::Cumulative.into(),
        }),
        _ => return None,
    };
    Some(Metric {
        name: family.name().to_owned(),
        description: family.help().to_owned(),
        unit: unit(family.name()).to_owned(),
        data: Some(data),
        ..Metric::default()
    })
}

fn histogram(series: &Series, times: Times) -> HistogramDataPoint {
    let histogram = series.get_histogram();
    let mut below = 0;
    let mut bucket_counts: Vec<u64> = Vec::new();
    for bucket in histogram.get_bucket() {
        bucket_counts.push(bucket.cumulative_count().saturating_sub(below));
        below = bucket.cumulative_count();
    }
    bucket_counts.push(histogram.get_sample_count().saturating_sub(below));
    HistogramDataPoint {
        attributes: attributes(series),
        start_time_unix_nano: nanoseconds(times.start),
        time_unix_nano: nanoseconds(times.now),
        count: histogram.get_sample_count(),
        sum: Some(histogram.get_sample_sum()),
        bucket_counts,
        explicit_bounds: histogram.get_bucket().iter().map(prometheus::proto::Bucket::upper_bound).collect(),
        ..HistogramDataPoint::default()
    }
}

fn attributes(series: &Series) -> Vec<KeyValue> {
    series.get_label().iter().map(|label| attribute(label.name(), label.value())).collect()
}

fn point(series: &Series, value: f64, times: Times) -> NumberDataPoint {
    NumberDataPoint {
        attributes: attributes(series),
        start_time_unix_nano: nanoseconds(times.start),
        time_unix_nano: nanoseconds(times.now),
        value: Some(number_data_point::Value::AsDouble(value)),
        ..NumberDataPoint::default()
    }
}

fn attribute(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) };
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}

/// The unit as UCUM writes it, out of the name.
fn unit(name: &str) -> &'static str {
    match name.trim_end_matches("_total") {
        name if name.ends_with("_seconds") => "s",
        name if name.ends_with("_bytes") => "By",
        name if name.ends_with("_goroutines") => "{goroutine}",
        _ => "1",
    }
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
}
