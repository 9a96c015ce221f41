//! Where a request goes: to the Service of the upstream port it came in on, or to the one that its
//! authority names.

use std::net::IpAddr;
use std::rc::Rc;

use http::header::{HOST, HeaderValue};
use http::uri::Authority;
use http::{HeaderMap, Request, Uri, Version};
use outrider_api::model::Protocol;
use outrider_api::names::{ServiceName, parse_authority};

use super::directory::Slot;
use crate::refusal::Refusal;
use crate::worker::Worker;

const DEFAULT_PORT: u16 = 80;

/// What a listening port of the outbound side leads to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Listener {
    /// The HTTP port: each request says itself.
    ByAuthority,
    /// One port of one Service.
    Upstream { service: ServiceName, port: u16 },
    /// One port of one instance, by its address.
    Instance { address: IpAddr, port: u16 },
    /// Nowhere: whatever comes is told why.
    Closed(Refusal),
}

/// A port of a Service that a request is for.
#[derive(Clone, Debug)]
pub struct Route {
    pub slot: Rc<Slot>,
    pub port: u16,
}

impl Listener {
    /// What is declared to be spoken here.
    pub async fn protocol(&self, worker: &Worker) -> Protocol {
        let port = match self {
            Self::ByAuthority => return Protocol::Http,
            Self::Closed(_) => return Protocol::Detect,
            Self::Upstream { port, .. } | Self::Instance { port, .. } => port,
        };
        let Ok(route) = self.fixed(worker).await else {
            return Protocol::Detect;
        };
        match worker.service(&route.slot).await {
            Ok(service) => service.protocol(*port).unwrap_or(Protocol::Detect),
            Err(_) => Protocol::Detect,
        }
    }

    /// The route of everything that comes here, where that does not depend on what is asked.
    pub async fn fixed(&self, worker: &Worker) -> Result<Route, Refusal> {
        match self {
            Self::ByAuthority => Err(Refusal::BadAuthority),
            Self::Closed(refusal) => Err(*refusal),
            Self::Instance { address, port } => Ok(Route {
                slot: worker.directory.address(*address).await?,
                port: *port,
            }),
            Self::Upstream { service, port } => Ok(Route {
                slot: worker.directory.slot(service).await?,
                port: *port,
            }),
        }
    }

    /// The route of a request.
    pub async fn route(&self, worker: &Worker, authority: &Authority) -> Result<Route, Refusal> {
        if !matches!(self, Self::ByAuthority) {
            return self.fixed(worker).await;
        }
        let workload = worker.workload().ok_or(Refusal::NoPolicy)?;
        let (service, port) = parse_authority(authority.as_str(), &workload.namespace)
            .map_err(|_| Refusal::UnknownDestination)?;
        Ok(Route {
            slot: worker.directory.slot(&service).await?,
            port: port.unwrap_or(DEFAULT_PORT),
        })
    }
}

/// The one authority of a request (RFC 9112, section 3.2; RFC 9113, section 8.3.1): `Host` and an
/// absolute target must not differ, there must be exactly one, and an HTTP/1.1 request has one.
pub fn authority<B>(request: &Request<B>) -> Result<Option<HeaderValue>, Refusal> {
    let host = single_host(request.headers())?;
    match (request.uri().authority(), host) {
        (Some(target), Some(host))
            if !target
                .as_str()
                .as_bytes()
                .eq_ignore_ascii_case(host.as_bytes()) =>
        {
            Err(Refusal::BadAuthority)
        }
        (Some(target), None) if request.version() == Version::HTTP_11 => {
            // Absolute form without Host: as malformed as origin form without it.
            tracing::debug!(%target, "an HTTP/1.1 request without Host");
            Err(Refusal::BadAuthority)
        }
        (Some(target), _) => HeaderValue::try_from(target.as_str())
            .map(Some)
            .map_err(|_| Refusal::BadAuthority),
        (None, Some(host)) => Ok(Some(host.clone())),
        (None, None) if request.version() < Version::HTTP_11 => Ok(None),
        (None, None) => Err(Refusal::BadAuthority),
    }
}

fn single_host(headers: &HeaderMap) -> Result<Option<&HeaderValue>, Refusal> {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (host, None) => Ok(host),
        (_, Some(_)) => Err(Refusal::BadAuthority),
    }
}

/// Parses an authority strictly: no user information, and a port that is one.
pub fn parse(value: &HeaderValue) -> Result<Authority, Refusal> {
    let authority = Authority::try_from(value.as_bytes()).map_err(|_| Refusal::BadAuthority)?;
    let text = authority.as_str();
    let after_host = text.rsplit_once(']').map_or(text, |(_, rest)| rest);
    let port_is_fine = match after_host.split_once(':') {
        None => true,
        Some((_, port)) => {
            port.bytes().all(|byte| byte.is_ascii_digit())
                && port.parse::<u16>().is_ok_and(|port| port != 0)
        }
    };
    if text.contains('@') || authority.host().is_empty() || !port_is_fine {
        return Err(Refusal::BadAuthority);
    }
    Ok(authority)
}

/// The target of the request on the next hop: absolute, with the one authority.
pub fn absolute(uri: Uri, authority: Authority) -> Result<Uri, Refusal> {
    let mut parts = uri.into_parts();
    parts.scheme = Some(http::uri::Scheme::HTTP);
    parts.authority = Some(authority);
    if parts.path_and_query.is_none() {
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
    }
    Uri::from_parts(parts).map_err(|_| Refusal::BadRequest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(version: Version, uri: &str, hosts: &[&str]) -> Request<()> {
        let mut request = Request::builder().version(version).uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        request.body(()).expect("a request")
    }

    #[test]
    fn a_request_has_one_authority() {
        let one = |request| {
            authority(&request).map(|value| value.map(|value| value.to_str().unwrap().to_owned()))
        };
        assert_eq!(
            one(request(Version::HTTP_11, "/", &["billing"])),
            Ok(Some("billing".into()))
        );
        assert_eq!(
            one(request(Version::HTTP_11, "http://billing/", &["billing"])),
            Ok(Some("billing".into()))
        );
        assert_eq!(
            one(request(Version::HTTP_2, "http://billing/", &[])),
            Ok(Some("billing".into()))
        );
        assert_eq!(one(request(Version::HTTP_10, "/", &[])), Ok(None));
        for (version, uri, hosts) in [
            (Version::HTTP_11, "/", &[][..]),
            (Version::HTTP_11, "http://billing/", &[]),
            (Version::HTTP_11, "http://billing/", &["user"]),
            (Version::HTTP_11, "/", &["billing", "billing"]),
            (Version::HTTP_2, "http://billing/", &["user"]),
        ] {
            assert_eq!(
                one(request(version, uri, hosts)),
                Err(Refusal::BadAuthority),
                "{uri} {hosts:?}"
            );
        }
    }

    #[test]
    fn authorities_are_strict() {
        for good in [
            "billing",
            "billing:80",
            "billing.shop.svc.cluster.local:8080",
            "[::1]:80",
            "[::1]",
            "127.0.0.1:1",
        ] {
            assert!(
                parse(&HeaderValue::try_from(good).expect("ascii")).is_ok(),
                "{good}"
            );
        }
        for bad in [
            "",
            ":80",
            "billing:",
            "billing:0",
            "billing:65536",
            "billing:+80",
            "user@billing",
            "a b",
            "a/b",
            "a?b",
        ] {
            assert_eq!(
                parse(&HeaderValue::try_from(bad).expect("ascii")),
                Err(Refusal::BadAuthority),
                "{bad}"
            );
        }
    }
}
