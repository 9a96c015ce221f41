//! What is at an IP address that an app connects to.

use std::net::IpAddr;

use super::destination::Destination;
use super::error::{Cause, ModelError, nested};
use crate::names::ServiceName;
use crate::proto;
use crate::proto::address::Kind as Wire;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub address: IpAddr,
    pub target: AddressTarget,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressTarget {
    /// It is one of the Service's cluster IPs.
    Service(ServiceName),
    /// It is a workload's own: a destination with that endpoint, or with none while the workload is
    /// withdrawn.
    Instance(Box<Destination>),
    /// It is nothing of this mesh.
    Unknown,
}

impl TryFrom<proto::Address> for Address {
    type Error = ModelError;

    fn try_from(wire: proto::Address) -> Result<Self, ModelError> {
        let target = match wire.kind {
            None => return Err(ModelError::new("kind", Cause::Missing)),
            Some(Wire::Service(service)) => AddressTarget::Service(nested("service", service)?),
            Some(Wire::Instance(instance)) => {
                AddressTarget::Instance(Box::new(nested("instance", instance)?))
            }
            Some(Wire::Unknown(proto::Unknown {})) => AddressTarget::Unknown,
        };
        let address = wire.address.parse();
        Ok(Self {
            address: address.map_err(ModelError::at("address"))?,
            target,
        })
    }
}

impl From<&Address> for proto::Address {
    fn from(address: &Address) -> Self {
        Self {
            address: address.address.to_string(),
            kind: Some((&address.target).into()),
        }
    }
}

impl From<&AddressTarget> for Wire {
    fn from(target: &AddressTarget) -> Self {
        match target {
            AddressTarget::Service(service) => Self::Service(service.into()),
            AddressTarget::Instance(instance) => Self::Instance((&**instance).into()),
            AddressTarget::Unknown => Self::Unknown(proto::Unknown {}),
        }
    }
}
