//! How the network of a mesh on one machine is laid out: what everything is called, which addresses
//! it has, and the lines for `ip -batch` that make and remove it. Pure.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use thiserror::Error;

/// What everything of ours begins with.
const PREFIX: &str = "outr-";
/// The link inside of every namespace.
const INSIDE: &str = "eth0";
/// The longest name of a file, and so of a namespace.
const NAME_LIMIT: usize = 255;
/// What fits behind the bridge's name in the name of a link, which has 15 bytes (`IFNAMSIZ`): three
/// digits. A bridge has 1,023 ports at most.
pub(super) const MOST: usize = 1000;

/// Why a mesh has no place on one machine.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LayoutError {
    /// The name of a namespace is the name of a file.
    #[error(
        "Workload {workload}: its namespace would be called {name}, which is longer than the \
         {NAME_LIMIT} bytes that it may have: give it a shorter name"
    )]
    Name {
        /// NAMESPACE/NAME
        workload: String,
        /// Of the namespace.
        name: String,
    },
    /// A bridge has so many ports.
    #[error("{0} Workloads are more than the {MOST} that one machine can take")]
    Many(usize),
    /// The bridge would not lead to it.
    #[error(
        "Workload {workload} has the address {address}, which is in no range of spec.network.workloads of \
         the MeshConfig ({}): leave spec.address out, or take another",
        list(.ranges)
    )]
    Outside {
        /// NAMESPACE/NAME
        workload: String,
        /// As written.
        address: IpAddr,
        /// Of the MeshConfig.
        ranges: Vec<IpNet>,
    },
}

fn list(ranges: &[IpNet]) -> String {
    let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
    ranges.join(", ")
}

/// A hardware address that is the same whenever something of this name is made.
fn mac(name: &str) -> String {
    let [_, _, _, a, b, c, d, e] = hash(name.as_bytes()).to_be_bytes();
    format!("02:{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}")
}

/// FNV-1a: all that is asked of it is that two names differ.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Which mesh of this machine: the same for the same state directory, always.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Id(String);

impl Id {
    /// Of the mesh that keeps its state here; an absolute path without symbolic links.
    pub fn of(state_dir: &Path) -> Self {
        let hash = hash(state_dir.as_os_str().as_encoded_bytes());
        Self(format!("{:06x}", (hash ^ (hash >> 32)) & 0xff_ffff))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The bridge's name.
    pub fn bridge(&self) -> String {
        format!("{PREFIX}{}", self.0)
    }

    /// What the names of its namespaces and links begin with.
    pub fn prefix(&self) -> String {
        format!("{PREFIX}{}-", self.0)
    }

    /// The link to a namespace, by number.
    pub fn link(&self, number: usize) -> String {
        format!("{}{number}", self.prefix())
    }

    /// The namespace of the Workload that people call `label` in this mesh.
    pub fn namespace(&self, label: &str) -> String {
        format!("{}{}", self.prefix(), label.replace('/', "."))
    }
}

/// The whole network.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Which mesh.
    pub id: Id,
    /// Where the Workloads are, with the bridge's own address in it: the first of each block.
    pub bridge: Vec<IpNet>,
    /// Where the Services are: nobody has these addresses.
    pub services: Vec<IpNet>,
    /// One for each Workload.
    pub namespaces: Vec<Namespace>,
}

/// The network of one Workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// NAMESPACE/NAME of the Workload.
    pub workload: String,
    /// Of the namespace.
    pub name: String,
    /// Its own, all within the ranges of the bridge.
    pub addresses: Vec<IpAddr>,
    /// Its /etc/hosts.
    pub hosts: String,
}

impl Namespace {
    /// The hardware address of its link: the same whenever it is made, since its neighbours remember it
    /// for a while, and would send to nobody. Locally administered (IEEE 802, the second bit of 02).
    fn mac(&self) -> String {
        mac(&self.name)
    }
}

impl Layout {
    /// Checks that everything has a name and a place.
    pub fn check(&self) -> Result<(), LayoutError> {
        if self.namespaces.len() > MOST {
            return Err(LayoutError::Many(self.namespaces.len()));
        }
        let mut namespaces = self.namespaces.iter();
        namespaces.try_for_each(|namespace| self.check_one(namespace))
    }

