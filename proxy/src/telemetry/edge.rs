//! An edge of the mesh: who calls whom, with its metric handles resolved once.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use outrider_api::model;
use outrider_api::names::ServiceName;
use outrider_certs::spiffe::SpiffeId;
use prometheus::{Histogram, IntCounter};

use super::metrics::{EDGE_LABELS, Metrics};

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

/// The values of [`EDGE_LABELS`], in their order.
pub type EdgeLabels = [String; EDGE_LABELS.len()];

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

/// Keeps the series of an edge's labels for as long as somebody may count into them.
#[derive(Debug)]
struct Counting {
    metrics: Arc<Metrics>,
    labels: Arc<EdgeLabels>,
}

/// The handles for one protocol of an edge.
#[derive(Debug)]
struct Spoke {
    counting: Counting,
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
    _counting: Rc<Counting>,
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
        let spoke = cell.get_or_init(|| {
            let counting = self.counting(spoken);
            let durations = &self.metrics.durations;
            Spoke {
                duration: durations.with_label_values(&*counting.labels),
                answers: RefCell::default(),
                counting,
            }
        });
        spoke.duration.observe(milliseconds);
        let mut answers = spoke.answers.borrow_mut();
        match answers.iter().find(|(known, _)| *known == answer) {
            Some((_, counter)) => counter.inc(),
            None => {
                let counter = spoke.counting.answer_counter(answer);
                counter.inc();
                answers.push((answer, counter));
            }
        }
    }

    pub fn tcp(&self) -> &TcpHandles {
        self.tcp.get_or_init(|| {
            let counting = self.counting(Spoken::Tcp);
            let labels = &*counting.labels;
            TcpHandles {
                sent: self.metrics.tcp_sent.with_label_values(labels),
                received: self.metrics.tcp_received.with_label_values(labels),
                opened: self.metrics.tcp_opened.with_label_values(labels),
                closed: self.metrics.tcp_closed.with_label_values(labels),
                _counting: Rc::new(counting),
            }
        })
    }

    fn counting(&self, spoken: Spoken) -> Counting {
        Counting {
            metrics: Arc::clone(&self.metrics),
            labels: self.metrics.edges.begin(self.labels(spoken)),
        }
    }

    fn labels(&self, spoken: Spoken) -> EdgeLabels {
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

impl Counting {
    fn answer_counter(&self, answer: Answer) -> IntCounter {
        let status = answer.status.to_string();
        let grpc = answer
            .grpc_status
            .map(|code| code.to_string())
            .unwrap_or_default();
        let of_answer = [status, grpc, answer.flag.to_owned()];
        let labels: Vec<&String> = self.labels.iter().chain(&of_answer).collect();
        let counter = self.metrics.requests.with_label_values(&labels);
        self.metrics.edges.add(&self.labels, of_answer);
        counter
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.metrics.edges.end(&self.labels, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::series::LINGER;

    fn party(name: &str) -> Party {
        Party {
            workload: name.to_owned(),
            namespace: "shop".to_owned(),
            principal: format!("spiffe://cluster.local/ns/shop/sa/{name}"),
            app: name.to_owned(),
        }
    }

    fn told_of(metrics: &Metrics, workload: &str) -> usize {
        let text = metrics.render().expect("text");
        let label = format!("destination_workload=\"{workload}\"");
        text.lines().filter(|line| line.contains(&label)).count()
    }

    #[test]
    fn the_series_of_an_edge_end_a_while_after_it() {
        let metrics = Arc::new(Metrics::new().expect("unique names"));
        let edge = |to: &str| {
            let (from, to) = (party("order"), party(to));
            Edge::new(&metrics, Reporter::Source, from, to, None)
        };
        let answer = |status| Answer {
            status,
            grpc_status: None,
            flag: "-",
        };
        // Two workers call the same instance, and one of them another.
        let (first, second, stays) = (edge("billing-1"), edge("billing-1"), edge("billing-2"));
        for called in [&first, &second, &stays] {
            called.answered(Spoken::Http, answer(200), 1.0);
        }
        first.answered(Spoken::Http, answer(503), 1.0);
        let connection = second.tcp().clone();
        let before = told_of(&metrics, "billing-1");
        let start = Instant::now();
        metrics.sweep(start);
        drop((first, second));
        // Somebody counts into them.
        metrics.sweep(start + 2 * LINGER);
        let tcp = 4;
        assert_eq!(told_of(&metrics, "billing-1"), tcp);
        connection.closed.inc();
        drop(connection);
        metrics.sweep(start + LINGER / 2);
        assert_eq!(told_of(&metrics, "billing-1"), tcp);
        metrics.sweep(start + 4 * LINGER);
        assert_eq!(told_of(&metrics, "billing-1"), 0);
        assert_eq!(told_of(&metrics, "billing-2"), before - tcp - 1);

        edge("billing-1").answered(Spoken::Http, answer(200), 1.0);
        assert_eq!(told_of(&metrics, "billing-1"), before - tcp - 1);
        let text = metrics.render().expect("text");
        let mut counted = text.lines().filter(|line| {
            line.starts_with("istio_requests_total") && line.contains("=\"billing-1\"")
        });
        assert!(counted.all(|line| line.ends_with(" 1")), "{text}");
    }
}
