//! An edge of the mesh: who calls whom, with its metric handles resolved once.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use outrider_api::model;
use outrider_api::names::ServiceName;
use outrider_certs::spiffe::SpiffeId;
use prometheus::{Histogram, IntCounter};

use super::metrics::Metrics;

const UNKNOWN: &str = "unknown";

/// One end of an edge.
#[derive(Clone, Debug)]
pub struct Party {
    pub workload: String,
    pub namespace: String,
    pub principal: String,
    pub app: String,
}

impl Party {
    /// A peer of which only the certificate is known: its ServiceAccount stands for the rest.
    pub fn peer(id: &SpiffeId) -> Self {
        Self {
            workload: id.service_account().to_owned(),
            namespace: id.namespace().to_owned(),
            principal: id.to_string(),
            app: id.service_account().to_owned(),
        }
    }

    /// An endpoint of a Service.
    pub fn endpoint(model: &model::Endpoint) -> Self {
        Self {
            workload: model.workload.clone(),
            namespace: model.namespace.clone(),
            principal: model.id.to_string(),
            app: model.app.clone(),
        }
    }

    pub fn unknown() -> Self {
        Self {
            workload: UNKNOWN.to_owned(),
            namespace: UNKNOWN.to_owned(),
            principal: UNKNOWN.to_owned(),
            app: UNKNOWN.to_owned(),
        }
    }
}

/// Which of the two sidecars reports, as Istio calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reporter {
    Source,
    Destination,
}

impl Reporter {
    const fn label(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }

    /// The direction, in our own metrics.
    pub const fn direction(self) -> &'static str {
        match self {
            Self::Source => "outbound",
            Self::Destination => "inbound",
        }
    }
}

/// What protects an edge, as Istio calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    MutualTls,
    None,
}

impl Security {
    const fn label(self) -> &'static str {
        match self {
            Self::MutualTls => "mutual_tls",
            Self::None => "none",
        }
    }
}

/// What is spoken on an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    Http,
    Grpc,
    Tcp,
}

impl Spoken {
    const fn label(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// The gRPC status code, where there is one.
    pub grpc_status: Option<u16>,
    pub flag: &'static str,
}

/// Counts what passes between two parties. Belongs to one worker.
#[derive(Debug)]
pub struct Edge {
    metrics: Arc<Metrics>,
    reporter: Reporter,
    source: Party,
    destination: Party,
    service: Option<ServiceName>,
    security: Security,
    http: OnceCell<Spoke>,
    grpc: OnceCell<Spoke>,
    tcp: OnceCell<TcpHandles>,
}

/// The handles for one protocol of an edge.
#[derive(Debug)]
struct Spoke {
    duration: Histogram,
    /// A handful of answers occur on an edge: a search through them is faster than hashing labels.
    answers: RefCell<Vec<(Answer, IntCounter)>>,
}

/// The handles for opaque connections of an edge.
#[derive(Clone, Debug)]
pub struct TcpHandles {
    pub sent: IntCounter,
    pub received: IntCounter,
    pub opened: IntCounter,
    pub closed: IntCounter,
}

impl Edge {
    pub fn new(
        metrics: &Arc<Metrics>,
        reporter: Reporter,
        source: Party,
        destination: Party,
        service: Option<ServiceName>,
    ) -> Rc<Self> {
        let security = Security::MutualTls;
        Self::secured(metrics, reporter, source, destination, service, security)
    }

    /// An edge that may be outside the mesh.
    pub fn secured(
        metrics: &Arc<Metrics>,
        reporter: Reporter,
        source: Party,
        destination: Party,
        service: Option<ServiceName>,
        security: Security,
    ) -> Rc<Self> {
        Rc::new(Self {
            metrics: Arc::clone(metrics),
            reporter,
            source,
            destination,
            service,
            security,
            http: OnceCell::new(),
            grpc: OnceCell::new(),
            tcp: OnceCell::new(),
        })
    }

    pub fn reporter(&self) -> Reporter {
        self.reporter
    }

    /// The identity at the other end.
    pub fn peer(&self) -> &str {
        match self.reporter {
            Reporter::Source => &self.destination.principal,
            Reporter::Destination => &self.source.principal,
        }
    }

    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// For our own metrics: `namespace/service`.
    pub fn service_label(&self) -> String {
        self.service
            .as_ref()
            .map_or_else(|| UNKNOWN.to_owned(), ServiceName::label)
    }

    /// Counts a request that has ended. `grpc_status` values above 16 are counted as one.
    pub fn answered(&self, spoken: Spoken, mut answer: Answer, milliseconds: f64) {
        answer.grpc_status = answer.grpc_status.map(|code| code.min(17));
        let cell = if spoken == Spoken::Grpc {
            &self.grpc
        } else {
            &self.http
        };
        let spoke = cell.get_or_init(|| Spoke {
            duration: self
                .metrics
                .durations
                .with_label_values(&self.labels(spoken)),
            answers: RefCell::default(),
        });
        spoke.duration.observe(milliseconds);
        let mut answers = spoke.answers.borrow_mut();
        match answers.iter().find(|(known, _)| *known == answer) {
            Some((_, counter)) => counter.inc(),
            None => {
                let counter = self.answer_counter(spoken, answer);
                counter.inc();
                answers.push((answer, counter));
            }
        }
    }

    pub fn tcp(&self) -> &TcpHandles {
        self.tcp.get_or_init(|| {
            let labels = self.labels(Spoken::Tcp);
            TcpHandles {
                sent: self.metrics.tcp_sent.with_label_values(&labels),
                received: self.metrics.tcp_received.with_label_values(&labels),
                opened: self.metrics.tcp_opened.with_label_values(&labels),
                closed: self.metrics.tcp_closed.with_label_values(&labels),
            }
        })
    }

    fn answer_counter(&self, spoken: Spoken, answer: Answer) -> IntCounter {
        let status = answer.status.to_string();
        let grpc = answer
            .grpc_status
            .map(|code| code.to_string())
            .unwrap_or_default();
        let mut labels = self.labels(spoken).to_vec();
        let answer_labels: [&str; 3] = [&status, &grpc, answer.flag];
        labels.extend(answer_labels.map(String::from));
        self.metrics.requests.with_label_values(&labels)
    }

    /// In the order of [`super::metrics::EDGE_LABELS`].
    fn labels(&self, spoken: Spoken) -> [String; 14] {
        let (service, name, namespace) = match &self.service {
            Some(service) => (
                format!("{}.{}.svc.cluster.local", service.name, service.namespace),
                service.name.clone(),
                service.namespace.clone(),
            ),
            None => (UNKNOWN.to_owned(), UNKNOWN.to_owned(), UNKNOWN.to_owned()),
        };
        let (source, destination) = (self.source.clone(), self.destination.clone());
        [
            self.reporter.label().to_owned(),
            source.workload,
            source.namespace,
            source.principal,
            source.app,
            destination.workload,
            destination.namespace,
            destination.principal,
            destination.app,
            service,
            name,
            namespace,
            self.security.label().to_owned(),
            spoken.label().to_owned(),
        ]
    }
}
