//! What the topics of traffic policy share: meshes with more than one instance or hop, and what
//! their sidecars count.

use anyhow::Result;
use mesh_tests::app::Hop;
use mesh_tests::manifest::traffic_policy;
use mesh_tests::metrics::reaches;
use mesh_tests::{App, Mesh, Service, Workload};

/// Nothing is ever ejected: for tests of what else becomes of failures.
pub(crate) const NO_BREAKER: &str =
    "outlierDetection: {consecutiveGatewayErrors: 0, consecutiveErrors: 0, failurePercent: 0}";

/// `order-1` and so many instances of billing, each with an app of its own; `spec` is billing's
/// TrafficPolicy. Anyone may call.
pub(crate) fn instances(count: usize, spec: &str) -> Result<(Vec<App>, Mesh)> {
    let apps: Vec<App> = (0..count).map(|_| App::start()).collect::<Result<_>>()?;
    let mut builder = Mesh::builder()
        .setting("defaultDeny", false)
        .service(Service::new("billing").port(80, "app", Some("http")))
        .workload(Workload::new("order-1")?)
        .file("traffic.yaml", traffic_policy("billing", spec));
    for (index, app) in apps.iter().enumerate() {
        let name = format!("billing-{}", index + 1);
        let workload = Workload::new(&name)?.port("app", app.port(), Some("http"));
        builder = builder.workload(workload);
    }
    Ok((apps, builder.start()?))
}

/// A chain: `shopper-1` calls order, whose app makes the same call to billing.
pub(crate) struct Chain {
    pub(crate) order: App,
    /// Two instances.
    pub(crate) billing: [App; 2],
    pub(crate) mesh: Mesh,
}

impl Chain {
    /// `order` and `billing` are the TrafficPolicies of these Services.
    pub(crate) fn start(order: &str, billing: &str) -> Result<Self> {
        let apps = [App::start()?, App::start()?];
        let app = App::start()?;
        let middle = Workload::new("order-1")?.port("app", app.port(), Some("http"));
        let chain = Self {
            mesh: Mesh::builder()
                .setting("defaultDeny", false)
                .service(Service::new("order").port(80, "app", Some("http")))
                .service(Service::new("billing").port(80, "app", Some("http")))
                .workload(Workload::new("shopper-1")?)
                .workload(middle)
                .workload(Workload::new("billing-1")?.port("app", apps[0].port(), Some("http")))
                .workload(Workload::new("billing-2")?.port("app", apps[1].port(), Some("http")))
                .file("traffic-order.yaml", traffic_policy("order", order))
                .file("traffic-billing.yaml", traffic_policy("billing", billing))
                .start()?,
            order: app,
            billing: apps,
        };
        chain.hands_context_on(true)?;
        Ok(chain)
    }

    /// Whether order's app copies `tracestate` from what it serves to what it calls.
    pub(crate) fn hands_context_on(&self, context: bool) -> Result<()> {
        self.order.forward_to(Hop {
            via: self.mesh.http("order-1")?,
            service: "billing".into(),
            context,
        });
        Ok(())
    }

    /// How many requests for a path the end of the chain has seen.
    pub(crate) fn attempts(&self, path: &str) -> usize {
        self.billing.iter().map(|app| app.count(path)).sum()
    }
}

/// The time that is left by our member of a request's `tracestate`, milliseconds.
pub(crate) fn time_left(request: &mesh_tests::app::Request) -> Option<u64> {
    let ours = |value: &&str| value.starts_with("outrider=");
    let states = request.headers("tracestate");
    let member = states.iter().flat_map(|state| state.split(','));
    let member = member.map(str::trim).find(ours)?;
    let fields = member.strip_prefix("outrider=")?;
    fields
        .split('.')
        .find_map(|field| field.strip_prefix('t'))?
        .parse()
        .ok()
}

/// A counter of a workload's sidecar, summed over the series with these labels.
pub(crate) fn counted(
    mesh: &Mesh,
    workload: &str,
    name: &str,
    labels: &[(&str, &str)],
) -> Result<f64> {
    Ok(mesh.metrics(workload)?.sum(name, labels))
}

/// Waits until order's sidecar has the breaker for an instance of billing in a state.
pub(crate) fn breaker_is(mesh: &Mesh, instance: &str, state: &str) -> Result<()> {
    let endpoint = format!("shop/{instance}");
    let labels = [
        ("service", "shop/billing"),
        ("endpoint", &endpoint),
        ("state", state),
    ];
    let port = mesh.sidecar("order-1")?.workload.telemetry_port;
    reaches(port, "outrider_endpoint_state", &labels, 1.0)
}

/// How often order's sidecar changed that breaker to a state, for a reason.
pub(crate) fn transitions(mesh: &Mesh, instance: &str, to: &str, reason: &str) -> Result<f64> {
    let endpoint = format!("shop/{instance}");
    let labels = [
        ("endpoint", endpoint.as_str()),
        ("to", to),
        ("reason", reason),
    ];
    counted(
        mesh,
        "order-1",
        "outrider_endpoint_transitions_total",
        &labels,
    )
}

/// What order's sidecar sent again, for a reason.
pub(crate) fn retries(mesh: &Mesh, reason: &str) -> Result<f64> {
    let labels = [("service", "shop/billing"), ("reason", reason)];
    counted(mesh, "order-1", "outrider_retries_total", &labels)
}

/// What order's sidecar did not send again, for a reason.
pub(crate) fn not_retried(mesh: &Mesh, reason: &str) -> Result<f64> {
    let labels = [("service", "shop/billing"), ("reason", reason)];
    counted(mesh, "order-1", "outrider_retries_not_made_total", &labels)
}
