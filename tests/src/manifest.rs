//! The YAML that a mesh is described by, from what a test cares about.

use std::fmt::Write;

use anyhow::Result;

use crate::ports::free_port;

/// The namespace of everything in the tests that does not say otherwise.
pub const NAMESPACE: &str = "shop";
pub const TRUST_DOMAIN: &str = "shop.example";

/// The SPIFFE ID of a ServiceAccount in [`NAMESPACE`].
pub fn spiffe_id(account: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/{account}")
}

/// A Service: the workloads labelled `app: NAME`.
#[derive(Debug, Clone)]
pub struct Service {
    pub name: String,
    ports: Vec<ServicePort>,
}

#[derive(Debug, Clone)]
struct ServicePort {
    name: String,
    port: u16,
    target: String,
    protocol: Option<String>,
}

impl Service {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            ports: Vec::new(),
        }
    }

    /// `target`: a port's number, or its name in the Workload. No `protocol`: it is not declared.
    pub fn port(mut self, port: u16, target: impl ToString, protocol: Option<&str>) -> Self {
        self.ports.push(ServicePort {
            name: format!("port-{port}"),
            port,
            target: target.to_string(),
            protocol: protocol.map(str::to_owned),
        });
        self
    }

    pub fn yaml(&self) -> String {
        let ports: String = self.ports.iter().fold(String::new(), |mut text, port| {
            let _ = writeln!(
                text,
                "  - {{name: {}, port: {}, targetPort: {}{}}}",
                port.name,
                port.port,
                port.target,
                app_protocol(port.protocol.as_deref())
            );
            text
        });
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\n\
             spec:\n  selector: {{app: {name}}}\n  ports:\n{ports}",
            name = self.name
        )
    }
}

fn app_protocol(protocol: Option<&str>) -> String {
    protocol
        .map(|protocol| format!(", appProtocol: {protocol}"))
        .unwrap_or_default()
}

/// An instance with a sidecar: `Workload::new("billing-1")` is of the app `billing`, under the
/// ServiceAccount `billing`, on ports of its own.
#[derive(Debug, Clone)]
pub struct Workload {
    pub name: String,
    pub namespace: String,
    pub app: String,
    pub account: String,
    pub http_port: u16,
    pub mesh_port: u16,
    pub admin_port: u16,
    pub telemetry_port: u16,
    zone: Option<String>,
    ports: Vec<(String, u16, Option<String>)>,
    upstreams: Vec<Upstream>,
    command: Option<String>,
}

#[derive(Debug, Clone)]
struct Upstream {
    service: String,
    port: u16,
    local_port: u16,
}

impl Workload {
    pub fn new(name: &str) -> Result<Self> {
        let app = name.rsplit_once('-').map_or(name, |(app, _)| app);
        Ok(Self {
            name: name.into(),
            namespace: NAMESPACE.into(),
            app: app.into(),
            account: app.into(),
            http_port: free_port()?,
            mesh_port: free_port()?,
            admin_port: free_port()?,
            telemetry_port: free_port()?,
            zone: None,
            ports: Vec::new(),
            upstreams: Vec::new(),
            command: None,
        })
    }

    pub fn account(mut self, account: &str) -> Self {
        self.account = account.into();
        self
    }

    /// In another namespace than everything else.
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Where it runs.
    pub fn zone(mut self, zone: &str) -> Self {
        self.zone = Some(zone.into());
        self
    }

    pub fn spiffe_id(&self) -> String {
        let Self {
            namespace, account, ..
        } = self;
        format!("spiffe://{TRUST_DOMAIN}/ns/{namespace}/sa/{account}")
    }

    /// A port on which its app listens.
    pub fn port(mut self, name: &str, port: u16, protocol: Option<&str>) -> Self {
        self.ports
            .push((name.into(), port, protocol.map(str::to_owned)));
        self
    }

    /// A port of its own on loopback for one port of a Service.
    pub fn upstream(mut self, service: &str, port: u16) -> Result<Self> {
        let local_port = free_port()?;
        self.upstreams.push(Upstream {
            service: service.into(),
            port,
            local_port,
        });
        Ok(self)
    }

    /// What `outrider up` starts, a YAML list.
    pub fn command(mut self, command: &str) -> Self {
        self.command = Some(command.into());
        self
    }

