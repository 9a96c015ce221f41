//! `network` of a MeshConfig: where addresses that are not written come from.

use std::fmt::Display;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{Deserializer, Error};

use super::super::{field, text};

/// Beside the network, its broadcast address and its first host there is room for one.
const LONGEST_V4: u8 = 30;
const LONGEST_V6: u8 = 126;

/// Where addresses that are not written come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "Written")]
pub struct Network {
    #[schemars(with = "Option<Vec<String>>")]
    pub workloads: Ranges,
    #[schemars(with = "Option<Vec<String>>")]
    pub services: Ranges,
}

/// At most one block of each family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    pub v4: Option<Ipv4Net>,
    pub v6: Option<Ipv6Net>,
}

impl Ranges {
    /// IPv4 first.
    pub fn nets(self) -> impl Iterator<Item = IpNet> {
        let v4 = self.v4.map(IpNet::from);
        v4.into_iter().chain(self.v6.map(IpNet::from))
    }
}

impl Default for Network {
    fn default() -> Self {
        let v4 = |third| Ipv4Net::new(Ipv4Addr::new(10, third, 0, 0), 16).ok();
        let v6 = |last, length| {
            let address = Ipv6Addr::new(0xfd4f, 0x7574, 0x7269, last, 0, 0, 0, 0);
            Ipv6Net::new(address, length).ok()
        };
        Self {
            workloads: Ranges {
                v4: v4(201),
                v6: v6(0x88, 64),
            },
            services: Ranges {
                v4: v4(202),
                v6: v6(0x89, 112),
            },
        }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Written {
    /// Of Workloads, one block of each family at most; the first host of each is the bridge's of
    /// `outrider up --netns`. Default 10.201.0.0/16, fd4f:7574:7269:88::/64.
    #[schemars(with = "Vec<text::Block>", length(max = 2))]
    #[serde(deserialize_with = "ranges")]
    workloads: Ranges,
    /// Of Services, one block of each family at most. Default 10.202.0.0/16,
    /// fd4f:7574:7269:89::/112.
    #[schemars(with = "Vec<text::Block>", length(max = 2))]
    #[serde(deserialize_with = "ranges")]
    services: Ranges,
}

impl Default for Written {
    fn default() -> Self {
        let Network {
            workloads,
            services,
        } = Network::default();
        Self {
            workloads,
            services,
        }
    }
}

impl TryFrom<Written> for Network {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let Written {
            workloads,
            services,
        } = written;
        for workloads in workloads.nets() {
            if let Some(services) = services.nets().find(|net| overlap(net, &workloads)) {
                return Err(format!(
                    "workloads {workloads} and services {services} overlap, expected two blocks \
                     that do not"
                ));
            }
        }
        Ok(Self {
            workloads,
            services,
        })
    }
}

fn ranges<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Ranges, D::Error> {
    let mut ranges = Ranges::default();
    for net in field::nets(deserializer)? {
        let second = match net.trunc() {
            IpNet::V4(net) => ranges
                .v4
                .replace(within(net, net.prefix_len(), LONGEST_V4)?)
                .is_some(),
            IpNet::V6(net) => ranges
                .v6
                .replace(within(net, net.prefix_len(), LONGEST_V6)?)
                .is_some(),
        };
        if second {
            return Err(D::Error::custom(format!(
                "{net} is a second block of its family, expected at most one of each"
            )));
        }
        if let Some(special) = special(&net.trunc()) {
            return Err(D::Error::custom(format!(
                "{net} has addresses of {special} in it, which cannot be given to anybody"
            )));
        }
    }
    Ok(ranges)
}

fn within<T: Display, E: Error>(net: T, length: u8, longest: u8) -> Result<T, E> {
    if length > longest {
        return Err(E::custom(format!(
            "{net} has no room, expected a prefix length of at most {longest}"
        )));
    }
    Ok(net)
}

/// The block that is not for hosts (RFC 6890) of which `net` has some.
fn special(net: &IpNet) -> Option<IpNet> {
    let v4 = [([0, 0], 8), ([127, 0], 8), ([169, 254], 16), ([224, 0], 3)];
    let v4 = v4.into_iter().filter_map(|([first, second], length)| {
        Ipv4Net::new(Ipv4Addr::new(first, second, 0, 0), length).ok()
    });
    let v6 = [(0, 16), (0xfe80, 10), (0xff00, 8)];
    let v6 = v6.into_iter().filter_map(|(first, length)| {
        Ipv6Net::new(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0), length).ok()
    });
    let mut all = v4.map(IpNet::from).chain(v6.map(IpNet::from));
    all.find(|special| overlap(net, special))
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}
