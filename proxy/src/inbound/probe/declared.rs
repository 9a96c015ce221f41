//! What of an HTTP probe's request reaches the app: what its declaration says, and what means nothing.
//! Who sends it is not known, so that a header passes only if its value is the declared one. That may be
//! a secret, which whoever does not know it gets nothing by.

use http::Uri;
use http::header::{ACCEPT, ACCEPT_ENCODING, HOST, HeaderMap, HeaderName, USER_AGENT};
use outrider_api::model::ProbeHeader;

/// These reach the app in any case: they say who asks and what it reads, and not what is asked.
const KEPT: [HeaderName; 3] = [USER_AGENT, ACCEPT, ACCEPT_ENCODING];

/// Of several declarations of the same request, the one of which the most was sent: what the app gets is
/// one of them, and no mixture.
pub fn closest<'p>(
    declarations: impl Iterator<Item = &'p [ProbeHeader]>,
    sent: &HeaderMap,
    uri: &Uri,
) -> Option<&'p [ProbeHeader]> {
    declarations.max_by_key(|declared| {
        let headers = declared.iter();
        headers.filter(|header| is_sent(header, sent, uri)).count()
    })
}

/// The headers for the app, without `Host`. Those of a connection and of the mesh must have been taken
/// from what was sent.
pub fn headers(sent: &HeaderMap, declared: &[ProbeHeader]) -> HeaderMap {
    let mut headers = kept(sent);
    for header in declared {
        let (name, value) = (header.name(), header.value());
        let is_sent = sent.get_all(name).iter().any(|sent| sent == value);
        if is_sent && *name != HOST && !KEPT.contains(name) {
            headers.append(name.clone(), value.clone());
        }
    }
    headers
}

/// What reaches the app of any probe.
pub fn kept(sent: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for name in KEPT {
        if let Some(value) = sent.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    headers
}

/// The declared `Host`, if it was sent: by which name the app was called is the caller's word, too.
pub fn host<'p>(
    sent: &HeaderMap,
    uri: &Uri,
    declared: &'p [ProbeHeader],
) -> Option<&'p ProbeHeader> {
    let mut declared = declared.iter();
    declared.find(|header| *header.name() == HOST && is_sent(header, sent, uri))
}

/// Over HTTP/2, and within the sidecar, the host is in the target.
fn is_sent(header: &ProbeHeader, sent: &HeaderMap, uri: &Uri) -> bool {
    let mut values = sent.get_all(header.name()).iter();
    let authority = uri.authority().filter(|_| *header.name() == HOST);
    values.any(|value| value == header.value())
        || authority
            .is_some_and(|authority| authority.as_str().as_bytes() == header.value().as_bytes())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &'static str)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        };
        fields.iter().map(field).collect()
    }

    fn declared(fields: &[(&str, &str)]) -> Vec<ProbeHeader> {
        let header = |(name, value): &(&str, &str)| ProbeHeader::new(name, value.as_bytes());
        fields
            .iter()
            .map(header)
            .collect::<Result<_, _>>()
            .expect("headers")
    }

    #[test]
    fn of_its_headers_those_remain_that_mean_nothing() {
        let sent = map(&[
            ("user-agent", "u"),
            ("x-original-url", "/admin"),
            ("x-http-method-override", "DELETE"),
            ("cookie", "c"),
            ("authorization", "a"),
        ]);
        assert_eq!(headers(&sent, &[]), map(&[("user-agent", "u")]));
        assert_eq!(kept(&sent), map(&[("user-agent", "u")]));
    }

    #[test]
    fn a_declared_header_passes_with_its_declared_value() {
        let probe = declared(&[
            ("Authorization", "Bearer s"),
            ("X-Tag", "1"),
            ("X-Tag", "2"),
            ("Accept", "text/html"),
            ("Host", "shop"),
        ]);
        let of = |sent: &[_]| headers(&map(sent), &probe);
        let all = [
            ("accept", "text/html"),
            ("authorization", "Bearer s"),
            ("x-tag", "1"),
            ("x-tag", "2"),
        ];
        assert_eq!(of(&all), map(&all), "each once, but Host");
        for (sent, expected) in [
            (&[("authorization", "Bearer x")][..], &[][..]),
            (&[("authorization", "bearer s")], &[]),
            (
                &[("x-tag", "0"), ("x-tag", "2"), ("x-tag", "2")],
                &[("x-tag", "2")],
            ),
            (&[("host", "shop"), ("x-other", "1")], &[]),
            (&[("accept", "*/*")], &[("accept", "*/*")]),
        ] {
            assert_eq!(of(sent), map(expected), "{sent:?}");
        }
    }

    #[test]
    fn a_declared_host_is_one_that_was_sent() {
        let probe = declared(&[("X-Tag", "1"), ("Host", "shop")]);
        let origin = Uri::from_static("/live");
        let is = |sent: &[_], uri: &Uri| host(&map(sent), uri, &probe).is_some();
        assert!(is(&[("host", "shop")], &origin));
        assert!(is(&[], &Uri::from_static("http://shop/live")));
        assert!(!is(&[("host", "10.0.0.1:8080")], &origin));
        assert!(!is(&[], &Uri::from_static("http://shop:80/live")));
        assert!(host(&map(&[("host", "shop")]), &origin, &probe[..1]).is_none());
    }

    #[test]
    fn of_two_declarations_one_is_meant() {
        let a = declared(&[("Host", "a"), ("X-Tag", "1")]);
        let b = declared(&[("Host", "b"), ("X-Tag", "2")]);
        let uri = Uri::from_static("/");
        let closest = |sent: &[_]| closest([&a[..], &b[..]].into_iter(), &map(sent), &uri);
        assert_eq!(closest(&[("host", "a"), ("x-tag", "1")]), Some(&a[..]));
        assert_eq!(closest(&[("host", "b"), ("x-tag", "2")]), Some(&b[..]));
        let mixed = map(&[("host", "a"), ("x-tag", "2")]);
        let meant = closest(&[("host", "a"), ("x-tag", "2")]).expect("one of them");
        assert!(
            headers(&mixed, meant).len() + usize::from(host(&mixed, &uri, meant).is_some()) == 1
        );
    }
}
