//! Names of Services, and the ways in which callers spell them.
//!
//! Owns the syntax of Kubernetes names (RFC 1123 labels and subdomains) and of authorities
//! (RFC 9110 section 7.2). A name is compared byte by byte and is never a pattern.

use std::fmt;

/// The longest label, in bytes (RFC 1123).
const LABEL_MAX: usize = 63;
/// The longest name of several labels, in bytes (RFC 1123).
const SUBDOMAIN_MAX: usize = 253;
/// The domain below which Kubernetes puts Services.
const CLUSTER_DOMAIN: [&str; 2] = ["cluster", "local"];

/// A Service of the mesh. Both parts are DNS labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    pub namespace: String,
    pub name: String,
}

impl ServiceName {
    /// # Errors
    /// Either part is not a DNS label.
    pub fn new(namespace: &str, name: &str) -> Result<Self, NameError> {
        check_label(namespace)?;
        check_label(name)?;
        Ok(Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }
}

impl ServiceName {
    /// For people and metrics: `namespace/name`.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.name, self.namespace)
    }
}

/// Why a name or an authority is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("is empty")]
    Empty,
    #[error("is {0} bytes long, expected at most {1}")]
    TooLong(usize, usize),
    #[error(
        "contains {0:?} (U+{code:04X}), expected only lowercase letters a-z, digits and \"-\"",
        code = u32::from(*.0)
    )]
    Character(char),
    #[error("{0:?} begins or ends with \"-\", expected a letter or digit there")]
    Hyphen(String),
    #[error("has an empty label: two dots in a row, or one at an end")]
    EmptyLabel,
    #[error("{0:?} is not a port, expected 1 to 65535")]
    Port(String),
    #[error("{0:?} is an IP address, expected the name of a Service")]
    Address(String),
    #[error(
        "{0:?} is not the name of a Service, expected NAME, NAME.NAMESPACE, \
         NAME.NAMESPACE.svc or NAME.NAMESPACE.svc.cluster.local"
    )]
    NotAService(String),
}

/// The Service that an authority (`Host` or `:authority`) names, and the port if there is one.
///
/// `billing` (in the caller's namespace), `billing.shop`, `billing.shop.svc` and
/// `billing.shop.svc.cluster.local`, in any case, with or without a trailing dot.
///
/// # Errors
/// It is an IP address, has another domain, or is malformed.
pub fn parse_authority(
    authority: &str,
    caller_namespace: &str,
) -> Result<(ServiceName, Option<u16>), NameError> {
    if authority.is_empty() {
        return Err(NameError::Empty);
    }
    if authority.len() > SUBDOMAIN_MAX + ".:65535".len() {
        let most = SUBDOMAIN_MAX + ".:65535".len();
        return Err(NameError::TooLong(authority.len(), most));
    }
    let (host, port) = match authority.split_once(':') {
        _ if authority.starts_with('[') => return Err(NameError::Address(authority.to_owned())),
        Some((host, port)) => (host, Some(parse_port(port)?)),
        None => (authority, None),
    };
    if host.parse::<std::net::Ipv4Addr>().is_ok() {
        return Err(NameError::Address(host.to_owned()));
    }
    let lowercase = host.to_ascii_lowercase();
    let full = lowercase.strip_suffix('.').unwrap_or(&lowercase);
    check_subdomain(full)?;
    let labels: Vec<&str> = full.split('.').collect();
    let (name, namespace) = match labels.as_slice() {
        [name] => (*name, caller_namespace),
        [name, namespace] | [name, namespace, "svc"] => (*name, *namespace),
        [name, namespace, "svc", domain @ ..] if domain == CLUSTER_DOMAIN => (*name, *namespace),
        _ => return Err(NameError::NotAService(host.to_owned())),
    };
    Ok((ServiceName::new(namespace, name)?, port))
}

fn parse_port(text: &str) -> Result<u16, NameError> {
    // `u16::from_str` would take "+80".
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits && port != 0 => Ok(port),
        _ => Err(NameError::Port(text.to_owned())),
    }
}