    /// Checks that a namespace has a name and a place.
    pub fn check_one(&self, namespace: &Namespace) -> Result<(), LayoutError> {
        if namespace.name.len() > NAME_LIMIT {
            return Err(LayoutError::Name {
                workload: namespace.workload.clone(),
                name: namespace.name.clone(),
            });
        }
        let mut addresses = namespace.addresses.iter();
        match addresses.find(|address| self.range_of(**address).is_none()) {
            Some(address) => Err(LayoutError::Outside {
                workload: namespace.workload.clone(),
                address: *address,
                ranges: self.bridge.iter().map(IpNet::trunc).collect(),
            }),
            None => Ok(()),
        }
    }

    /// Whether both have the same addresses to give away.
    pub fn has_ranges_of(&self, other: &Self) -> bool {
        self.bridge == other.bridge && self.services == other.services
    }

    /// The namespace of a Workload, NAMESPACE/NAME.
    pub fn namespace_of(&self, workload: &str) -> Option<&Namespace> {
        let mut namespaces = self.namespaces.iter();
        namespaces.find(|namespace| namespace.workload == workload)
    }

    /// Leaves out what is of IPv6.
    pub fn without_v6(&mut self) {
        self.bridge.retain(|net| net.addr().is_ipv4());
        self.services.retain(|net| net.addr().is_ipv4());
        for namespace in &mut self.namespaces {
            namespace.addresses.retain(IpAddr::is_ipv4);
        }
    }

    /// Where the control plane is reached from every namespace.
    pub fn host(&self) -> Option<IpAddr> {
        self.bridge.first().map(IpNet::addr)
    }

    /// Makes the bridge and the namespaces, each with a link to the bridge.
    pub fn create(&self) -> String {
        let bridge = self.id.bridge();
        // Without an address of its own it has one of its ports', and another when ports come and go:
        // then those who know it, for instance as the control plane's, talk to nobody for a while.
        let mac = mac(&bridge);
        let mut lines =
            format!("link add name {bridge} address {mac} type bridge mcast_snooping 0\n");
        for net in &self.bridge {
            let _ = writeln!(lines, "address add {net} dev {bridge}{}", at_once(net));
        }
        let _ = writeln!(lines, "link set {bridge} up");
        for (number, namespace) in self.namespaces.iter().enumerate() {
            lines.push_str(&self.attach(number, namespace));
        }
        lines
    }

    /// Makes a namespace with the link of this number to the bridge.
    pub fn attach(&self, number: usize, namespace: &Namespace) -> String {
        let (bridge, link) = (self.id.bridge(), self.id.link(number));
        let name = &namespace.name;
        let mac = namespace.mac();
        format!(
            "netns add {name}\n\
             link add name {link} type veth peer name {INSIDE} address {mac} netns {name}\n\
             link set {link} master {bridge} up\n"
        )
    }

    /// Removes the link of a namespace, whatever its number; to be run inside.
    pub fn detach() -> String {
        format!("link del {INSIDE}\n")
    }

    /// Gives a namespace its addresses and routes; to be run inside.
    pub fn furnish(&self, namespace: &Namespace) -> String {
        let mut lines = "link set lo up\n".to_owned();
        for address in &namespace.addresses {
            if let Some(range) = self.range_of(*address) {
                let length = range.prefix_len();
                let _ = writeln!(
                    lines,
                    "address add {address}/{length} dev {INSIDE}{}",
                    at_once(range)
                );
            }
        }
        let _ = writeln!(lines, "link set {INSIDE} up");
        let has = |net: &&IpNet| {
            let mut own = namespace.addresses.iter();
            own.any(|address| address.is_ipv4() == net.addr().is_ipv4())
        };
        for net in self.bridge.iter().filter(has) {
            let _ = writeln!(lines, "route add default via {}", net.addr());
        }
        // On the link, where nobody answers: a connection to a Service that is not intercepted fails
        // after three seconds, and never leaves this machine.
        for net in self.services.iter().filter(has) {
            let _ = writeln!(lines, "route add {net} dev {INSIDE}");
        }
        lines
    }

    fn range_of(&self, address: IpAddr) -> Option<&IpNet> {
        self.bridge.iter().find(|range| range.contains(&address))
    }
}

/// An address of IPv6 is of use at once only where nobody looks for a second of it.
fn at_once(net: &IpNet) -> &'static str {
    if net.addr().is_ipv6() { " nodad" } else { "" }
}

