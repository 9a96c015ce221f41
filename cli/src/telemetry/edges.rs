//! Who calls whom: one row for each pair of identities, computed from two scrapes of every
//! sidecar. Calls are counted where they begin (`reporter="source"`), so that those count that
//! never arrived; refusals where they are decided. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use super::change::{self, increases, succeeded};
use super::exposition::{Exposition, Sample};
use super::quantile::Buckets;

/// What each sidecar exposed at one moment, by Workload. One that did not answer is absent.
pub type Scrape = BTreeMap<String, Scraped>;

/// What one sidecar exposed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scraped {
    /// The SPIFFE ID of its Workload.
    pub identity: String,
    /// Its metrics.
    pub metrics: Exposition,
}

/// Two identities: who calls, and whom.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Edge {
    /// The caller's SPIFFE ID.
    pub source: String,
    /// The callee's SPIFFE ID, or the Service's name when no instance was reached.
    pub destination: String,
}

/// One edge between two scrapes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Who calls whom.
    #[serde(flatten)]
    pub edge: Edge,
    /// Calls in a second.
    pub per_second: f64,
    /// The share that succeeded, 0 to 1; none without calls.
    pub success: Option<f64>,
    /// Milliseconds.
    pub p50_ms: Option<f64>,
    /// Milliseconds.
    pub p99_ms: Option<f64>,
    /// Refusals in this interval, by reason.
    pub refused: BTreeMap<String, f64>,
    /// Whether every call was between two verified certificates.
    pub mutual_tls: bool,
}

#[derive(Debug, Default)]
struct Total {
    calls: f64,
    good: f64,
    plain: f64,
    latency: Buckets,
    refused: BTreeMap<String, f64>,
}

/// The rows between two scrapes that were `seconds` apart; edges without any call ever are absent.
pub fn between(earlier: &Scrape, later: &Scrape, seconds: f64) -> Vec<Row> {
    let mut totals: BTreeMap<Edge, Total> = BTreeMap::new();
    let nothing = Exposition::default();
    for (workload, Scraped { identity, metrics }) in later {
        let before = earlier
            .get(workload)
            .map_or(&nothing, |scraped| &scraped.metrics);
        count_calls(&mut totals, before, metrics);
        count_latency(&mut totals, before, metrics);
        count_refusals(&mut totals, identity, before, metrics);
    }
    totals
        .into_iter()
        .map(|(edge, total)| Row {
            edge,
            per_second: if seconds > 0.0 {
                total.calls / seconds
            } else {
                0.0
            },
            success: (total.calls > 0.0).then(|| total.good / total.calls),
            p50_ms: total.latency.quantile(0.5),
            p99_ms: total.latency.quantile(0.99),
            refused: total.refused,
            mutual_tls: total.plain == 0.0,
        })
        .collect()
}

fn count_calls(totals: &mut BTreeMap<Edge, Total>, before: &Exposition, now: &Exposition) {
    for (sample, calls) in increases(before, now, "istio_requests_total") {
        if sample.label("reporter") != "source" {
            continue;
        }
        let total = totals.entry(edge(sample)).or_default();
        total.calls += calls;
        if succeeded(sample) {
            total.good += calls;
        }
        if sample.label("connection_security_policy") != "mutual_tls" && !unreached(sample) {
            total.plain += calls;
        }
    }
}

fn count_latency(totals: &mut BTreeMap<Edge, Total>, before: &Exposition, now: &Exposition) {
    for (edge, latency) in change::latencies(before, now, edge) {
        totals.entry(edge).or_default().latency = latency;
    }
}

fn count_refusals(
    totals: &mut BTreeMap<Edge, Total>,
    own: &str,
    before: &Exposition,
    now: &Exposition,
) {
    for (sample, refused) in increases(before, now, "outrider_refusals_total") {
        if refused <= 0.0 {
            continue;
        }
        let peer = match sample.label("peer") {
            "" => "unknown",
            peer => peer,
        };
        let (source, destination) = match sample.label("direction") {
            "inbound" => (peer, own),
            _ => (own, peer),
        };
        let edge = Edge {
            source: source.to_owned(),
            destination: destination.to_owned(),
        };
        let reasons = &mut totals.entry(edge).or_default().refused;
        *reasons
            .entry(sample.label("reason").to_owned())
            .or_default() += refused;
    }
}

