//! What is said to the control plane about a subject, and how the two are told apart in its answers.

use std::net::IpAddr;

use outrider_api::names::ServiceName;
use outrider_api::proto::discovery_request::Kind;
use outrider_api::proto::{AddressRef, ServiceRef};

use super::Subject;

/// The request that subscribes to a subject.
pub fn ask(subject: &Subject) -> Kind {
    match subject {
        Subject::Service(service) => Kind::Subscribe(service_ref(service)),
        Subject::Address(address) => Kind::Resolve(address_ref(address)),
    }
}

/// The request that ends a subscription.
pub fn forget(subject: &Subject) -> Kind {
    match subject {
        Subject::Service(service) => Kind::Unsubscribe(service_ref(service)),
        Subject::Address(address) => Kind::Forget(address_ref(address)),
    }
}

fn address_ref(address: &IpAddr) -> AddressRef {
    AddressRef {
        address: address.to_string(),
    }
}

fn service_ref(service: &ServiceName) -> ServiceRef {
    ServiceRef {
        namespace: service.namespace.clone(),
        name: service.name.clone(),
    }
}

pub fn service_name(service: &ServiceRef) -> ServiceName {
    ServiceName {
        namespace: service.namespace.clone(),
        name: service.name.clone(),
    }
}
