//! Where a redirect leads (Gateway API, HTTPRequestRedirectFilter).

use std::borrow::Cow;

use http::HeaderValue;
use http::uri::{Authority, Uri};

use super::edit::{EditError, check_hostname};
use super::router::split;
use crate::authorization::path::split_escape;
use crate::model::Redirect;

/// The request that is answered with a redirect.
#[derive(Clone, Copy, Debug)]
pub struct RedirectedRequest<'r> {
    /// `http` or `https`, as the caller sees it.
    pub scheme: &'r str,
    /// Its `Host` or `:authority`; only the host of it counts.
    pub authority: &'r str,
    /// That the caller called.
    pub port: u16,
    /// As it was sent.
    pub path_and_query: &'r str,
    /// How many bytes of the path the match's prefix is ([`super::RouteHit::prefix`]).
    pub prefix: usize,
}

impl Redirect {
    /// The value of `Location`, an absolute URI. The query is the request's.
    ///
    /// What the request has in its path or query that no URI has is percent-encoded. `OPTIONS *`
    /// asks for an authority, whose path is empty (RFC 9112, section 3.3).
    ///
    /// # Errors
    /// Scheme, host or path of the filter or the request cannot be that of a URI.
    pub fn location(&self, request: &RedirectedRequest<'_>) -> Result<HeaderValue, EditError> {
        let scheme = self.scheme.as_deref().unwrap_or(request.scheme);
        let well_known = well_known_port(scheme)?;
        let host = self.host(request)?;
        let port = match (self.port, &self.scheme) {
            (Some(port), _) => port,
            (None, Some(_)) => well_known,
            (None, None) => request.port,
        };
        let port = if port == well_known {
            String::new()
        } else {
            format!(":{port}")
        };
        let (path, query) = split(request.path_and_query);
        let path = if path == "*" { "" } else { path };
        let path = match &self.path {
            Some(edit) => Cow::Owned(edit.apply(path, request.prefix)?),
            None => Cow::Borrowed(path),
        };
        let mark = if query.is_empty() { "" } else { "?" };
        let (path, query) = (encode(&path, b""), encode(query, b"?"));
        let location = format!("{scheme}://{host}{port}{path}{mark}{query}");
        location.parse::<Uri>()?;
        HeaderValue::try_from(&location).map_err(|_| EditError::Authority(host.into_owned()))
    }

    fn host<'r>(&'r self, request: &RedirectedRequest<'r>) -> Result<Cow<'r, str>, EditError> {
        if let Some(hostname) = &self.hostname {
            check_hostname(hostname)?;
            return Ok(Cow::Borrowed(hostname));
        }
        let authority: Authority = request.authority.parse()?;
        // Who is not to be told to another host.
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(EditError::Authority(request.authority.to_owned()));
        }
        Ok(Cow::Owned(authority.host().to_owned()))
    }
}

/// The port that a URI of this scheme leaves out.
fn well_known_port(scheme: &str) -> Result<u16, EditError> {
    match scheme {
        "http" => Ok(80),
        "https" => Ok(443),
        other => Err(EditError::Scheme(other.to_owned())),
    }
}

