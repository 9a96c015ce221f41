//! The routes of a Service as a worker has compiled them: which rule a request meets, and to whom
//! its share goes.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use outrider_api::model::traffic::{Retry, Timeouts, TrafficSettings};
use outrider_api::model::{Backend, HttpRule, RouteGroup, Routes, Target};
use outrider_api::names::ServiceName;
use outrider_api::routing::{RouteHit, RouteRequest, Router};

use super::directory::{Directory, Slot};
use crate::refusal::Refusal;
use crate::traffic::retry;
use crate::worker::Worker;

/// The routes of one port.
#[derive(Debug)]
pub struct PortRoutes {
    port: u16,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Http {
        router: Box<Router>,
        rules: Vec<Rc<Rule>>,
    },
    Tcp(Rc<Split>),
}

/// A rule, with what it leaves open filled in by the Service.
#[derive(Debug)]
pub struct Rule {
    pub model: HttpRule,
    pub split: Split,
    pub timeouts: Timeouts,
    pub retry: Retry,
}

/// Backends and their shares.
#[derive(Debug)]
pub struct Split {
    backends: Vec<Share>,
    total: usize,
}

/// One backend.
#[derive(Debug)]
pub struct Share {
    pub model: Backend,
    /// Found on first use. A slot has the routes of its Service, and so it may have this share, too.
    slot: RefCell<Weak<Slot>>,
}

/// The rule that a request meets.
#[derive(Clone, Debug)]
pub struct Met {
    pub rule: Rc<Rule>,
    /// See [`RouteHit::prefix`].
    pub prefix: usize,
}

impl PortRoutes {
    /// The groups that hold for callers of `namespace`: on each port consumer routes replace producer
    /// routes (GEP-1294).
    pub fn compile(groups: &[RouteGroup], namespace: &str, traffic: &TrafficSettings) -> Vec<Self> {
        let is_ours = |group: &RouteGroup| group.consumer.as_deref() == Some(namespace);
        let replaced = |port| {
            groups
                .iter()
                .any(|group| group.port == port && is_ours(group))
        };
        let holds = |group: &&RouteGroup| {
            is_ours(group) || (group.consumer.is_none() && !replaced(group.port))
        };
        let compiled = groups.iter().filter(holds).map(|group| Self {
            port: group.port,
            kind: match &group.routes {
                Routes::Http(http) => Kind::Http {
                    router: Box::new(Router::new(http)),
                    rules: http
                        .rules
                        .iter()
                        .map(|rule| Rc::new(Rule::new(rule, traffic)))
                        .collect(),
                },
                Routes::Tcp(rule) => Kind::Tcp(Rc::new(Split::new(&rule.backends))),
            },
        });
        compiled.collect()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The rule for a request. `Ok(None)`: these routes are not about requests.
    pub fn http(&self, request: &RouteRequest<'_>) -> Result<Option<Met>, Refusal> {
        let Kind::Http { router, rules } = &self.kind else {
            return Ok(None);
        };
        let RouteHit { rule, prefix, .. } = router.route(request).ok_or(Refusal::NoRoute)?;
        let rule = rules.get(rule).ok_or(Refusal::BackendInvalid)?;
        Ok(Some(Met {
            rule: Rc::clone(rule),
            prefix,
        }))
    }

    /// The shares of opaque connections, where they are routed.
    pub fn tcp(&self) -> Option<Rc<Split>> {
        match &self.kind {
            Kind::Tcp(split) => Some(Rc::clone(split)),
            Kind::Http { .. } => None,
        }
    }
}

impl Rule {
    fn new(model: &HttpRule, traffic: &TrafficSettings) -> Self {
        let mut timeouts = traffic.timeouts;
        if let Some(request) = model.timeouts.request {
            timeouts.request = request.duration();
        }
        if let Some(attempt) = model.timeouts.backend_request {
            timeouts.backend_request = attempt.duration();
        }
        Self {
            split: Split::new(&model.backends),
            timeouts,
            retry: match &model.retry {
                Some(rule) => retry::with_rule(&traffic.retry, rule),
                None => traffic.retry.clone(),
            },
            model: model.clone(),
        }
    }
}

impl Split {
    fn new(backends: &[Backend]) -> Self {
        let share = |backend: &Backend| Share {
            model: backend.clone(),
            slot: RefCell::default(),
        };
        Self {
            backends: backends.iter().map(share).collect(),
            total: backends.iter().map(|backend| backend.weight as usize).sum(),
        }
    }

    pub fn share(&self, index: usize) -> Option<&Share> {
        self.backends.get(index)
    }

