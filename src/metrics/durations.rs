//! A histogram of durations that costs the one who observes two atomic additions.
//!
//! Prometheus's own takes a lock, and its exponential buckets some 240 instructions. Here a duration is counted in one
//! exponential bucket (Prometheus's schema 3, OTLP's scale 3: each is 9 % wider than the one below),
//! all of which are there from the start; whoever looks gets those that are not empty, and, for the text
//! form, fixed buckets at powers of two, which are boundaries of both.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{
    EncodeMetric, MetricEncoder, NativeHistogram, NativeHistogramBuckets, NoLabelSet,
};
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::metrics::{MetricType, TypedMetric};

/// Exponential buckets to a power of two: 2^3.
const SCHEMA: i32 = 3;
const PER_POWER: i32 = 8;

/// The powers of two, in seconds, between which there are buckets: 1 ns to 4 minutes. What is shorter is
/// in the first bucket, what is longer in the last.
const POWERS: std::ops::RangeInclusive<i32> = -30..=8;
const FIRST: i32 = *POWERS.start() * PER_POWER;
const LAST: i32 = *POWERS.end() * PER_POWER;
const COUNT: usize = (LAST - FIRST + 1).unsigned_abs() as usize;

/// The fixed buckets end at these powers of two, in seconds: 4 µs to 2 s.
const FIXED: std::ops::RangeInclusive<i32> = -18..=1;

/// The width of the bucket of zero, as Prometheus recommends: 2^-128.
const ZERO_THRESHOLD: f64 = 2.938_735_877_055_719e-39;

const MANTISSA: u64 = (1 << 52) - 1;

/// The mantissas of 2^0, 2^(1/8) … 2^(7/8).
#[expect(clippy::approx_constant, reason = "to the last digit as Prometheus has it")]
const BOUNDS: [u64; 8] = [
    0,
    1.090_507_732_665_257_7_f64.to_bits() & MANTISSA,
    1.189_207_115_002_721_f64.to_bits() & MANTISSA,
    1.296_839_554_651_009_6_f64.to_bits() & MANTISSA,
    1.414_213_562_373_095_f64.to_bits() & MANTISSA,
    1.542_210_825_407_940_7_f64.to_bits() & MANTISSA,
    1.681_792_830_507_429_f64.to_bits() & MANTISSA,
    1.834_008_086_409_342_4_f64.to_bits() & MANTISSA,
];

/// A histogram of durations; a cheap clone is the same one.
#[derive(Clone)]
pub(super) struct Durations(Arc<Inner>);

struct Inner {
    /// From the index `FIRST` to `LAST`.
    buckets: [AtomicU64; COUNT],
    nanoseconds: AtomicU64,
}

impl Durations {
    /// Counts a duration.
    pub(super) fn observe(&self, duration: Duration) {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.0.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
        if let Some(bucket) = self.0.buckets.get(place(seconds(nanoseconds))) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The buckets that are not empty, by their index.
    fn filled(&self) -> Vec<(i32, u64)> {
        let counts = self.0.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        (FIRST..).zip(counts).filter(|(_, count)| *count > 0).collect()
    }
}

impl Default for Durations {
    fn default() -> Self {
        let buckets = [const { AtomicU64::new(0) }; COUNT];
        Self(Arc::new(Inner { buckets, nanoseconds: AtomicU64::default() }))
    }
}

impl fmt::Debug for Durations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Durations").finish_non_exhaustive()
    }
}

#[expect(clippy::cast_precision_loss, reason = "no bucket is that narrow")]
fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// Which of the buckets a positive number of seconds is in.
fn place(seconds: f64) -> usize {
    // Seconds are mantissa * 2^exponent, the mantissa being at least 1 and less than 2.
    let bits = seconds.to_bits();
    let exponent = i32::try_from(bits >> 52).unwrap_or_default() - 1023;
    let within: i32 = BOUNDS.iter().map(|bound| i32::from(*bound < bits & MANTISSA)).sum();
    let index = (exponent * PER_POWER + within).clamp(FIRST, LAST);
    usize::try_from(index - FIRST).unwrap_or_default()
}

/// How many durations are in each fixed bucket, by its upper bound.
fn fixed(filled: &[(i32, u64)]) -> Vec<(f64, u64)> {
    let mut left = filled.iter().peekable();
    let mut below = |end: i32| {
        let mut sum = 0;
        while let Some((_, count)) = left.next_if(|(index, _)| *index <= end) {
            sum += count;
        }
        sum
    };
    let bounds = FIXED.map(|power| (2_f64.powi(power), power * PER_POWER));
    let mut buckets: Vec<_> = bounds.map(|(bound, end)| (bound, below(end))).collect();
    buckets.push((f64::INFINITY, below(LAST)));
    buckets
}

