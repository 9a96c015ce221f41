//! Who has which address: what is written, and what is assigned where nothing is.
//!
//! Assignment is a pure function of the objects: each begins to look for a free address where the
//! hash of its name says, in the order of names. So whoever reads the same files finds the same
//! addresses, and an object more moves another only where both want the same.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use outrider_api::kinds::{self, ClusterIp, Network, Ranges, ServiceType};
use outrider_api::manifest::{Located, Location, Problem};
use outrider_api::names::ServiceName;

use super::WorkloadName;
use super::objects::Objects;

/// The first host is the bridge's, where there is one.
const FIRST_OFFSET: u128 = 2;

#[derive(Debug, Default)]
pub(super) struct Addresses {
    workloads: HashMap<WorkloadName, Vec<IpAddr>>,
    pub(super) services: BTreeMap<ServiceName, Vec<IpAddr>>,
}

impl Addresses {
    /// Of a workload; the first is what peers dial.
    pub(super) fn of(&self, workload: &WorkloadName) -> &[IpAddr] {
        self.workloads.get(workload).map_or(&[], Vec::as_slice)
    }

    pub(super) fn first(&self, workload: &WorkloadName) -> Option<IpAddr> {
        self.of(workload).first().copied()
    }
}

/// Everybody's addresses; two objects that have the same one are a problem.
pub(super) fn resolve(
    objects: &Objects,
    network: &Network,
    problems: &mut Vec<Problem>,
) -> Addresses {
    let mut written = Written::default();
    let mut addresses = Addresses::default();
    for (name, workload) in objects.workloads.iter() {
        if let Some(own) = written.workload(name, workload, problems) {
            addresses.workloads.insert(name.clone(), own);
        }
    }
    for (name, service) in objects.services.iter() {
        if let Some(own) = written.service(name, service, problems) {
            addresses.services.insert(name.clone(), own);
        }
    }
    // What is written is nobody else's, whatever comes first.
    let mut pool = Pool {
        taken: written.owners.into_keys().collect(),
    };
    for (name, workload) in objects.workloads.iter() {
        if !addresses.workloads.contains_key(name) {
            let own = pool.of_workload(name, network.workloads);
            let own = own.map_err(|message| workload.problem("spec.address", message));
            let own = own.map_err(|problem| problems.push(problem));
            addresses
                .workloads
                .insert(name.clone(), own.unwrap_or_default());
        }
    }
    for (name, service) in objects.services.iter() {
        if !addresses.services.contains_key(name) {
            let own = pool.of_service(name, network.services);
            let own = own.map_err(|message| service.problem("spec.clusterIP", message));
            let own = own.map_err(|problem| problems.push(problem));
            addresses
                .services
                .insert(name.clone(), own.unwrap_or_default());
        }
    }
    addresses
}

/// Whose an address is, and which of a list it is. Displays as `Workload shop/billing-1`.
#[derive(Clone, Copy)]
enum Owner<'o> {
    Workload(
        &'o WorkloadName,
        &'o Located<kinds::Workload>,
        Option<usize>,
    ),
    Service(&'o ServiceName, &'o Located<kinds::Service>, Option<usize>),
}

impl fmt::Display for Owner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(name, ..) => write!(f, "Workload {name}"),
            Self::Service(name, ..) => write!(f, "Service {}/{}", name.namespace, name.name),
        }
    }
}

impl Owner<'_> {
    fn field(&self) -> String {
        match self {
            Self::Workload(.., None) => "spec.address".to_owned(),
            Self::Workload(.., Some(index)) => format!("spec.addresses[{index}]"),
            Self::Service(.., None) => "spec.clusterIP".to_owned(),
            Self::Service(.., Some(index)) => format!("spec.clusterIPs[{index}]"),
        }
    }

    fn location(&self) -> Location {
        match self {
            Self::Workload(_, workload, _) => workload.location(&self.field()),
            Self::Service(_, service, _) => service.location(&self.field()),
        }
    }
}

/// The addresses that are written, and whose they are. Loopback is every workload's on a machine
/// without interception: nobody is found by it.
#[derive(Default)]
struct Written<'o> {
    owners: HashMap<IpAddr, Owner<'o>>,
}

impl<'o> Written<'o> {
    /// `None`: to be assigned.
    fn workload(
        &mut self,
        name: &'o WorkloadName,
        workload: &'o Located<kinds::Workload>,
        problems: &mut Vec<Problem>,
    ) -> Option<Vec<IpAddr>> {
        let spec = &workload.spec;
        if spec.address.is_none() && spec.addresses.is_empty() {
            return None;
        }
        if spec.address.is_none() {
            let message = "are further ones, expected \"address\" beside them";
            problems.push(workload.problem("spec.addresses", message));
        }
        let first = spec.address.map(|address| (None, address));
        let others = spec.addresses.iter().enumerate();
        let others = others.map(|(index, address)| (Some(index), *address));
        let mut own = Vec::new();
        for (index, address) in first.into_iter().chain(others) {
            let owner = Owner::Workload(name, workload, index);
            let again = own.contains(&address);
            match self.take(address, owner) {
                Ok(()) if again => {
                    let message = format!("{address} is given twice, expected it once");
                    problems.push(workload.problem(owner.field(), message));
                }
                Ok(()) => own.push(address),
                Err(message) => problems.push(workload.problem(owner.field(), message)),
            }
        }
        Some(own)
    }

