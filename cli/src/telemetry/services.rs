//! How each caller treats each Service that it calls: what is under way, what was retried and what
//! was not, and how each endpoint does and what its breaker thinks of it. Computed from two scrapes
//! of every sidecar. Pure.

use std::collections::BTreeMap;

use outrider_control_plane::index::Mesh;
use serde::Serialize;

use super::change::{self, increases, succeeded};
use super::edges::Scrape;
use super::exposition::{Exposition, Sample};
use super::quantile::Buckets;

/// The part of the requests to each Service that may be retries, percent.
pub type Budgets = BTreeMap<String, u8>;

/// The retry budget of every Service of a mesh.
pub fn budgets(mesh: &Mesh) -> Budgets {
    mesh.destinations()
        .iter()
        .map(|(service, destination)| {
            let name = format!("{}/{}", service.namespace, service.name);
            (name, destination.traffic.budget.percent)
        })
        .collect()
}

/// One Service as one caller sees it, between two scrapes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServiceRow {
    /// The Workload that calls.
    pub caller: String,
    /// NAMESPACE/NAME
    pub service: String,
    /// Requests in a second, each counted once however often it was sent.
    pub per_second: f64,
    /// Requests under way now.
    pub active: f64,
    /// Those of them that wait for a connection.
    pub pending: f64,
    /// Retries in this interval, by reason.
    pub retries: BTreeMap<String, f64>,
    /// Failures that were not retried in this interval, by reason.
    pub not_retried: BTreeMap<String, f64>,
    /// Retries in percent of this interval's requests; none without requests.
    pub retry_percent: Option<f64>,
    /// What the retry budget allows, percent; none where the Service is not known.
    pub budget_percent: Option<u8>,
    /// In order of their names.
    pub endpoints: Vec<EndpointRow>,
}

/// One endpoint of a Service as one caller sees it, between two scrapes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EndpointRow {
    /// NAMESPACE/WORKLOAD
    pub endpoint: String,
    /// `closed`, `open` or `half_open`; none where the caller keeps no breaker for it.
    pub breaker: Option<String>,
    /// How often it was ejected since the caller's sidecar started.
    pub ejections: f64,
    /// Requests in a second that ended at this endpoint.
    pub per_second: f64,
    /// The share that succeeded, 0 to 1; none without requests.
    pub success: Option<f64>,
    /// Milliseconds.
    pub p50_ms: Option<f64>,
    /// Milliseconds.
    pub p99_ms: Option<f64>,
}

#[derive(Debug, Default)]
struct Total {
    calls: f64,
    retries: BTreeMap<String, f64>,
    not_retried: BTreeMap<String, f64>,
    active: f64,
    pending: f64,
    endpoints: BTreeMap<String, Endpoint>,
}

#[derive(Debug, Default)]
struct Endpoint {
    breaker: Option<String>,
    ejections: f64,
    calls: f64,
    good: f64,
    latency: Buckets,
}

/// The rows between two scrapes that were `seconds` apart.
pub fn between(
    earlier: &Scrape,
    later: &Scrape,
    seconds: f64,
    budgets: &Budgets,
) -> Vec<ServiceRow> {
    let nothing = Exposition::default();
    let mut rows = Vec::new();
    for (caller, scraped) in later {
        let before = earlier
            .get(caller)
            .map_or(&nothing, |scraped| &scraped.metrics);
        for (service, total) in totals(before, &scraped.metrics) {
            let budget = budgets.get(&service).copied();
            rows.push(row(caller.clone(), service, total, seconds, budget));
        }
    }
    rows
}

fn totals(before: &Exposition, now: &Exposition) -> BTreeMap<String, Total> {
    let mut totals: BTreeMap<String, Total> = BTreeMap::new();
    count_calls(&mut totals, before, now);
    for (sample, grown) in increases(before, now, "outrider_retries_total") {
        count_reason(&mut of(&mut totals, sample).retries, sample, grown);
    }
    for (sample, grown) in increases(before, now, "outrider_retries_not_made_total") {
        count_reason(&mut of(&mut totals, sample).not_retried, sample, grown);
    }
    for sample in now.named("outrider_active_requests") {
        of(&mut totals, sample).active += sample.value;
    }
    for sample in now.named("outrider_pending_requests") {
        of(&mut totals, sample).pending += sample.value;
    }
    for sample in now.named("outrider_endpoint_state") {
        let endpoint = endpoint_of(&mut totals, sample);
        if sample.value > 0.0 {
            endpoint.breaker = Some(sample.label("state").to_owned());
        }
    }
    for sample in now.named("outrider_endpoint_transitions_total") {
        if sample.label("to") == "open" {
            endpoint_of(&mut totals, sample).ejections += sample.value;
        }
    }
    totals
}