/// The buckets as Prometheus has them: runs (the gap before each, its length), and of each bucket the
/// difference to the one before.
fn runs(filled: &[(i32, u64)]) -> (Vec<(i32, u32)>, Vec<i64>) {
    let (mut spans, mut deltas) = (Vec::<(i32, u32)>::new(), Vec::new());
    let (mut next, mut last) = (0, 0);
    for (index, count) in filled {
        let count = i64::try_from(*count).unwrap_or(i64::MAX);
        match spans.last_mut() {
            Some((_, length)) if *index == next => *length += 1,
            _ => spans.push((index - next, 1)),
        }
        deltas.push(count - last);
        (next, last) = (index + 1, count);
    }
    (spans, deltas)
}

impl TypedMetric for Durations {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Durations {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let sum = seconds(self.0.nanoseconds.load(Ordering::Relaxed));
        let filled = self.filled();
        let count = filled.iter().map(|(_, count)| count).sum();
        let (spans, deltas) = runs(&filled);
        let native = NativeHistogram {
            schema: SCHEMA,
            zero_threshold: ZERO_THRESHOLD,
            zero_count: 0,
            negative: NativeHistogramBuckets { spans: &[], deltas: &[] },
            positive: NativeHistogramBuckets { spans: &spans, deltas: &deltas },
            created: None,
        };
        let none: Option<&HashMap<usize, Exemplar<NoLabelSet, f64>>> = None;
        encoder.encode_histogram_with_native(sum, count, &fixed(&filled), none, native)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::prometheus_protobuf::{encode, prometheus_data_model};
    use prometheus_client::metrics::histogram::{Histogram, NativeHistogramConfig};
    use prometheus_client::registry::{Metric, Registry};
    use proptest::prelude::*;

    use super::*;

    fn encoded(metric: impl Metric) -> prometheus_data_model::Histogram {
        let mut registry = Registry::default();
        registry.register("durations", "Durations", metric);
        encode(&registry).unwrap().remove(0).metric.remove(0).histogram.unwrap()
    }

    /// Every bucket with its index: runs may be cut in more than one way.
    fn buckets(histogram: &prometheus_data_model::Histogram) -> Vec<(i32, i64)> {
        let (mut index, mut count) = (0, 0);
        let mut deltas = histogram.positive_delta.iter();
        let mut all = Vec::new();
        for span in &histogram.positive_span {
            index += span.offset;
            for delta in deltas.by_ref().take(span.length as usize) {
                count += delta;
                all.push((index, count));
                index += 1;
            }
        }
        all.retain(|(_, count)| *count > 0);
        all
    }

    proptest! {
        #[test]
        fn it_is_what_the_client_library_makes_of_the_same(
            nanoseconds in prop::collection::vec(
                prop_oneof![1_u64..2_000_000_000, 1_u64..100_000, (0_u32..34).prop_map(|n| 1 << n)], 0..60,
            ),
        ) {
            let ours = Durations::default();
            let bounds = FIXED.map(|power| 2_f64.powi(power));
            let native = NativeHistogramConfig::with_schema(3);
            let theirs = Histogram::new_classic_and_native(bounds, native);
            for nanoseconds in nanoseconds {
                ours.observe(Duration::from_nanos(nanoseconds));
                theirs.observe(seconds(nanoseconds));
            }
            let (ours, theirs) = (encoded(ours), encoded(theirs));
            prop_assert_eq!(buckets(&ours), buckets(&theirs));
            prop_assert_eq!(&ours.bucket, &theirs.bucket);
            prop_assert_eq!(ours.sample_count, theirs.sample_count);
            prop_assert_eq!((ours.schema, ours.zero_threshold), (theirs.schema, theirs.zero_threshold));
            prop_assert!((ours.sample_sum - theirs.sample_sum).abs() < 1e-9);
        }
    }

    #[test]
    fn what_is_beyond_is_in_the_last_buckets() {
        let durations = Durations::default();
        for duration in [Duration::ZERO, Duration::from_secs(86_400), Duration::MAX] {
            durations.observe(duration);
        }
        assert_eq!(durations.filled(), [(FIRST, 1), (LAST, 2)]);
        assert_eq!(fixed(&durations.filled()).last(), Some(&(f64::INFINITY, 2)));
    }

    #[test]
    fn a_boundary_belongs_to_the_bucket_below() {
        for power in POWERS {
            let index = |seconds| i32::try_from(place(seconds)).unwrap() + FIRST;
            let bound = 2_f64.powi(power);
            assert_eq!(index(bound), power * PER_POWER, "{power}");
            let above = index(bound * (1.0 + f64::EPSILON));
            assert_eq!(above, (power * PER_POWER + 1).min(LAST), "{power}");
        }
    }
}