/// Percent-encodes what is no `pchar`, no "/" and none of `besides` (RFC 3986, section 3.3); escapes
/// stay.
pub(super) fn encode<'t>(text: &'t str, besides: &[u8]) -> Cow<'t, str> {
    let bytes = text.as_bytes();
    let stays = |index: usize| match bytes[index] {
        b'%' => split_escape(&bytes[index..]).is_some(),
        byte => is_path_byte(byte) || besides.contains(&byte),
    };
    if (0..bytes.len()).all(stays) {
        return Cow::Borrowed(text);
    }
    let mut encoded = String::with_capacity(text.len() + 8);
    for (index, byte) in bytes.iter().enumerate() {
        if stays(index) {
            encoded.push(char::from(*byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    Cow::Owned(encoded)
}

/// Unreserved characters, sub-delims, ":", "@" and "/".
fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte)
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::model::PathEdit;

    fn redirect() -> Redirect {
        Redirect {
            scheme: None,
            hostname: None,
            port: None,
            path: None,
            status: StatusCode::FOUND,
        }
    }

    fn request(path_and_query: &str) -> RedirectedRequest<'_> {
        RedirectedRequest {
            scheme: "http",
            authority: "billing:8080",
            port: 8080,
            path_and_query,
            prefix: 4,
        }
    }

    fn location(redirect: &Redirect, path_and_query: &str) -> String {
        let location = redirect.location(&request(path_and_query));
        let location = location.expect("a location");
        location.to_str().expect("text").to_owned()
    }

    /// Gateway API, HTTPRequestRedirectFilter.port, over the scheme and port of the request.
    #[test]
    fn ports_as_documented() {
        let table = [
            // scheme and port of the request, of the filter; expected
            ("http", 80, None, None, "http://billing/"),
            ("http", 8080, None, None, "http://billing:8080/"),
            ("http", 443, None, None, "http://billing:443/"),
            ("https", 443, None, None, "https://billing/"),
            ("https", 80, None, None, "https://billing:80/"),
            ("http", 8080, Some("http"), None, "http://billing/"),
            ("http", 8080, Some("https"), None, "https://billing/"),
            ("https", 8443, Some("http"), None, "http://billing/"),
            ("http", 8080, None, Some(80), "http://billing/"),
            ("http", 8080, None, Some(443), "http://billing:443/"),
            ("https", 8443, None, Some(443), "https://billing/"),
            ("https", 8443, None, Some(80), "https://billing:80/"),
            ("http", 80, None, Some(8083), "http://billing:8083/"),
            ("http", 80, Some("https"), Some(443), "https://billing/"),
            ("http", 80, Some("https"), Some(80), "https://billing:80/"),
            ("http", 80, Some("http"), Some(80), "http://billing/"),
            (
                "http",
                80,
                Some("https"),
                Some(8443),
                "https://billing:8443/",
            ),
        ];
        for (scheme, port, to_scheme, to_port, expected) in table {
            let redirect = Redirect {
                scheme: to_scheme.map(str::to_owned),
                port: to_port,
                ..redirect()
            };
            let request = RedirectedRequest {
                scheme,
                port,
                ..request("/")
            };
            let location = redirect.location(&request).expect("a location");
            assert_eq!(location, expected);
        }
    }

    #[test]
    fn what_is_not_given_stays() {
        assert_eq!(
            location(&redirect(), "/foo/bar/?a=b?c&d=%20"),
            "http://billing:8080/foo/bar/?a=b?c&d=%20"
        );
        assert_eq!(location(&redirect(), ""), "http://billing:8080/");
        assert_eq!(location(&redirect(), "*"), "http://billing:8080");
    }

    #[test]
    fn hosts() {
        let named = Redirect {
            hostname: Some("shop.example".to_owned()),
            ..redirect()
        };
        assert_eq!(location(&named, "/foo"), "http://shop.example:8080/foo");
        let kept = |authority| {
            let request = RedirectedRequest {
                authority,
                ..request("/")
            };
            redirect().location(&request)
        };
        assert_eq!(kept("a.b").expect("a location"), "http://a.b:8080/");
        assert_eq!(kept("[::1]:80").expect("a location"), "http://[::1]:8080/");
        for bad in ["", "user@billing", "a b", "a/b", ":80"] {
            assert!(kept(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_are_edited_and_queries_kept() {
        let to = |path| {
            let path = Some(path);
            location(&Redirect { path, ..redirect() }, "/foo/bar?q=1")
        };
        assert_eq!(
            to(PathEdit::Full("/one".into())),
            "http://billing:8080/one?q=1"
        );
        assert_eq!(
            to(PathEdit::Prefix("/xyz/".into())),
            "http://billing:8080/xyz/bar?q=1"
        );
        assert_eq!(
            to(PathEdit::Prefix(String::new())),
            "http://billing:8080/bar?q=1"
        );
    }

    #[test]
    fn what_no_uri_has_is_encoded() {
        assert_eq!(
            location(&redirect(), "/a|b/{id}/é/%zz/%41?q=\"x\"&r=[1]"),
            "http://billing:8080/a%7Cb/%7Bid%7D/%C3%A9/%25zz/%41?q=%22x%22&r=%5B1%5D"
        );
    }

    #[test]
    fn what_cannot_be_a_uri_is_an_error() {
        let wrong = [
            Redirect {
                scheme: Some("javascript".to_owned()),
                ..redirect()
            },
            Redirect {
                hostname: Some("evil/".to_owned()),
                ..redirect()
            },
            Redirect {
                hostname: Some("a\r\nset-cookie: b".to_owned()),
                ..redirect()
            },
            Redirect {
                path: Some(PathEdit::Full("one".to_owned())),
                ..redirect()
            },
        ];
        for wrong in wrong {
            assert!(wrong.location(&request("/")).is_err(), "{wrong:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_location_is_a_uri(path in "/\\PC{0,20}", prefix in 0usize..30, full in "/?\\PC{0,9}") {
            for path_edit in [None, Some(PathEdit::Full(full.clone())), Some(PathEdit::Prefix(full))] {
                let redirect = Redirect { path: path_edit, ..redirect() };
                let request = RedirectedRequest { prefix, ..request(&path) };
                let Ok(location) = redirect.location(&request) else { continue };
                let uri: Uri = location.to_str().expect("text").parse().expect("a URI");
                proptest::prop_assert_eq!(uri.host(), Some("billing"));
                proptest::prop_assert_eq!(uri.port_u16(), Some(8080));
            }
        }
    }
}
