//! What consistent hashing looks at in a request.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::COOKIE;
use outrider_api::model::traffic::{Algorithm, HashOn};

use crate::traffic::balance::hash;

/// The hash of what the policy names; `None` where it names nothing or the request has none of it.
pub fn key(algorithm: &Algorithm, headers: &HeaderMap, source: IpAddr) -> Option<u64> {
    let Algorithm::ConsistentHash(on) = algorithm else {
        return None;
    };
    match on {
        HashOn::Header(name) => headers.get(name).map(|value| hash(value.as_bytes())),
        HashOn::Cookie(name) => cookie(headers, name).map(hash),
        HashOn::Source => Some(match source {
            IpAddr::V4(address) => hash(&address.octets()),
            IpAddr::V6(address) => hash(&address.octets()),
        }),
    }
}

/// The value of a cookie (RFC 6265, section 5.4; HTTP/2 may split the header).
fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h [u8]> {
    let pairs = headers
        .get_all(COOKIE)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    pairs.map(<[u8]>::trim_ascii).find_map(|pair| {
        let rest = pair.strip_prefix(name.as_bytes())?;
        rest.strip_prefix(b"=")
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn the_same_user_has_the_same_key() {
        let source = IpAddr::from(Ipv4Addr::LOCALHOST);
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("a=1; user=ann"));
        headers.append(COOKIE, HeaderValue::from_static("b=2"));
        let on = |on| key(&Algorithm::ConsistentHash(on), &headers, source);
        assert_eq!(on(HashOn::Cookie("user".into())), Some(hash(b"ann")));
        assert_eq!(on(HashOn::Cookie("b".into())), Some(hash(b"2")));
        assert_eq!(on(HashOn::Cookie("use".into())), None);
        let name = HeaderName::from_static("x-user");
        assert_eq!(on(HashOn::Header(name.clone())), None);
        assert_eq!(on(HashOn::Source), Some(hash(&[127, 0, 0, 1])));
        assert_eq!(key(&Algorithm::PeakEwma, &headers, source), None);
    }
}
