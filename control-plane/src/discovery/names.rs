//! What sidecars name on the wire, parsed. Pure.

use std::net::IpAddr;

use outrider_api::names::ServiceName;
use outrider_api::proto;

use super::end::End;
use super::ledger::Resource;

pub(super) fn service_name(service: proto::ServiceRef) -> Result<ServiceName, End> {
    ServiceName::try_from(service)
        .map_err(|_| End::Protocol("a name that is not a Service's: expected two DNS labels"))
}

pub(super) fn resource(
    destination: Option<proto::ServiceRef>,
    at: Option<proto::AddressRef>,
) -> Result<Resource, End> {
    match (destination, at) {
        (None, None) => Ok(Resource::Workload),
        (Some(service), None) => Ok(Resource::Destination(service_name(service)?)),
        (None, Some(at)) => Ok(Resource::Address(address(&at)?)),
        (Some(_), Some(_)) => Err(End::Protocol("an answer about two things")),
    }
}

pub(super) fn address(address: &proto::AddressRef) -> Result<IpAddr, End> {
    let parsed: Result<IpAddr, _> = address.address.parse();
    // What is asked for is what is answered.
    parsed
        .ok()
        .filter(|parsed| parsed.to_canonical() == *parsed)
        .ok_or(End::Protocol(
            "an address that is none: expected IPv4 or IPv6, and IPv4 within IPv6 as IPv4",
        ))
}
