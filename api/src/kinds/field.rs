//! How single fields are read: `deserialize_with` functions.
//!
//! Each says what it expected; the deserializer adds the place.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny};

use crate::names;

/// A field of Kubernetes that a mesh has no use for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Accepted;

impl<'de> Deserialize<'de> for Accepted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

/// A field that may be left out, but not be null: `sources:` with its entries commented out would
/// otherwise read as "anyone".
pub(super) fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A list that says nothing when it is empty, and would read as "any".
pub(super) fn non_empty<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let list = Vec::deserialize(deserializer)?;
    if list.is_empty() {
        return Err(D::Error::custom(
            "is an empty list, expected at least one entry (leave the field out for any)",
        ));
    }
    Ok(list)
}

/// A list in which nothing stands twice.
pub(super) fn distinct<'de, D: Deserializer<'de>, T: Deserialize<'de> + PartialEq>(
    deserializer: D,
) -> Result<Option<Vec<T>>, D::Error> {
    let list: Vec<T> = Vec::deserialize(deserializer)?;
    for (index, entry) in list.iter().enumerate() {
        if let Some(first) = list[..index].iter().position(|other| other == entry) {
            return Err(D::Error::custom(format!(
                "has the same entry at {first} and {index}, expected it once"
            )));
        }
    }
    Ok(Some(list))
}

/// The path of a request, without a query.
pub(super) fn some_path<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    let path = String::deserialize(deserializer)?;
    crate::authorization::PathMatch::new(crate::authorization::PathMatchKind::Exact, &path)
        .map_err(D::Error::custom)?;
    crate::routing::check_path(&path).map_err(D::Error::custom)?;
    Ok(Some(path))
}

pub(super) fn header_name(name: &str) -> Result<http::HeaderName, String> {
    let error = |_| format!("{name:?} is not the name of a header");
    http::HeaderName::try_from(name).map_err(error)
}

pub(super) fn from_str<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    String::deserialize(deserializer)?
        .parse()
        .map_err(D::Error::custom)
}

pub(super) fn some_from_str<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    from_str(deserializer).map(Some)
}

/// IPv4 within IPv6 is IPv4.
pub(super) fn some_address<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<IpAddr>, D::Error> {
    let address: IpAddr = from_str(deserializer)?;
    Ok(Some(address.to_canonical()))
}

pub(super) fn addresses<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<IpAddr>, D::Error> {
    #[derive(serde::Deserialize)]
    #[serde(transparent)]
    struct Address(#[serde(deserialize_with = "from_str")] IpAddr);
    let addresses: Vec<Address> = Vec::deserialize(deserializer)?;
    let canonical = |Address(address): Address| address.to_canonical();
    Ok(addresses.into_iter().map(canonical).collect())
}

pub(super) fn label<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    named(deserializer, names::check_label)
}

pub(super) fn some_label<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    label(deserializer).map(Some)
}

pub(super) fn subdomain<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    named(deserializer, names::check_subdomain)
}

fn named<'de, D: Deserializer<'de>>(
    deserializer: D,
    check: fn(&str) -> Result<(), names::NameError>,
) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    match check(&name) {
        Ok(()) => Ok(name),
        Err(error) => Err(D::Error::custom(format!(
            "{name:?} is not a name: it {error}"
        ))),
    }
}

/// 1 to 65535.
pub(super) fn port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    let number = i64::deserialize(deserializer)?;
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(D::Error::custom(format!(
            "{number} is not a port, expected 1 to 65535"
        ))),
    }
}

pub(super) fn some_port<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u16>, D::Error> {
    port(deserializer).map(Some)
}

#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Port(#[serde(deserialize_with = "port")] u16);

pub(super) fn ports<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u16>, D::Error> {
    let ports: Vec<Port> = non_empty(deserializer)?;
    Ok(ports.into_iter().map(|Port(port)| port).collect())
}

/// Empty: none.
pub(super) fn port_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u16>, D::Error> {
    let ports: Vec<Port> = Vec::deserialize(deserializer)?;
    Ok(ports.into_iter().map(|Port(port)| port).collect())
}

pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    crate::duration::parse(&text).map_err(D::Error::custom)
}

/// Labels and selectors, in Kubernetes' syntax: at most 63 bytes of letters, digits, "-", "_" and
/// "." in a value; in a key besides, a DNS name and "/" may come before.
pub(super) fn labels<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    let labels = BTreeMap::<String, String>::deserialize(deserializer)?;
    for (key, value) in &labels {
        let name = match key.split_once('/') {
            Some((domain, name)) if names::check_subdomain(domain).is_ok() => name,
            Some(_) => "",
            None => key,
        };
        if name.is_empty() || !is_label_text(name) {
            return Err(D::Error::custom(format!(
                "{key:?} is not the key of a label"
            )));
        }
        if !is_label_text(value) {
            return Err(D::Error::custom(format!(
                "{value:?} is not the value of a label, at {key:?}"
            )));
        }
    }
    Ok(labels)
}

fn is_label_text(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let ends = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63 && text.bytes().all(inner) && ends(bytes.first()) && ends(bytes.last())
}

pub(super) fn net<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ipnet::IpNet, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| {
        D::Error::custom(format!(
            "{text:?} is no CIDR block, expected an address and a prefix length such as 10.0.0.0/8"
        ))
    })
}

pub(super) fn nets<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<ipnet::IpNet>, D::Error> {
    #[derive(serde::Deserialize)]
    #[serde(transparent)]
    struct Net(#[serde(deserialize_with = "net")] ipnet::IpNet);
    let nets: Vec<Net> = Vec::deserialize(deserializer)?;
    Ok(nets.into_iter().map(|Net(net)| net).collect())
}
