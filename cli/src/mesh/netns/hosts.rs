//! The names that a workload knows: the text of its /etc/hosts. Pure.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

/// What names of Services end with, as in Kubernetes.
const SUFFIX: &str = "svc.cluster.local";

/// Everything in a mesh that has a name.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// What the machine is called, which every workload takes for its own name.
    pub machine: String,
    /// Of every Service.
    pub services: Vec<Service>,
    /// Of every Workload.
    pub workloads: Vec<Workload>,
}

/// What is called by one name.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its own; none for a headless one, which is its members.
    pub addresses: Vec<IpAddr>,
    /// The Workloads behind it: namespace, name and addresses.
    pub members: Vec<Workload>,
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its own.
    pub addresses: Vec<IpAddr>,
}

impl Names {
    /// What a workload in `namespace` with its `own` addresses finds in its /etc/hosts. Names without
    /// a namespace are those of its own; a Service goes before a Workload of the same name.
    pub fn hosts(&self, namespace: &str, own: &[IpAddr]) -> String {
        let mut lines = Lines::default();
        lines.heading("Written by outrider up.");
        for local in [IpAddr::from([127, 0, 0, 1]), IpAddr::from(LOOPBACK_V6)] {
            lines.add(&[local], vec!["localhost".to_owned()]);
        }
        if !self.machine.is_empty() {
            // As in Pods. Many a program asks for its own name when it starts.
            let known = self.workloads.iter().flat_map(|known| &known.addresses);
            let known: BTreeSet<&IpAddr> = known.collect();
            let own: Vec<IpAddr> = own
                .iter()
                .copied()
                .filter(|own| known.contains(own))
                .collect();
            lines.add(&own, vec![self.machine.clone()]);
        }
        lines.heading("Services");
        for service in &self.services {
            let names = service_names(&service.name, service, namespace);
            if service.addresses.is_empty() {
                for member in &service.members {
                    lines.add(&member.addresses, names.clone());
                }
            } else {
                lines.add(&service.addresses, names);
            }
        }
        lines.heading("Workloads");
        let taken: BTreeSet<&str> = self
            .services
            .iter()
            .filter(|service| service.namespace == namespace)
            .map(|service| service.name.as_str())
            .collect();
        for workload in &self.workloads {
            let mut names = Vec::new();
            if workload.namespace == namespace && !taken.contains(workload.name.as_str()) {
                names.push(workload.name.clone());
            }
            // As the Pods of a StatefulSet are called.
            for service in self.headless(workload) {
                let first = format!("{}.{}", workload.name, service.name);
                names.extend(service_names(&first, service, namespace));
            }
            lines.add(&workload.addresses, names);
        }
        lines.text
    }

    /// Where a Service is: the first of its addresses, or of its members'.
    pub fn address_of(&self, namespace: &str, service: &str) -> Option<IpAddr> {
        let mut services = self.services.iter();
        let found = services.find(|known| known.namespace == namespace && known.name == service)?;
        let members = found.members.iter().flat_map(|member| &member.addresses);
        found.addresses.iter().chain(members).next().copied()
    }

    fn headless<'a>(&'a self, workload: &'a Workload) -> impl Iterator<Item = &'a Service> {
        let headless = self
            .services
            .iter()
            .filter(|service| service.addresses.is_empty());
        headless.filter(|service| {
            let mut members = service.members.iter();
            members.any(|member| {
                member.namespace == workload.namespace && member.name == workload.name
            })
        })
    }
}

const LOOPBACK_V6: [u16; 8] = [0, 0, 0, 0, 0, 0, 0, 1];

/// "billing" (in its own namespace only), "billing.shop", "billing.shop.svc", and the whole.
fn service_names(first: &str, service: &Service, namespace: &str) -> Vec<String> {
    let long = format!("{first}.{}", service.namespace);
    let short = (service.namespace == namespace).then(|| first.to_owned());
    let names = [
        long.clone(),
        format!("{long}.svc"),
        format!("{long}.{SUFFIX}"),
    ];
    short.into_iter().chain(names).collect()
}

#[derive(Default)]
struct Lines {
    text: String,
}

impl Lines {
    fn heading(&mut self, heading: &str) {
        let _ = writeln!(self.text, "# {heading}");
    }

    fn add(&mut self, addresses: &[IpAddr], names: Vec<String>) {
        if names.is_empty() {
            return;
        }
        for address in addresses {
            let _ = writeln!(self.text, "{address} {}", names.join(" "));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(namespace: &str, name: &str, addresses: &[&str]) -> Workload {
        Workload {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    fn service(namespace: &str, name: &str, addresses: &[&str], members: &[&Workload]) -> Service {
        let Workload {
            namespace,
            name,
            addresses,
        } = workload(namespace, name, addresses);
        Service {
            namespace,
            name,
            addresses,
            members: members.iter().map(|member| (*member).clone()).collect(),
        }
    }

    fn shop() -> Names {
        let one = workload("shop", "store-0", &["10.201.0.7", "fd00::7"]);
        let two = workload("shop", "store-1", &["10.201.0.8"]);
        let other = workload("bank", "billing", &["10.201.0.9"]);
        Names {
            machine: "laptop".to_owned(),
            services: vec![
                service("bank", "billing", &["10.202.0.3"], &[&other]),
                service("shop", "order", &["10.202.0.2", "fd01::2"], &[]),
                service("shop", "store", &[], &[&one, &two]),
            ],
            workloads: vec![other, one, two],
        }
    }

    #[test]
    fn a_workload_knows_every_service_and_workload() {
        assert_eq!(
            shop().hosts("shop", &["10.201.0.7".parse().unwrap()]),
            "# Written by outrider up.\n\
             127.0.0.1 localhost\n\
             ::1 localhost\n\
             10.201.0.7 laptop\n\
             # Services\n\
             10.202.0.3 billing.bank billing.bank.svc billing.bank.svc.cluster.local\n\
             10.202.0.2 order order.shop order.shop.svc order.shop.svc.cluster.local\n\
             fd01::2 order order.shop order.shop.svc order.shop.svc.cluster.local\n\
             10.201.0.7 store store.shop store.shop.svc store.shop.svc.cluster.local\n\
             fd00::7 store store.shop store.shop.svc store.shop.svc.cluster.local\n\
             10.201.0.8 store store.shop store.shop.svc store.shop.svc.cluster.local\n\
             # Workloads\n\
             10.201.0.7 store-0 store-0.store store-0.store.shop store-0.store.shop.svc store-0.store.shop.svc.cluster.local\n\
             fd00::7 store-0 store-0.store store-0.store.shop store-0.store.shop.svc store-0.store.shop.svc.cluster.local\n\
             10.201.0.8 store-1 store-1.store store-1.store.shop store-1.store.shop.svc store-1.store.shop.svc.cluster.local\n"
        );
    }

    #[test]
    fn short_names_are_of_the_own_namespace_and_services_go_first() {
        let hosts = shop().hosts("bank", &[]);
        assert!(hosts.contains("10.202.0.3 billing billing.bank"), "{hosts}");
        assert!(hosts.contains("10.202.0.2 order.shop "), "{hosts}");
        assert!(!hosts.contains("10.201.0.9 billing"), "{hosts}");
    }

    #[test]
    fn a_service_is_found() {
        let address = |service| shop().address_of("shop", service).map(|ip| ip.to_string());
        assert_eq!(address("order").as_deref(), Some("10.202.0.2"));
        assert_eq!(address("store").as_deref(), Some("10.201.0.7"));
        assert_eq!(address("billing"), None);
    }
}