/// Calls are told by Istio's labels, which name a Service and a workload in their own way.
fn count_calls(totals: &mut BTreeMap<String, Total>, before: &Exposition, now: &Exposition) {
    for (sample, calls) in increases(before, now, "istio_requests_total") {
        if sample.label("reporter") != "source" || !names_a_service(sample) {
            continue;
        }
        let total = totals.entry(service(sample)).or_default();
        total.calls += calls;
        if let Some(name) = workload(sample) {
            let endpoint = total.endpoints.entry(name).or_default();
            endpoint.calls += calls;
            if succeeded(sample) {
                endpoint.good += calls;
            }
        }
    }
    let latencies = change::latencies(before, now, |sample| (service(sample), workload(sample)));
    for ((service, workload), latency) in latencies {
        let Some(total) = totals.get_mut(&service) else {
            continue;
        };
        if let Some(endpoint) = workload.and_then(|name| total.endpoints.get_mut(&name)) {
            endpoint.latency = latency;
        }
    }
}

fn names_a_service(sample: &Sample) -> bool {
    !matches!(sample.label("destination_service_name"), "" | "unknown")
}

fn service(sample: &Sample) -> String {
    format!(
        "{}/{}",
        sample.label("destination_service_namespace"),
        sample.label("destination_service_name")
    )
}

/// None where no instance was reached.
fn workload(sample: &Sample) -> Option<String> {
    let name = sample.label("destination_workload");
    let namespace = sample.label("destination_workload_namespace");
    (!matches!(name, "" | "unknown")).then(|| format!("{namespace}/{name}"))
}

fn of<'a>(totals: &'a mut BTreeMap<String, Total>, sample: &Sample) -> &'a mut Total {
    totals
        .entry(sample.label("service").to_owned())
        .or_default()
}

fn endpoint_of<'a>(totals: &'a mut BTreeMap<String, Total>, sample: &Sample) -> &'a mut Endpoint {
    of(totals, sample)
        .endpoints
        .entry(sample.label("endpoint").to_owned())
        .or_default()
}

fn count_reason(reasons: &mut BTreeMap<String, f64>, sample: &Sample, grown: f64) {
    if grown > 0.0 {
        *reasons
            .entry(sample.label("reason").to_owned())
            .or_default() += grown;
    }
}