/// Where `ip netns exec` looks for the files of a namespace that take the place of those in /etc.
pub fn etc(namespace: &str) -> PathBuf {
    Path::new("/etc/netns").join(namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(workloads: &[(&str, &[&str])]) -> Layout {
        let id = Id::of(Path::new("/srv/mesh/.outrider"));
        let namespaces = workloads.iter().map(|(label, addresses)| Namespace {
            workload: format!("shop/{label}"),
            name: id.namespace(label),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            hosts: String::new(),
        });
        Layout {
            namespaces: namespaces.collect(),
            bridge: vec![
                "10.201.0.1/16".parse().unwrap(),
                "fd4f:7574:7269:88::1/64".parse().unwrap(),
            ],
            services: vec![
                "10.202.0.0/16".parse().unwrap(),
                "fd4f:7574:7269:89::/112".parse().unwrap(),
            ],
            id,
        }
    }

    #[test]
    fn names_are_of_the_state_directory_and_fit() {
        let id = Id::of(Path::new("/srv/mesh/.outrider"));
        assert_eq!(id, Id::of(Path::new("/srv/mesh/.outrider")));
        assert_ne!(id, Id::of(Path::new("/srv/other/.outrider")));
        assert_eq!(id.as_str().len(), 6);
        let last_link = format!("{}{}", id.prefix(), MOST - 1);
        assert_eq!(last_link.len(), 15, "IFNAMSIZ, with the byte that ends it");
        assert_eq!(
            id.namespace("shop/order-1"),
            format!("outr-{}-shop.order-1", id.as_str())
        );
    }

    #[test]
    fn the_host_has_the_bridge_and_a_link_for_each_namespace() {
        let layout = layout(&[("a-1", &["10.201.0.5"]), ("b-1", &["10.201.0.6"])]);
        let id = layout.id.as_str();
        let own = mac(&layout.id.bridge());
        let mac = |index: usize| layout.namespaces[index].mac();
        let (a, b) = (mac(0), mac(1));
        assert!(a != b && a.starts_with("02:") && a.len() == 17, "{a}");
        assert_eq!(
            layout.create(),
            format!(
                "link add name outr-{id} address {own} type bridge mcast_snooping 0\n\
                 address add 10.201.0.1/16 dev outr-{id}\n\
                 address add fd4f:7574:7269:88::1/64 dev outr-{id} nodad\n\
                 link set outr-{id} up\n\
                 netns add outr-{id}-a-1\n\
                 link add name outr-{id}-0 type veth peer name eth0 address {a} netns outr-{id}-a-1\n\
                 link set outr-{id}-0 master outr-{id} up\n\
                 netns add outr-{id}-b-1\n\
                 link add name outr-{id}-1 type veth peer name eth0 address {b} netns outr-{id}-b-1\n\
                 link set outr-{id}-1 master outr-{id} up\n"
            )
        );
    }

    #[test]
    fn a_namespace_has_its_addresses_and_routes() {
        let both = layout(&[("a-1", &["10.201.0.5", "fd4f:7574:7269:88::5"])]);
        assert_eq!(
            both.furnish(&both.namespaces[0]),
            "link set lo up\n\
             address add 10.201.0.5/16 dev eth0\n\
             address add fd4f:7574:7269:88::5/64 dev eth0 nodad\n\
             link set eth0 up\n\
             route add default via 10.201.0.1\n\
             route add default via fd4f:7574:7269:88::1\n\
             route add 10.202.0.0/16 dev eth0\n\
             route add fd4f:7574:7269:89::/112 dev eth0\n"
        );
        let mut four = both.clone();
        four.without_v6();
        let lines = four.create() + &four.furnish(&four.namespaces[0]);
        assert!(!lines.contains("::"), "{lines}");
    }

    #[test]
    fn what_has_no_place_is_named() {
        let long = "x".repeat(250);
        let error = layout(&[(&long, &["10.201.0.5"])]).check().unwrap_err();
        assert!(error.to_string().contains("shorter name"), "{error}");
        let error = layout(&[("a-1", &["10.99.0.5"])]).check().unwrap_err();
        assert_eq!(
            error.to_string(),
            "Workload shop/a-1 has the address 10.99.0.5, which is in no range of spec.network.workloads \
             of the MeshConfig (10.201.0.0/16, fd4f:7574:7269:88::/64): leave spec.address out, or take another"
        );
        layout(&[("a-1", &["10.201.0.5"])]).check().unwrap();
    }
}
