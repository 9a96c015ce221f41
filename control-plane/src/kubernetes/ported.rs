//! Services without a selector, with the app's ports that their slices say: those are what Kubernetes goes
//! by, whatever `targetPort` says.

use std::collections::BTreeSet;
use std::sync::Arc;

use outrider_api::kinds::{TargetPort, Transport};
use outrider_api::manifest::Object;
use outrider_api::names::ServiceName;

use super::derived::Derived;
use super::objects::Entry;
use super::services::{Behind, Service, SlicePorts};

/// See the module.
#[derive(Default)]
pub(super) struct Ported {
    entries: Derived<ServiceName, SlicePorts>,
    /// Those of which slices are at odds, which is told once.
    at_odds: BTreeSet<ServiceName>,
}

impl Ported {
    /// Who is behind a Service now; `None`: it is not of the mesh.
    pub(super) fn tell(&mut self, service: &Service, behind: Option<&Behind>) {
        let name = &service.name;
        match behind {
            Some(behind) if !behind.ports.is_empty() => {
                let (entry, ports) = (&service.entry, behind.ports.clone());
                self.entries.of(name.clone(), entry, ports, with_ports);
            }
            _ => self.entries.forget(name),
        }
        let at_odds = behind.is_some_and(|behind| behind.at_odds);
        if at_odds && self.at_odds.insert(name.clone()) {
            tracing::warn!(
                service = format_args!("{}/{}", name.namespace, name.name),
                "its EndpointSlices say different numbers for one port: those of the first by name hold, \
                 and endpoints of the others get no calls"
            );
        }
        if !at_odds {
            self.at_odds.remove(name);
        }
    }

    /// The Service as it is of the mesh, by what was told of it last.
    pub(super) fn entry<'s>(&'s self, service: &'s Service) -> &'s Arc<Entry> {
        self.entries.find(&service.name).unwrap_or(&service.entry)
    }

    pub(super) fn retain(&mut self, is_left: impl Fn(&ServiceName) -> bool) {
        self.entries.retain(&is_left);
        self.at_odds.retain(is_left);
    }
}

fn with_ports(entry: &Arc<Entry>, ports: &SlicePorts) -> Arc<Entry> {
    let Some(Object::Service(written)) = &entry.object else {
        return Arc::clone(entry);
    };
    let mut service = (**written).clone();
    for port in &mut service.spec.ports {
        let number = ports.get(port.name.as_deref().unwrap_or_default());
        if let (Some(number), Transport::Tcp) = (number, port.transport) {
            port.target_port = Some(TargetPort::Number(*number));
        }
    }
    if service == **written {
        return Arc::clone(entry);
    }
    Arc::new(entry.with(Object::Service(written.with(service))))
}