    /// `None`: to be assigned.
    fn service(
        &mut self,
        name: &'o ServiceName,
        service: &'o Located<kinds::Service>,
        problems: &mut Vec<Problem>,
    ) -> Option<Vec<IpAddr>> {
        let spec = &service.spec;
        if spec.service_type == ServiceType::ExternalName {
            return Some(Vec::new());
        }
        let of_list = spec.cluster_ips.first().copied();
        if let (Some(one), Some(first)) = (spec.cluster_ip, of_list)
            && one != first
        {
            let message = "is not what clusterIP says, expected the same";
            problems.push(service.problem("spec.clusterIPs[0]", message));
        }
        let headless = |ip: &ClusterIp| *ip == ClusterIp::Headless;
        if spec.cluster_ips.len() > 1 && spec.cluster_ips.iter().any(headless) {
            let message = "has None beside others, expected it alone";
            problems.push(service.problem("spec.clusterIPs", message));
        }
        let fields: Vec<(Option<usize>, ClusterIp)> = match of_list {
            Some(_) => {
                let list = spec.cluster_ips.iter().enumerate();
                list.map(|(index, ip)| (Some(index), *ip)).collect()
            }
            None => vec![(None, spec.cluster_ip?)],
        };
        let mut own = Vec::new();
        for (index, ip) in fields {
            let ClusterIp::Address(address) = ip else {
                continue;
            };
            let owner = Owner::Service(name, service, index);
            let taken = if address.is_loopback() {
                Err(format!(
                    "{address} is loopback, expected an address of the mesh"
                ))
            } else if own
                .iter()
                .any(|other: &IpAddr| other.is_ipv4() == address.is_ipv4())
            {
                Err(format!(
                    "{address} is a second one of its family, expected at most one of each"
                ))
            } else {
                self.take(address, owner)
            };
            match taken {
                Ok(()) => own.push(address),
                Err(message) => problems.push(service.problem(owner.field(), message)),
            }
        }
        Some(own)
    }

    fn take(&mut self, address: IpAddr, owner: Owner<'o>) -> Result<(), String> {
        if address.is_unspecified() || address.is_multicast() {
            return Err(format!(
                "{address} is nobody's, expected the address of one host"
            ));
        }
        if address.is_loopback() {
            return Ok(());
        }
        if let Some(other) = self.owners.get(&address) {
            let at = other.location();
            return Err(format!(
                "{address} is also {other}'s (at {at}), expected another"
            ));
        }
        self.owners.insert(address, owner);
        Ok(())
    }
}

/// What is left to be assigned.
struct Pool {
    taken: HashSet<IpAddr>,
}

impl Pool {
    fn of_workload(&mut self, name: &WorkloadName, ranges: Ranges) -> Result<Vec<IpAddr>, String> {
        let own = self.assign(&format!("Workload/{name}"), ranges)?;
        if own.is_empty() {
            return Err(
                "is missing, expected an address, or a block in the MeshConfig's \
                 spec.network.workloads to assign one from"
                    .to_owned(),
            );
        }
        Ok(own)
    }

    fn of_service(&mut self, name: &ServiceName, ranges: Ranges) -> Result<Vec<IpAddr>, String> {
        self.assign(&format!("Service/{}/{}", name.namespace, name.name), ranges)
    }

    /// One of each family.
    fn assign(&mut self, key: &str, ranges: Ranges) -> Result<Vec<IpAddr>, String> {
        ranges
            .nets()
            .map(|net| {
                let free = self.free(net, hash(key));
                let address = free.ok_or_else(|| {
                    format!("is missing, and every address of {net} is taken; expected a larger block in the MeshConfig's spec.network")
                })?;
                self.taken.insert(address);
                Ok(address)
            })
            .collect()
    }

    fn free(&self, net: IpNet, hash: u64) -> Option<IpAddr> {
        let length = u32::from(net.max_prefix_len() - net.prefix_len());
        // Neither the network nor the bridge nor the broadcast address.
        let count = 1_u128
            .checked_shl(length)
            .unwrap_or(u128::MAX)
            .checked_sub(FIRST_OFFSET + 1)?;
        let start = u128::from(hash).checked_rem(count)?;
        let candidates = (0..count).map(|step| FIRST_OFFSET + (start + step) % count);
        candidates
            .map(|offset| at(net, offset))
            .find(|address| !self.taken.contains(address))
    }
}

/// The address `offset` after the network's.
fn at(net: IpNet, offset: u128) -> IpAddr {
    match net.network() {
        // An offset within the block has no more bits than its hosts have.
        IpAddr::V4(network) => {
            let offset = u32::try_from(offset).unwrap_or(0);
            IpAddr::V4((u32::from(network) | offset).into())
        }
        IpAddr::V6(network) => IpAddr::V6(Ipv6Addr::from(u128::from(network) | offset)),
    }
}

/// FNV-1a: the same in every build.
fn hash(key: &str) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(PRIME);
    key.bytes().fold(OFFSET, mix)
}
