//! What happened between two scrapes of one process. Counters of a process that was started again
//! count from zero. Pure.

use std::collections::BTreeMap;

use super::exposition::{Exposition, Sample};
use super::quantile::Buckets;

/// By how much each series of a counter grew.
pub(super) fn increases<'a>(
    before: &'a Exposition,
    now: &'a Exposition,
    name: &'a str,
) -> impl Iterator<Item = (&'a Sample, f64)> {
    let earlier: BTreeMap<_, _> = before
        .named(name)
        .map(|sample| (&sample.labels, sample.value))
        .collect();
    now.named(name).map(move |sample| {
        let before = earlier.get(&sample.labels).copied().unwrap_or(0.0);
        let grown = if sample.value < before {
            sample.value
        } else {
            sample.value - before
        };
        (sample, grown)
    })
}

/// The latencies of calls that were counted where they began, milliseconds, by what `key` makes of
/// their series.
pub(super) fn latencies<K: Ord>(
    before: &Exposition,
    now: &Exposition,
    key: impl Fn(&Sample) -> K,
) -> BTreeMap<K, Buckets> {
    let histograms = |exposition: &Exposition| {
        let mut found: BTreeMap<K, Buckets> = BTreeMap::new();
        for sample in exposition.named("istio_request_duration_milliseconds_bucket") {
            if sample.label("reporter") == "source"
                && let Ok(bound) = sample.label("le").replace("+Inf", "inf").parse()
            {
                found
                    .entry(key(sample))
                    .or_default()
                    .add(bound, sample.value);
            }
        }
        found
    };
    let before = histograms(before);
    histograms(now)
        .into_iter()
        .map(|(key, now)| {
            let counted = before.get(&key).map(|before| now.since(before));
            (key, counted.unwrap_or(now))
        })
        .collect()
}

/// Whether a series of `istio_requests_total` counts calls that succeeded.
pub(super) fn succeeded(sample: &Sample) -> bool {
    let http = sample
        .label("response_code")
        .parse::<u16>()
        .is_ok_and(|code| (100..400).contains(&code));
    http && matches!(sample.label("grpc_response_status"), "" | "0")
}