fn edge(sample: &Sample) -> Edge {
    let destination = if unreached(sample) {
        sample.label("destination_service")
    } else {
        sample.label("destination_principal")
    };
    Edge {
        source: sample.label("source_principal").to_owned(),
        destination: destination.to_owned(),
    }
}

/// Whether no instance was reached, so that there is no peer to name.
fn unreached(sample: &Sample) -> bool {
    matches!(sample.label("destination_principal"), "" | "unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: &str = "spiffe://shop.example/ns/shop/sa/order";
    const BILLING: &str = "spiffe://shop.example/ns/shop/sa/billing";

    fn calls(code: &str, grpc: &str, count: u32) -> String {
        format!(
            "istio_requests_total{{reporter=\"source\",source_principal=\"{ORDER}\",destination_principal=\"{BILLING}\",\
             response_code=\"{code}\",grpc_response_status=\"{grpc}\",connection_security_policy=\"mutual_tls\"}} {count}\n"
        )
    }

    fn latency(bound: &str, count: u32) -> String {
        format!(
            "istio_request_duration_milliseconds_bucket{{reporter=\"source\",source_principal=\"{ORDER}\",\
             destination_principal=\"{BILLING}\",le=\"{bound}\"}} {count}\n"
        )
    }

    fn scrape(workload: &str, text: &str) -> Scrape {
        let scraped = Scraped {
            identity: BILLING.to_owned(),
            metrics: Exposition::parse(text),
        };
        BTreeMap::from([(workload.to_owned(), scraped)])
    }

    #[test]
    fn a_row_is_what_happened_between_two_scrapes() {
        let earlier = scrape(
            "order-1",
            &(calls("200", "0", 100) + &latency("5", 100) + &latency("+Inf", 100)),
        );
        let later = scrape(
            "order-1",
            &(calls("200", "0", 190)
                + &calls("200", "7", 10)
                + &latency("5", 150)
                + &latency("10", 200)
                + &latency("+Inf", 200)),
        );
        let rows = between(&earlier, &later, 10.0);
        assert_eq!(rows.len(), 1);
        let row = &rows[0];
        assert_eq!(
            (row.edge.source.as_str(), row.edge.destination.as_str()),
            (ORDER, BILLING)
        );
        assert_eq!(row.per_second, 10.0);
        assert_eq!(row.success, Some(0.9));
        assert_eq!(row.p50_ms, Some(5.0));
        assert!(row.mutual_tls);
    }

    #[test]
    fn a_restarted_sidecar_counts_from_zero() {
        let rows = between(
            &scrape("order-1", &calls("200", "", 1000)),
            &scrape("order-1", &calls("200", "", 30)),
            1.0,
        );
        assert_eq!(rows[0].per_second, 30.0);
    }

    #[test]
    fn what_a_caller_gave_up_belongs_to_its_own_edge() {
        let text = format!(
            "outrider_refusals_total{{direction=\"outbound\",reason=\"request_timeout\",peer=\"{ORDER}\"}} 2\n\
             outrider_refusals_total{{direction=\"outbound\",reason=\"circuit_open\",peer=\"\"}} 3\n"
        );
        let rows = between(&Scrape::new(), &scrape("billing-1", &text), 1.0);
        let told: Vec<_> = rows
            .iter()
            .map(|row| (row.edge.destination.as_str(), row.refused.clone()))
            .collect();
        let refused = |reason: &str, count| BTreeMap::from([(reason.to_owned(), count)]);
        assert_eq!(
            told,
            [
                (ORDER, refused("request_timeout", 2.0)),
                ("unknown", refused("circuit_open", 3.0))
            ]
        );
        assert!(rows.iter().all(|row| row.edge.source == BILLING));
    }

    #[test]
    fn refusals_belong_to_the_edge_that_was_refused() {
        let notification = "spiffe://shop.example/ns/shop/sa/notification";
        let text = format!(
            "outrider_refusals_total{{direction=\"inbound\",reason=\"authorization_denied\",peer=\"{notification}\"}} 7\n"
        );
        let rows = between(&Scrape::new(), &scrape("billing-1", &text), 1.0);
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].edge.source, notification);
        assert_eq!(rows[0].edge.destination, BILLING);
        assert_eq!(
            rows[0].refused,
            BTreeMap::from([("authorization_denied".to_owned(), 7.0)])
        );
        assert_eq!(rows[0].success, None);
    }
}
