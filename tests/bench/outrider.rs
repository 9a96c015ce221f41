//! Outrider as it ships: denial by default and one policy that allows the caller, retries and breakers
//! as they are without a word, metrics on.

use std::env;
use std::path::PathBuf;

use anyhow::Result;
use mesh_tests::manifest::{account, policy};
use mesh_tests::process::Process;
use mesh_tests::{Mesh, Service, Workload};

use crate::backend::{Backend, Entry};
use crate::systems::{Prepared, Start};

pub(crate) const OUTBOUND: &str = "order-1";
pub(crate) const INBOUND: &str = "billing-1";

/// A mesh whose control plane runs, with a token for each sidecar.
pub(crate) struct Ready {
    mesh: Mesh,
    tokens: [(&'static str, String); 2],
}

/// The Service's port for each entry, and what is declared of it.
const PORTS: [(Entry, u16, &str); 4] = [
    (Entry::Http, 80, "http"),
    (Entry::Http2, 81, "kubernetes.io/h2c"),
    (Entry::Grpc, 82, "grpc"),
    (Entry::Tcp, 83, "tcp"),
];

pub(crate) fn prepare(name: String, backend: &Backend) -> Result<Prepared> {
    let mut service = Service::new("billing");
    let mut billing = Workload::new(INBOUND)?;
    let mut order = Workload::new(OUTBOUND)?;
    for (entry, port, protocol) in PORTS {
        let target = backend.port(entry);
        service = service.port(port, target, Some(protocol));
        billing = billing.port(entry.name(), target, Some(protocol));
        order = order.upstream("billing", port)?;
    }
    let rules = format!(
        "- name: order-calls\n  sources:\n  - {order}\n  http:\n  - {{methods: [GET, POST]}}\n\
         - name: order-connects\n  sources:\n  - {order}\n  networkAttributes: {{ports: [{port}]}}\n",
        order = account("order"),
        port = backend.port(Entry::Tcp),
    );
    let mut mesh = Mesh::builder()
        .setting("defaultDeny", true)
        .service(service)
        .workload(billing)
        .workload(order)
        .file("policy.yaml", policy("billing", "billing", "ALLOW", &rules))
        .prepare()?;
    mesh.start_control_plane()?;
    let entries = PORTS.iter().map(|(entry, port, _)| {
        let address = mesh.upstream(OUTBOUND, "billing", *port)?;
        Ok((*entry, address))
    });
    let entries = entries.collect::<Result<_>>()?;
    let tokens = [
        (INBOUND, mesh.token("billing")?),
        (OUTBOUND, mesh.token("order")?),
    ];
    Ok(Prepared {
        name,
        entries,
        start: Start::Outrider(Box::new(Ready { mesh, tokens })),
    })
}

impl Ready {
    pub(crate) fn start(mut self) -> Result<Mesh> {
        for (name, token) in self.tokens {
            self.mesh.start_sidecar_with(name, &token)?;
        }
        Ok(self.mesh)
    }
}

/// Outbound, inbound.
pub(crate) fn pids(mesh: &mut Mesh) -> Result<Vec<u32>> {
    let mut id = |name| mesh.process(name).map(|process| process.id());
    Ok(vec![id(OUTBOUND)?, id(INBOUND)?])
}

pub(crate) fn log(mesh: &mut Mesh) -> String {
    [OUTBOUND, INBOUND]
        .into_iter()
        .filter_map(|name| {
            mesh.process(name)
                .ok()
                .map(|process: &mut Process| process.log())
        })
        .collect()
}

/// The sidecar's own program, where the bench was told of one.
pub(crate) fn program() -> Option<PathBuf> {
    env::var_os("OUTRIDER_PROXY_BIN").map(PathBuf::from)
}
