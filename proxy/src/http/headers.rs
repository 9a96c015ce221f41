//! Which headers stop at a sidecar, and which ones it adds.
//!
//! Hop-by-hop headers end at each hop (RFC 9110, section 7.6.1). Identity headers from outside are
//! removed at the first sidecar, in every spelling that an app might read as the same name.

use http::header::{
    CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{Request, Uri, Version};
use outrider_certs::spiffe::SpiffeId;

use super::serve::MAX_HEADER_BYTES;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// The verified peer, in the format of Envoy and Istio.
pub const FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// Headers that tell an app who is calling: only a sidecar may set them.
const IDENTITY: [&str; 2] = ["x-forwarded-client-cert", "l5d-client-id"];
/// All of our own.
const OWN_PREFIX: &str = "x-outrider-";

/// What a head may hold between sidecars beyond what an app may send: they add headers of their own,
/// and HTTP/1 counts a field as fewer bytes than HTTP/2 does.
pub const BETWEEN_SIDECARS: usize = 8 * 1024;

/// What fields hold as HTTP/2 counts it, bytes (RFC 9113, section 6.5.2).
fn size(headers: &HeaderMap) -> usize {
    let sizes = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 32);
    sizes.sum()
}

fn size_of_target(uri: &Uri) -> usize {
    let authority = uri
        .authority()
        .map_or(0, |authority| authority.as_str().len());
    authority + uri.path_and_query().map_or(0, |path| path.as_str().len())
}

/// Whether these are more than an app may send over HTTP/2 as the head of an answer, or as trailers.
pub fn is_too_large(headers: &HeaderMap) -> bool {
    size(headers) > MAX_HEADER_BYTES
}

/// The same of the head of an app's request. Over HTTP/1 it was measured before it was parsed.
pub fn is_request_too_large<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_2
        && size_of_target(request.uri()) + size(request.headers()) > MAX_HEADER_BYTES
}

/// The same of the head of a request that another sidecar has sent.
pub fn is_too_large_between_sidecars(uri: &Uri, headers: &HeaderMap) -> bool {
    size_of_target(uri) + size(headers) > MAX_HEADER_BYTES + BETWEEN_SIDECARS
}

/// The same of the head of an answer of another sidecar.
pub fn is_answer_too_large(headers: &HeaderMap) -> bool {
    size(headers) > MAX_HEADER_BYTES + BETWEEN_SIDECARS
}

/// Removes the headers that are about one connection, and those that `Connection` names.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // Mostly there is none: to look at all names costs less than to ask for each.
    if !headers.iter().any(|(name, value)| ends_here(name, value)) {
        return;
    }
    if headers.contains_key(CONNECTION) {
        strip_nominated(headers);
    }
    headers.remove(TRANSFER_ENCODING);
    headers.remove(UPGRADE);
    headers.remove(KEEP_ALIVE);
    headers.remove(PROXY_CONNECTION);
    headers.remove(HTTP2_SETTINGS);
    if headers.get(TE).is_some_and(|te| te != "trailers") {
        headers.remove(TE);
    }
}

fn ends_here(name: &HeaderName, value: &HeaderValue) -> bool {
    match name.as_str() {
        "connection" | "transfer-encoding" | "upgrade" | "keep-alive" | "proxy-connection"
        | "http2-settings" => true,
        "te" => value != "trailers",
        _ => false,
    }
}

fn strip_nominated(headers: &mut HeaderMap) {
    let nominated: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        // What nearly all messages say. `Keep-Alive` goes in any case, and `Close` is no header.
        .filter(|name| !is_any_of(name, &["keep-alive", "close"]))
        .filter_map(|name| HeaderName::try_from(name).ok())
        // They frame or address the message itself: never a hop's business (RFC 9110, 7.6.1).
        .filter(|name| name != TE && name != HOST && name != http::header::CONTENT_LENGTH)
        .collect();
    for name in nominated {
        headers.remove(name);
    }
    headers.remove(CONNECTION);
}

fn is_any_of(name: &str, names: &[&str]) -> bool {
    names.iter().any(|one| one.eq_ignore_ascii_case(name))
}

/// Removes identity headers and all of ours, also where `_` stands for `-`.
pub fn strip_identity(headers: &mut HeaderMap) {
    if !headers.keys().any(is_identity) {
        return;
    }
    let spoofed: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_identity(name))
        .cloned()
        .collect();
    for name in spoofed {
        headers.remove(name);
    }
}

