//! How values of annotations are read. `None`: not what was expected.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

/// The most digits before and after the point of a quantity.
const DIGITS_MAX: usize = 9;
const NANO: u128 = 1_000_000_000;
/// Longer ones are mistakes.
const TEXT_MAX: usize = 512;
/// What is excluded is a rule each; a list that long is refused for its length later.
const ENTRIES_MAX: usize = 4096;

/// An amount of CPU or memory, in Kubernetes' syntax; more is greater.
#[derive(Clone, Debug)]
pub struct Quantity {
    text: String,
    nanos: u128,
}

impl Quantity {
    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

pub(super) fn list<T: Ord>(text: &str, entry: fn(&str) -> Option<T>) -> Option<BTreeSet<T>> {
    let entries = text.split(',').take(ENTRIES_MAX);
    entries.map(|text| entry(text.trim())).collect()
}

pub(super) fn port(text: &str) -> Option<u16> {
    let port = number(text)?;
    (port != 0).then_some(port)
}

pub(super) fn workers(text: &str) -> Option<u16> {
    number(text).filter(|workers| (1..=256).contains(workers))
}

/// `parse` would take a sign.
fn number(text: &str) -> Option<u16> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// A network, or an address alone; bits beyond the prefix are a mistake.
pub(super) fn net(text: &str) -> Option<IpNet> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(IpNet::from(address));
    }
    let net: IpNet = text.parse().ok()?;
    (net.trunc() == net).then_some(net)
}

/// A port may stand there once.
pub(super) fn protocols(text: &str) -> Option<BTreeMap<u16, &'static str>> {
    let mut protocols = BTreeMap::new();
    for entry in text.split(',') {
        let (number, word) = entry.split_once('=')?;
        let protocol = protocol(word.trim())?;
        if protocols.insert(port(number.trim())?, protocol).is_some() {
            return None;
        }
    }
    Some(protocols)
}

/// In the words of `appProtocol`, see [`crate::model::Protocol::from_declared`].
fn protocol(word: &str) -> Option<&'static str> {
    Some(match word {
        "http" => "http",
        "http1" => "http1",
        "http2" | "h2c" => "http2",
        "grpc" => "grpc",
        "tls" | "https" => "tls",
        "opaque" | "tcp" => "tcp",
        _ => return None,
    })
}

/// Levels, each perhaps of one module: what the sidecar would not take keeps it from starting.
pub(super) fn log_filter(text: &str) -> Option<String> {
    let module = |name: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b':';
        !name.is_empty() && name.bytes().all(inner)
    };
    let good = |directive: &str| match directive.split_once('=') {
        Some((name, level)) => module(name) && is_level(level),
        None => is_level(directive),
    };
    let all = text.len() <= TEXT_MAX && text.split(',').all(good);
    all.then(|| text.to_owned())
}

fn is_level(word: &str) -> bool {
    ["error", "warn", "info", "debug", "trace", "off"].contains(&word)
}

pub(super) fn drain_timeout(text: &str) -> Option<Duration> {
    let timeout = crate::duration::parse(text).ok()?;
    (timeout <= Duration::from_secs(3600)).then_some(timeout)
}

/// Cores, or thousandths of one.
pub(super) fn cpu(text: &str) -> Option<Quantity> {
    quantity(text, &[("m", NANO / 1000), ("", NANO)])
}

/// Bytes, with the prefixes of either kind.
pub(super) fn memory(text: &str) -> Option<Quantity> {
    const UNITS: [(&str, u128); 13] = [
        ("Ki", NANO << 10),
        ("Mi", NANO << 20),
        ("Gi", NANO << 30),
        ("Ti", NANO << 40),
        ("Pi", NANO << 50),
        ("Ei", NANO << 60),
        ("k", NANO * 1_000),
        ("M", NANO * 1_000_000),
        ("G", NANO * 1_000_000_000),
        ("T", NANO * 1_000_000_000_000),
        ("P", NANO * 1_000_000_000_000_000),
        ("E", NANO * 1_000_000_000_000_000_000),
        ("", NANO),
    ];
    quantity(text, &UNITS)
}

/// A number with at most one point and a unit, above zero. The empty unit comes last.
fn quantity(text: &str, units: &[(&str, u128)]) -> Option<Quantity> {
    let (digits, scale) = units
        .iter()
        .find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, *scale)))?;
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let whole: u128 = digits_of(whole)?;
    let places = u32::try_from(fraction.len()).ok()?;
    let fraction = digits_of(fraction)?;
    // At most nine digits, and at most nine zeros and 60 bits of a unit: 128 bits hold it.
    let nanos = whole * scale + fraction * scale / 10_u128.pow(places);
    (nanos > 0).then(|| Quantity {
        text: text.to_owned(),
        nanos,
    })
}

fn digits_of(text: &str) -> Option<u128> {
    let good = (1..=DIGITS_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    good.then(|| text.parse().ok()).flatten()
}

/// What kubelets take apart further: here only what could not be a name at all is refused.
pub(super) fn image(text: &str) -> Option<String> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"._-/:@".contains(&b);
    let begins = text
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric());
    let good = begins && text.len() <= TEXT_MAX && text.bytes().all(inner);
    good.then(|| text.to_owned())
}