fn row(
    caller: String,
    service: String,
    total: Total,
    seconds: f64,
    budget_percent: Option<u8>,
) -> ServiceRow {
    let per_second = |calls: f64| if seconds > 0.0 { calls / seconds } else { 0.0 };
    // From zero: a sum of nothing is -0.
    let retries = total.retries.values().fold(0.0, |sum, count| sum + count);
    ServiceRow {
        caller,
        service,
        per_second: per_second(total.calls),
        active: total.active,
        pending: total.pending,
        retry_percent: (total.calls > 0.0).then(|| 100.0 * retries / total.calls),
        budget_percent,
        retries: total.retries,
        not_retried: total.not_retried,
        endpoints: total
            .endpoints
            .into_iter()
            .map(|(name, endpoint)| EndpointRow {
                endpoint: name,
                breaker: endpoint.breaker,
                ejections: endpoint.ejections,
                per_second: per_second(endpoint.calls),
                success: (endpoint.calls > 0.0).then(|| endpoint.good / endpoint.calls),
                p50_ms: endpoint.latency.quantile(0.5),
                p99_ms: endpoint.latency.quantile(0.99),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::edges::Scraped;

    const SERVICE: &str = "service=\"shop/billing\"";

    fn calls(workload: &str, grpc: &str, count: u32) -> String {
        format!(
            "istio_requests_total{{reporter=\"source\",destination_service_name=\"billing\",\
             destination_service_namespace=\"shop\",destination_workload=\"{workload}\",\
             destination_workload_namespace=\"shop\",response_code=\"200\",grpc_response_status=\"{grpc}\"}} {count}\n"
        )
    }

    fn scrape(text: &str) -> Scrape {
        let scraped = Scraped {
            identity: "spiffe://shop.example/ns/shop/sa/order".to_owned(),
            metrics: Exposition::parse(text),
        };
        BTreeMap::from([("order-1".to_owned(), scraped)])
    }

    fn later() -> String {
        let endpoint = "endpoint=\"shop/billing-2\"";
        format!(
            "{}{}{}\
             outrider_retries_total{{{SERVICE},reason=\"grpc_status\"}} 15\n\
             outrider_retries_not_made_total{{{SERVICE},reason=\"budget_exhausted\"}} 2\n\
             outrider_active_requests{{{SERVICE}}} 4\n\
             outrider_pending_requests{{{SERVICE}}} 1\n\
             outrider_endpoint_state{{{SERVICE},{endpoint},state=\"closed\"}} 0\n\
             outrider_endpoint_state{{{SERVICE},{endpoint},state=\"open\"}} 1\n\
             outrider_endpoint_transitions_total{{{SERVICE},{endpoint},from=\"closed\",to=\"open\"}} 1\n\
             outrider_endpoint_transitions_total{{{SERVICE},{endpoint},from=\"half_open\",to=\"open\"}} 2\n\
             outrider_endpoint_transitions_total{{{SERVICE},{endpoint},from=\"open\",to=\"half_open\"}} 2\n",
            calls("billing-1", "0", 190),
            calls("billing-2", "14", 10),
            calls("unknown", "14", 3),
        )
    }

    #[test]
    fn a_row_is_what_happened_between_two_scrapes() {
        let earlier = format!(
            "{}outrider_retries_total{{{SERVICE},reason=\"grpc_status\"}} 5\n",
            calls("billing-1", "0", 103)
        );
        let budgets = Budgets::from([("shop/billing".to_owned(), 20)]);
        let rows = between(&scrape(&earlier), &scrape(&later()), 2.0, &budgets);
        assert_eq!(rows.len(), 1);
        let row = &rows[0];
        assert_eq!(
            (row.caller.as_str(), row.service.as_str()),
            ("order-1", "shop/billing")
        );
        assert_eq!(row.per_second, 50.0, "those that reached no instance count");
        assert_eq!((row.active, row.pending), (4.0, 1.0));
        assert_eq!(
            row.retries,
            BTreeMap::from([("grpc_status".to_owned(), 10.0)])
        );
        assert_eq!(
            row.not_retried,
            BTreeMap::from([("budget_exhausted".to_owned(), 2.0)])
        );
        assert_eq!(
            (row.retry_percent, row.budget_percent),
            (Some(10.0), Some(20))
        );
    }

    #[test]
    fn an_endpoint_has_its_breaker_and_its_calls() {
        let rows = between(&Scrape::new(), &scrape(&later()), 1.0, &Budgets::new());
        let [good, bad] = rows[0].endpoints.as_slice() else {
            panic!("two endpoints: {rows:?}");
        };
        assert_eq!(good.endpoint, "shop/billing-1");
        assert_eq!((good.breaker.as_deref(), good.success), (None, Some(1.0)));
        assert_eq!(bad.endpoint, "shop/billing-2");
        assert_eq!(
            (bad.breaker.as_deref(), bad.success),
            (Some("open"), Some(0.0))
        );
        assert_eq!(bad.ejections, 3.0);
        assert_eq!(rows[0].budget_percent, None);
    }

    #[test]
    fn without_requests_there_is_no_share() {
        let same = scrape(&later());
        let rows = between(&same, &same, 1.0, &Budgets::new());
        assert_eq!(rows[0].retry_percent, None);
        assert_eq!(rows[0].retries, BTreeMap::new());
        assert_eq!(rows[0].endpoints[1].breaker.as_deref(), Some("open"));
    }
}