fn is_identity(name: &HeaderName) -> bool {
    let name = name.as_str();
    // Most names are told apart by their first letter.
    if !name.starts_with(['x', 'l']) {
        return false;
    }
    same_prefix(name, OWN_PREFIX)
        || IDENTITY
            .iter()
            .any(|own| name.len() == own.len() && same_prefix(name, own))
}

fn same_prefix(name: &str, prefix: &str) -> bool {
    name.len() >= prefix.len()
        && name
            .bytes()
            .zip(prefix.bytes())
            .all(|(a, b)| a == b || (a == b'_' && b == b'-'))
}

/// `By=<us>;URI=<peer>`, as Envoy writes it.
pub fn forwarded_client_cert(us: &SpiffeId, peer: &SpiffeId) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("By={us};URI={peer}")).ok()
}

/// Whether this is a gRPC message, by its content type.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(http::header::CONTENT_TYPE)
        .and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"))
        // `application/grpc-web` is another protocol: its answers are read by browsers.
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// The protocol that an HTTP/1.1 request asks to upgrade to, unless that is HTTP/2: h2c upgrades
/// are ignored, as RFC 9113, section 3.1 lets a server do.
pub fn upgrade_protocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let asked = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|option| option.trim().eq_ignore_ascii_case("upgrade"));
    let protocol = headers.get(UPGRADE).filter(|_| asked)?;
    let h2c = protocol.to_str().is_ok_and(|value| {
        value
            .split(',')
            .any(|one| one.trim().eq_ignore_ascii_case("h2c"))
    });
    (!h2c).then(|| protocol.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    #[test]
    fn spoofed_identity_goes_in_every_spelling() {
        let mut headers = map(&[
            ("x-forwarded-client-cert", "a"),
            ("x_forwarded_client_cert", "b"),
            ("x-forwarded_client-cert", "c"),
            ("l5d-client-id", "d"),
            ("x-outrider-target", "e"),
            ("x_outrider_anything", "f"),
            ("x-forwarded-for", "kept"),
            ("location", "kept"),
        ]);
        strip_identity(&mut headers);
        assert_eq!(
            headers,
            map(&[("x-forwarded-for", "kept"), ("location", "kept")])
        );
    }

    #[test]
    fn hop_by_hop_headers_end_here_with_those_nominated() {
        let mut headers = map(&[
            ("connection", "close, x-mine"),
            ("x-mine", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "gzip"),
            ("host", "billing"),
        ]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("host", "billing")]));
    }

    #[test]
    fn connection_cannot_remove_what_frames_the_message() {
        let mut headers = map(&[
            ("connection", "host, content-length"),
            ("host", "a"),
            ("content-length", "3"),
        ]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("host", "a"), ("content-length", "3")]));
    }

    #[test]
    fn what_sidecars_add_has_room_beside_what_apps_may_send() {
        let fields = |each: usize| {
            let value = HeaderValue::from_bytes(&vec![b'v'; each]).expect("a value");
            (0..4)
                .map(|_| (HeaderName::from_static("x-large"), value.clone()))
                .collect()
        };
        let fits: HeaderMap = fields(16 * 1024 - 32 - "x-large".len());
        let exceeds: HeaderMap = fields(16 * 1024 - 31 - "x-large".len());
        assert!(!is_too_large(&fits) && is_too_large(&exceeds));
        let uri = Uri::from_static("http://billing/path");
        assert!(!is_too_large_between_sidecars(&uri, &exceeds) && !is_answer_too_large(&exceeds));
        let mut request = Request::new(());
        *request.headers_mut() = fits;
        *request.version_mut() = Version::HTTP_2;
        assert!(is_request_too_large(&request), "the target counts, too");
        let far: HeaderMap = fields(18 * 1024);
        assert!(is_too_large_between_sidecars(&uri, &far) && is_answer_too_large(&far));
    }

    #[test]
    fn trailers_of_grpc_pass() {
        let mut headers = map(&[("te", "trailers")]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("te", "trailers")]));
    }

    #[test]
    fn an_h2c_upgrade_is_ignored() {
        let websocket = map(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
        ]);
        assert_eq!(
            upgrade_protocol(&websocket),
            Some(HeaderValue::from_static("websocket"))
        );
        let h2c = map(&[
            ("connection", "upgrade, http2-settings"),
            ("upgrade", "h2c"),
        ]);
        assert_eq!(upgrade_protocol(&h2c), None);
        let unasked = map(&[("upgrade", "websocket")]);
        assert_eq!(upgrade_protocol(&unasked), None);
    }
}