/// Whether `name` is an RFC 1123 label: namespaces, Services.
///
/// # Errors
/// What is wrong with it.
pub fn check_label(name: &str) -> Result<(), NameError> {
    match name.len() {
        0 => return Err(NameError::Empty),
        long if long > LABEL_MAX => return Err(NameError::TooLong(long, LABEL_MAX)),
        _ => {}
    }
    let allowed = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-';
    if let Some(other) = name.chars().find(|c| !allowed(c)) {
        return Err(NameError::Character(other));
    }
    if name.starts_with('-') || name.ends_with('-') {
        return Err(NameError::Hyphen(name.to_owned()));
    }
    Ok(())
}

/// Whether `name` is an RFC 1123 subdomain: labels with dots between. ServiceAccounts, policies
/// and Workloads are named so.
///
/// # Errors
/// What is wrong with it.
pub fn check_subdomain(name: &str) -> Result<(), NameError> {
    match name.len() {
        0 => return Err(NameError::Empty),
        long if long > SUBDOMAIN_MAX => return Err(NameError::TooLong(long, SUBDOMAIN_MAX)),
        _ => {}
    }
    name.split('.').try_for_each(|label| {
        if label.is_empty() {
            return Err(NameError::EmptyLabel);
        }
        check_label(label)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_that_name_a_service() {
        let table = [
            ("billing", "shop", None),
            ("billing:80", "shop", Some(80)),
            ("BILLING.Shop", "shop", None),
            ("billing.other", "other", None),
            ("billing.other.:8080", "other", Some(8080)),
            ("billing.other.svc", "other", None),
            ("billing.other.svc.cluster.local", "other", None),
            (
                "billing.other.svc.cluster.local.:65535",
                "other",
                Some(65535),
            ),
            ("Billing.Other.SVC.Cluster.Local", "other", None),
        ];
        for (authority, namespace, port) in table {
            let (service, got) = parse_authority(authority, "shop").unwrap();
            assert_eq!(service, ServiceName::new(namespace, "billing").unwrap());
            assert_eq!(got, port, "{authority}");
        }
    }

    #[test]
    fn authorities_that_do_not() {
        let long = "a".repeat(400);
        let label = "a".repeat(64);
        let table = [
            ("", NameError::Empty),
            (":80", NameError::Empty),
            (".", NameError::Empty),
            ("billing:", NameError::Port(String::new())),
            ("billing:0", NameError::Port("0".into())),
            ("billing:+80", NameError::Port("+80".into())),
            ("billing:65536", NameError::Port("65536".into())),
            ("billing:80:80", NameError::Port("80:80".into())),
            ("10.0.0.1", NameError::Address("10.0.0.1".into())),
            ("10.0.0.1:80", NameError::Address("10.0.0.1".into())),
            ("[::1]:80", NameError::Address("[::1]:80".into())),
            ("billing..shop", NameError::EmptyLabel),
            ("billing.shop..", NameError::EmptyLabel),
            (".billing", NameError::EmptyLabel),
            ("-billing", NameError::Hyphen("-billing".into())),
            ("user@billing", NameError::Character('@')),
            ("billing/x", NameError::Character('/')),
            ("b%69lling", NameError::Character('%')),
            ("bill\u{456}ng", NameError::Character('\u{456}')),
            ("billing_x", NameError::Character('_')),
            ("billing shop", NameError::Character(' ')),
            ("*.shop", NameError::Character('*')),
            ("a.b.c", NameError::NotAService("a.b.c".into())),
            (
                "a.b.svc.cluster",
                NameError::NotAService("a.b.svc.cluster".into()),
            ),
            (
                "a.b.svc.cluster.other",
                NameError::NotAService("a.b.svc.cluster.other".into()),
            ),
            (&long, NameError::TooLong(400, 260)),
            (&label, NameError::TooLong(64, 63)),
        ];
        for (authority, error) in table {
            assert_eq!(
                parse_authority(authority, "shop"),
                Err(error),
                "{authority}"
            );
        }
    }

    #[test]
    fn a_name_displays_as_dns_spells_it() {
        let service = ServiceName::new("shop", "billing").unwrap();
        assert_eq!(service.to_string(), "billing.shop");
    }
}
