//! The metrics of the registry as OTLP has them, under the names that `/metrics` shows.
//!
//! A native histogram of Prometheus and an exponential one of OTLP have the same boundaries, powers of
//! 2^(2^-schema); Prometheus counts its buckets by their upper ones, and OTLP by their lower ones.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Metric,
    NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prometheus::{BucketSpan, MetricFamily, MetricType};
use prometheus_client::encoding::prometheus_protobuf::prometheus_data_model as prometheus;

use super::{scope, text};

/// From when to when what is sent was counted, in nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) start: u64,
    pub(super) end: u64,
}

pub(super) fn request(
    resource: &Resource,
    families: Vec<MetricFamily>,
    time: Span,
) -> ExportMetricsServiceRequest {
    let metrics = families.into_iter().filter_map(|family| metric(family, time)).collect();
    let scope_metrics = ScopeMetrics { scope: Some(scope()), metrics, ..ScopeMetrics::default() };
    let resource_metrics = ResourceMetrics {
        resource: Some(resource.clone()),
        scope_metrics: vec![scope_metrics],
        ..ResourceMetrics::default()
    };
    ExportMetricsServiceRequest { resource_metrics: vec![resource_metrics] }
}

/// `None` of a family without a sample.
fn metric(family: MetricFamily, time: Span) -> Option<Metric> {
    if family.metric.is_empty() {
        return None;
    }
    let temporality = AggregationTemporality::Cumulative.into();
    let (kind, unit) = (family.r#type(), unit(&family.name));
    let samples = family.metric.into_iter();
    let data = match kind {
        MetricType::Counter => Data::Sum(Sum {
            data_points: samples
                .filter_map(|sample| Some(number(sample.label, sample.counter?.value, time)))
                .collect(),
            aggregation_temporality: temporality,
            is_monotonic: true,
        }),
        MetricType::Gauge => Data::Gauge(Gauge {
            data_points: samples
                .filter_map(|sample| Some(number(sample.label, sample.gauge?.value, time)))
                .collect(),
        }),
        MetricType::Histogram => Data::ExponentialHistogram(ExponentialHistogram {
            data_points: samples
                .filter_map(|sample| Some(histogram(sample.label, sample.histogram?, time)))
                .collect(),
            aggregation_temporality: temporality,
        }),
        // There are none.
        MetricType::Summary | MetricType::Untyped | MetricType::GaugeHistogram => return None,
    };
    let (name, description) = (family.name, family.help);
    Some(Metric { name, description, unit, data: Some(data), ..Metric::default() })
}

/// As UCUM has it.
fn unit(name: &str) -> String {
    let of = |unit: &str| name.ends_with(unit) || name.ends_with(&format!("{unit}_total"));
    let unit = if of("_seconds") || of("_seconds_left") {
        "s"
    } else if of("_bytes") {
        "By"
    } else {
        ""
    };
    unit.to_owned()
}

fn number(labels: Vec<prometheus::LabelPair>, value: f64, time: Span) -> NumberDataPoint {
    NumberDataPoint {
        attributes: attributes(labels),
        start_time_unix_nano: time.start,
        time_unix_nano: time.end,
        value: Some(number_data_point::Value::AsDouble(value)),
        ..NumberDataPoint::default()
    }
}

fn histogram(
    labels: Vec<prometheus::LabelPair>,
    native: prometheus::Histogram,
    time: Span,
) -> ExponentialHistogramDataPoint {
    ExponentialHistogramDataPoint {
        attributes: attributes(labels),
        start_time_unix_nano: time.start,
        time_unix_nano: time.end,
        count: native.sample_count,
        sum: Some(native.sample_sum),
        scale: native.schema,
        zero_count: native.zero_count,
        zero_threshold: native.zero_threshold,
        // No duration is negative.
        positive: Some(buckets(&native.positive_span, &native.positive_delta)),
        ..ExponentialHistogramDataPoint::default()
    }
}

/// Every bucket from the first to the last, those between spans empty.
fn buckets(spans: &[BucketSpan], deltas: &[i64]) -> Buckets {
    let (mut deltas, mut count) = (deltas.iter(), 0_i64);
    let mut bucket_counts = Vec::new();
    for (index, span) in spans.iter().enumerate() {
        // That of the first is where it begins.
        let gap = if index == 0 { 0 } else { usize::try_from(span.offset).unwrap_or_default() };
        bucket_counts.resize(bucket_counts.len() + gap, 0);
        for delta in deltas.by_ref().take(span.length as usize) {
            count = count.saturating_add(*delta);
            bucket_counts.push(u64::try_from(count).unwrap_or_default());
        }
    }
    let first = spans.first().map_or(0, |span| span.offset);
    let offset = if bucket_counts.is_empty() { 0 } else { first.saturating_sub(1) };
    Buckets { offset, bucket_counts }
}

fn attributes(labels: Vec<prometheus::LabelPair>) -> Vec<KeyValue> {
    labels.into_iter().map(|label| text(&label.name, label.value)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::Metrics;

    fn sent(metrics: &Metrics) -> Vec<Metric> {
        let time = Span { start: 1, end: 2 };
        let mut request = request(&Resource::default(), metrics.families(), time);
        request.resource_metrics.remove(0).scope_metrics.remove(0).metrics
    }

    #[test]
    fn a_counter_and_a_gauge_are_what_the_text_shows() {
        let metrics = Metrics::new();
        metrics.decision("orders", "deny", "forbidden", Duration::from_millis(3));
        metrics.signing_key_left("orders", Duration::from_secs(9));
        let sent = sent(&metrics);
        let find = |name: &str| sent.iter().find(|metric| metric.name == name).unwrap();
        let Some(Data::Sum(sum)) = &find("placet_decisions_total").data else { panic!() };
        assert!(sum.is_monotonic);
        let point = &sum.data_points[0];
        assert_eq!(point.value, Some(number_data_point::Value::AsDouble(1.0)));
        assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (1, 2));
        let names: Vec<_> = point.attributes.iter().map(|it| it.key.as_str()).collect();
        assert_eq!(names, ["scope", "outcome", "reason"]);
        let left = find("placet_signing_key_seconds_left");
        let Some(Data::Gauge(gauge)) = &left.data else { panic!() };
        assert_eq!(gauge.data_points[0].value, Some(number_data_point::Value::AsDouble(9.0)));
        assert_eq!(left.unit, "s");
        assert!(!sent.iter().any(|metric| metric.name.contains("shadow")), "of what has no sample");
    }

    #[test]
    fn a_duration_is_in_the_bucket_that_has_it() {
        let metrics = Metrics::new();
        let durations = [1e-5, 0.003, 0.003, 0.25, 0.7];
        for seconds in durations {
            metrics.decision("", "deny", "overload", Duration::from_secs_f64(seconds));
        }
        let sent = sent(&metrics);
        let name = "placet_check_duration_seconds";
        let metric = sent.iter().find(|metric| metric.name == name).unwrap();
        let Some(Data::ExponentialHistogram(histogram)) = &metric.data else { panic!() };
        let point = &histogram.data_points[0];
        assert_eq!((point.count, point.zero_count), (5, 0));
        let buckets = point.positive.as_ref().unwrap();
        assert_eq!(buckets.bucket_counts.iter().sum::<u64>(), 5);
        let base = 2_f64.powf(2_f64.powi(-point.scale));
        for seconds in durations {
            let of_it = buckets.bucket_counts.iter().zip(buckets.offset..).find(|(_, index)| {
                let lower = base.powi(*index);
                lower < seconds && seconds <= lower * base * (1.0 + 1e-12)
            });
            let expected = durations.iter().filter(|other| **other == seconds).count() as u64;
            assert_eq!(of_it.map(|(count, _)| *count), Some(expected), "{seconds}");
        }
    }

    #[test]
    fn gaps_between_spans_are_empty_buckets() {
        let spans = [BucketSpan { offset: -3, length: 2 }, BucketSpan { offset: 2, length: 1 }];
        let read = buckets(&spans, &[5, -2, 4]);
        assert_eq!((read.offset, read.bucket_counts), (-4, vec![5, 3, 0, 0, 7]));
        assert_eq!(buckets(&[], &[]), Buckets::default());
        assert_eq!(buckets(&[BucketSpan { offset: 0, length: 0 }], &[]), Buckets::default());
    }
}