    /// The backend for the next request, by weight, and its index.
    pub fn choose(&self, random: impl FnOnce(usize) -> usize) -> Result<(usize, &Share), Refusal> {
        if self.total == 0 {
            return Err(Refusal::BackendInvalid);
        }
        let mut drawn = match self.backends.as_slice() {
            [_] => 0,
            _ => random(self.total),
        };
        for (index, share) in self.backends.iter().enumerate() {
            let weight = share.model.weight as usize;
            if drawn < weight {
                return Ok((index, share));
            }
            drawn -= weight;
        }
        Err(Refusal::BackendInvalid)
    }
}

impl Share {
    /// The Service and its port.
    pub async fn resolve(&self, worker: &Worker) -> Result<(Rc<Slot>, u16), Refusal> {
        let Target::Service { service, port } = &self.model.target else {
            return Err(Refusal::BackendInvalid);
        };
        Ok((self.slot(&worker.directory, service).await?, *port))
    }

    async fn slot(&self, directory: &Directory, of: &ServiceName) -> Result<Rc<Slot>, Refusal> {
        if let Some(slot) = self.slot.borrow().upgrade() {
            return Ok(slot);
        }
        let slot = directory.slot(of).await?;
        self.slot.replace(Rc::downgrade(&slot));
        Ok(slot)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use outrider_api::model::{RuleOrigin, TcpRule};
    use tokio::sync::{mpsc, watch};

    use super::*;
    use crate::control::DestinationState;
    use crate::control::subjects::Subscription;

    fn backend(name: &str, weight: u32) -> Backend {
        Backend {
            weight,
            target: Target::Service {
                service: ServiceName::new("shop", name).expect("a name"),
                port: 80,
            },
            filters: Vec::new(),
        }
    }

    fn group(consumer: Option<&str>, port: u16, name: &str) -> RouteGroup {
        RouteGroup {
            consumer: consumer.map(Into::into),
            port,
            routes: Routes::Tcp(TcpRule {
                origin: RuleOrigin {
                    kind: "TCPRoute".into(),
                    namespace: "shop".into(),
                    name: name.into(),
                    rule: "0".into(),
                },
                backends: vec![backend(name, 1)],
            }),
        }
    }

    /// As its Service has compiled routes that lead to itself.
    #[tokio::test]
    async fn a_service_that_is_one_of_its_own_backends_is_let_go() {
        let (subscriptions, mut subscribed) = mpsc::channel::<Subscription>(1);
        let directory = Directory::new(subscriptions);
        let name = ServiceName::new("shop", "a").expect("a name");
        let state = watch::Sender::new(DestinationState::Pending);
        let split = Split::new(&[backend("a", 1)]);
        let share = split.share(0).expect("one");
        let (found, ()) = tokio::join!(share.slot(&directory, &name), async {
            let asked = subscribed.recv().await.expect("it is asked");
            let _ = asked.reply.send(state.subscribe());
        });
        let found = Rc::downgrade(&found.expect("a slot"));
        let again = share.slot(&directory, &name).await.expect("known");
        assert!(Rc::ptr_eq(&again, &found.upgrade().expect("in use")));
        drop(again);
        directory.sweep(Instant::now() + Duration::from_secs(3600));
        assert!(
            found.upgrade().is_none(),
            "the share alone does not keep it"
        );
        assert_eq!(state.receiver_count(), 0);
    }

    #[test]
    fn shares_are_as_their_weights() {
        let split = Split::new(&[backend("a", 1), backend("b", 0), backend("c", 3)]);
        let mut counts = [0; 3];
        for drawn in 0..4 {
            let (index, _) = split.choose(|total| drawn % total).expect("one");
            counts[index] += 1;
        }
        assert_eq!(counts, [1, 0, 3]);
        let none = Split::new(&[backend("a", 0)]);
        assert!(matches!(none.choose(|_| 0), Err(Refusal::BackendInvalid)));
    }

    #[test]
    fn consumer_routes_replace_producer_routes_for_their_namespace_alone() {
        let groups = [
            group(None, 80, "producer"),
            group(None, 81, "producer"),
            group(Some("web"), 80, "consumer"),
        ];
        let backends = |namespace| -> Vec<(u16, String)> {
            let first = |routes: &PortRoutes| match &routes.tcp()?.backends.first()?.model.target {
                Target::Service { service, .. } => Some(service.name.clone()),
                Target::Invalid(_) => None,
            };
            PortRoutes::compile(&groups, namespace, &TrafficSettings::default())
                .iter()
                .filter_map(|routes| Some((routes.port(), first(routes)?)))
                .collect()
        };
        let both = |web: &str| [(80, web.to_owned()), (81, "producer".to_owned())];
        assert_eq!(backends("shop"), both("producer"));
        let mut web = backends("web");
        web.sort();
        assert_eq!(web, both("consumer"));
    }
}