    /// Where the app reaches `service`.
    pub fn local_port(&self, service: &str, port: u16) -> Option<u16> {
        let of = |upstream: &&Upstream| upstream.service == service && upstream.port == port;
        self.upstreams
            .iter()
            .find(of)
            .map(|upstream| upstream.local_port)
    }

    pub fn yaml(&self) -> String {
        let zone = self.zone.as_ref();
        let zone = zone.map(|zone| format!(", topology.kubernetes.io/zone: {zone}"));
        let mut text = format!(
            "apiVersion: outrider.mesh/v1alpha1\nkind: Workload\n\
             metadata: {{name: {}, namespace: {}, labels: {{app: {}{}}}}}\n\
             spec:\n  serviceAccount: {}\n  address: 127.0.0.1\n  meshPort: {}\n  adminPort: {}\n  \
             telemetryPort: {}\n  outbound:\n    httpPort: {}\n",
            self.name,
            self.namespace,
            self.app,
            zone.unwrap_or_default(),
            self.account,
            self.mesh_port,
            self.admin_port,
            self.telemetry_port,
            self.http_port
        );
        if !self.upstreams.is_empty() {
            text.push_str("    upstreams:\n");
        }
        for Upstream {
            service,
            port,
            local_port,
        } in &self.upstreams
        {
            let _ = writeln!(
                text,
                "    - {{service: {service}, port: {port}, localPort: {local_port}}}"
            );
        }
        if !self.ports.is_empty() {
            text.push_str("  ports:\n");
        }
        for (name, port, protocol) in &self.ports {
            let protocol = app_protocol(protocol.as_deref());
            let _ = writeln!(text, "  - {{name: {name}, port: {port}{protocol}}}");
        }
        if let Some(command) = &self.command {
            let _ = writeln!(text, "  command: {command}");
        }
        text
    }
}

/// A TrafficPolicy on the Service `service`; `spec` is YAML, indented by nothing.
pub fn traffic_policy(service: &str, spec: &str) -> String {
    format!(
        "apiVersion: outrider.mesh/v1alpha1\nkind: TrafficPolicy\n\
         metadata: {{name: {service}, namespace: {NAMESPACE}}}\nspec:\n  targetRefs:\n  \
         - {{group: \"\", kind: Service, name: {service}}}\n{}",
        indented(spec, "  ")
    )
}

/// A route of the Gateway API in [`NAMESPACE`] whose parent is `parent`, as YAML on one line such as
/// `{group: "", kind: Service, name: billing}`; `rules` is a YAML list, indented by nothing.
pub fn route(kind: &str, name: &str, parent: &str, rules: &str) -> String {
    let version = match kind {
        "TCPRoute" => "v1alpha2",
        _ => "v1",
    };
    format!(
        "apiVersion: gateway.networking.k8s.io/{version}\nkind: {kind}\n\
         metadata: {{name: {name}, namespace: {NAMESPACE}}}\nspec:\n  parentRefs:\n  - {parent}\n  \
         rules:\n{}",
        indented(rules, "  ")
    )
}

/// `{group: "", kind: Service, name: NAME}`
pub fn service_ref(name: &str) -> String {
    format!("{{group: \"\", kind: Service, name: {name}}}")
}

fn indented(yaml: &str, by: &str) -> String {
    let lines = yaml.trim_matches('\n').lines();
    lines.map(|line| format!("{by}{line}\n")).collect()
}

/// An AuthorizationPolicy on the Service `service`; `rules` is a YAML list, indented by nothing.
pub fn policy(name: &str, service: &str, action: &str, rules: &str) -> String {
    let rules: String = rules
        .trim()
        .lines()
        .map(|line| format!("  {line}\n"))
        .collect();
    let rules = if rules.is_empty() {
        "  rules: []\n".into()
    } else {
        format!("  rules:\n{rules}")
    };
    format!(
        "apiVersion: outrider.mesh/v1alpha1\nkind: AuthorizationPolicy\n\
         metadata: {{name: {name}, namespace: {NAMESPACE}}}\nspec:\n  targetRefs:\n  \
         - {{group: \"\", kind: Service, name: {service}}}\n  action: {action}\n{rules}"
    )
}

/// A source that is a ServiceAccount of [`NAMESPACE`], in one line.
pub fn account(name: &str) -> String {
    format!(
        "{{type: ServiceAccount, serviceAccount: {{namespace: {NAMESPACE}, name: \"{name}\"}}}}"
    )
}
