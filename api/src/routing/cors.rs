//! What browsers of other origins are told: the CORS protocol of the Fetch standard, by GEP-1767.
//!
//! - Nothing but `*` is said where everybody gets the same answer; what depends on the request says
//!   so with `Vary` (Fetch, "CORS protocol and HTTP caches").
//! - With credentials no header says `*`, which would be the name of a header then (Fetch, "CORS
//!   protocol and credentials"): the request's own word comes back instead.
//! - An origin that is not allowed is told nothing, and its browser refuses.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderName, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue};

use crate::model::Cors;

const ANY: &str = "*";
/// What an answer says of CORS: the route's word replaces the app's.
const SAID: [HeaderName; 6] = [
    ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE,
];

impl Cors {
    /// Whether a text can be an allowed origin: `https://shop.example:8443`, whose host may have one
    /// `*` that stands for any labels.
    #[must_use]
    pub fn is_origin(text: &str) -> bool {
        Origin::parse(text).is_some_and(|origin| {
            let odd = |byte: u8| !byte.is_ascii_alphanumeric() && !b"-.*[]:".contains(&byte);
            !origin.host.is_empty()
                && !origin.host.bytes().any(odd)
                && origin.host.matches('*').count() <= 1
        })
    }

    /// Whether a request is a browser's question before the actual one (Fetch, "CORS-preflight
    /// request").
    #[must_use]
    pub fn is_preflight(method: &str, headers: &HeaderMap) -> bool {
        method == "OPTIONS"
            && headers.contains_key(ORIGIN)
            && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
    }

    /// The headers of the answer to a preflight request, whose status is 204.
    #[must_use]
    pub fn preflight(&self, request: &HeaderMap) -> HeaderMap {
        let mut answer = HeaderMap::new();
        if !self.allow(request.get(ORIGIN), &mut answer) {
            return answer;
        }
        let asked = [
            (
                &self.allow_methods,
                ACCESS_CONTROL_REQUEST_METHOD,
                ACCESS_CONTROL_ALLOW_METHODS,
            ),
            (
                &self.allow_headers,
                ACCESS_CONTROL_REQUEST_HEADERS,
                ACCESS_CONTROL_ALLOW_HEADERS,
            ),
        ];
        for (allowed, asks, says) in asked {
            let value = if self.allow_credentials && is_any(allowed) {
                vary(&mut answer, HeaderValue::from(asks.clone()));
                joined(request.get_all(asks).iter().map(HeaderValue::as_bytes))
            } else if is_any(allowed) {
                Some(HeaderValue::from_static(ANY))
            } else {
                list(allowed)
            };
            if let Some(value) = value {
                answer.insert(says, value);
            }
        }
        answer.insert(ACCESS_CONTROL_MAX_AGE, self.max_age.into());
        answer
    }

    /// Says to the origin of a request what it may see of the answer.
    pub fn apply(&self, origin: Option<&HeaderValue>, answer: &mut HeaderMap) {
        for name in SAID {
            answer.remove(name);
        }
        if !self.allow(origin, answer) {
            return;
        }
        let exposed = if !is_any(&self.expose_headers) {
            list(&self.expose_headers)
        } else if self.allow_credentials {
            let named = self.expose_headers.iter().filter(|name| *name != ANY);
            joined(named.map(String::as_bytes))
        } else {
            Some(HeaderValue::from_static(ANY))
        };
        if let Some(exposed) = exposed {
            answer.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        }
    }

    /// Whether the origin is allowed, and if so, says that it is.
    fn allow(&self, origin: Option<&HeaderValue>, answer: &mut HeaderMap) -> bool {
        let any = is_any(&self.allow_origins);
        let same_for_all = any && !self.allow_credentials;
        if !same_for_all {
            vary(answer, HeaderValue::from(ORIGIN));
        }
        let Some(origin) = origin else {
            return false;
        };
        if !any && !self.is_allowed(origin) {
            return false;
        }
        let said = if same_for_all {
            HeaderValue::from_static(ANY)
        } else {
            origin.clone()
        };
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, said);
        if self.allow_credentials {
            let yes = HeaderValue::from_static("true");
            answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
        }
        true
    }

    fn is_allowed(&self, origin: &HeaderValue) -> bool {
        let Some(origin) = origin.to_str().ok().and_then(Origin::parse) else {
            return false;
        };
        let allowed = self.allow_origins.iter();
        allowed
            .filter_map(|allowed| Origin::parse(allowed))
            .any(|allowed| allowed.fits(&origin))
    }
}

/// `https://shop.example:8443`.
struct Origin<'t> {
    scheme: &'t str,
    host: &'t str,
    port: u16,
}

impl<'t> Origin<'t> {
    fn parse(text: &'t str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let well_known = if scheme.eq_ignore_ascii_case("http") {
            80
        } else if scheme.eq_ignore_ascii_case("https") {
            443
        } else {
            return None;
        };
        // The colons of an IPv6 address are in brackets.
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
            _ => (rest, well_known),
        };
        Some(Self { scheme, host, port })
    }

    /// As an allowed origin, whose host may have a `*`: any labels, at least a character.
    fn fits(&self, origin: &Origin<'_>) -> bool {
        let host = match self.host.split_once('*') {
            Some((before, after)) => {
                let host = origin.host.to_ascii_lowercase();
                host.len() > before.len() + after.len()
                    && host.starts_with(&before.to_ascii_lowercase())
                    && host.ends_with(&after.to_ascii_lowercase())
            }
            None => self.host.eq_ignore_ascii_case(origin.host),
        };
        host && self.port == origin.port && self.scheme.eq_ignore_ascii_case(origin.scheme)
    }
}

fn is_any(list: &[String]) -> bool {
    list.iter().any(|entry| entry == ANY)
}

/// `None`: nothing to say.
fn list(entries: &[String]) -> Option<HeaderValue> {
    joined(entries.iter().map(String::as_bytes))
}

fn joined<'b>(values: impl Iterator<Item = &'b [u8]>) -> Option<HeaderValue> {
    let values: Vec<&[u8]> = values.collect();
    if values.is_empty() {
        return None;
    }
    // Of tokens and of other values, each of which may stand in a header.
    HeaderValue::from_bytes(&values.join(&b", "[..])).ok()
}

/// Adds to `Vary` what it does not say already.
fn vary(answer: &mut HeaderMap, name: HeaderValue) {
    let says = |value: &HeaderValue| {
        let listed = value.as_bytes().split(|byte| *byte == b',');
        listed
            .map(<[u8]>::trim_ascii)
            .any(|listed| listed == ANY.as_bytes() || listed.eq_ignore_ascii_case(name.as_bytes()))
    };
    if !answer.get_all(VARY).iter().any(says) {
        answer.append(VARY, name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().copied().map(str::to_owned).collect()
    }

    /// Allows `origins`, and nothing else.
    fn cors(origins: &[&str]) -> Cors {
        Cors {
            allow_origins: texts(origins),
            max_age: 5,
            ..Cors::default()
        }
    }

    fn any(allow_credentials: bool) -> Cors {
        Cors {
            allow_methods: texts(&["*"]),
            allow_headers: texts(&["*"]),
            expose_headers: texts(&["*"]),
            allow_credentials,
            ..cors(&["*"])
        }
    }

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let fields = fields.iter().map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        });
        fields.collect()
    }

    const QUESTION: [(&str, &str); 3] = [
        ("origin", "https://shop.example"),
        ("access-control-request-method", "PUT"),
        ("access-control-request-headers", "x-a,x-b"),
    ];

    fn actual(
        cors: &Cors,
        origin: &'static str,
        app: &[(&'static str, &'static str)],
    ) -> HeaderMap {
        let mut answer = headers(app);
        cors.apply(Some(&HeaderValue::from_static(origin)), &mut answer);
        answer
    }

    #[test]
    fn a_preflight_has_a_method_an_origin_and_a_question() {
        let all = headers(&QUESTION);
        assert!(Cors::is_preflight("OPTIONS", &all));
        assert!(!Cors::is_preflight("GET", &all));
        assert!(!Cors::is_preflight("OPTIONS", &headers(&QUESTION[..1])));
        assert!(!Cors::is_preflight("OPTIONS", &headers(&QUESTION[1..])));
    }

    /// GEP-1767: origins, scheme by scheme and port by port.
    #[test]
    fn origins() {
        let table = [
            ("https://shop.example", "https://shop.example", true),
            ("https://shop.example", "https://shop.example:443", true),
            ("https://shop.example:443", "https://shop.example", true),
            ("https://Shop.example", "https://shop.EXAMPLE", true),
            ("https://shop.example", "http://shop.example", false),
            ("https://shop.example", "https://shop.example:8443", false),
            ("https://shop.example", "https://shop.example.evil", false),
            ("https://shop.example", "https://evilshop.example", false),
            ("http://shop.example:80", "http://shop.example", true),
            ("https://*.shop.example", "https://a.shop.example", true),
            ("https://*.shop.example", "https://a.b.shop.example", true),
            ("https://*.shop.example", "https://shop.example", false),
            ("https://*.shop.example", "https://.shop.example", false),
            ("https://*.shop.example", "https://evilshop.example", false),
            ("https://*.shop.example", "https://a.shop.example:1", false),
            ("https://*", "https://anything", true),
            ("https://*", "http://anything", false),
            ("https://*:8443", "https://anything:8443", true),
            ("https://[::1]:80", "https://[::1]:80", true),
            ("https://[::1]", "https://[::1]", true),
            ("https://shop.example", "null", false),
            ("https://*", "null", false),
            ("https://shop.example", "", false),
            ("https://shop.example", "https://shop.example:x", false),
            ("*", "null", true),
            ("*", "anything://at.all", true),
        ];
        for (allowed, origin, expected) in table {
            let answer = actual(&cors(&[allowed]), origin, &[]);
            let told = answer.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN);
            assert_eq!(told, expected, "{allowed}, {origin}");
        }
    }

    #[test]
    fn a_preflight_is_told_what_is_configured() {
        let cors = Cors {
            allow_methods: texts(&["GET", "PUT"]),
            allow_headers: texts(&["x-a", "x-b"]),
            expose_headers: texts(&["x-c"]),
            allow_credentials: true,
            ..cors(&["https://other.example", "https://shop.example"])
        };
        let expected = headers(&[
            ("access-control-allow-origin", "https://shop.example"),
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-methods", "GET, PUT"),
            ("access-control-allow-headers", "x-a, x-b"),
            ("access-control-max-age", "5"),
            ("vary", "origin"),
        ]);
        assert_eq!(cors.preflight(&headers(&QUESTION)), expected);
    }

    #[test]
    fn without_methods_and_headers_none_are_named() {
        let expected = headers(&[
            ("access-control-allow-origin", "*"),
            ("access-control-max-age", "5"),
        ]);
        assert_eq!(cors(&["*"]).preflight(&headers(&QUESTION)), expected);
    }

    #[test]
    fn wildcards_are_said_without_credentials() {
        let expected = headers(&[
            ("access-control-allow-origin", "*"),
            ("access-control-allow-methods", "*"),
            ("access-control-allow-headers", "*"),
            ("access-control-max-age", "5"),
        ]);
        assert_eq!(any(false).preflight(&headers(&QUESTION)), expected);
        let expected = headers(&[
            ("access-control-allow-origin", "*"),
            ("access-control-expose-headers", "*"),
        ]);
        assert_eq!(actual(&any(false), "https://shop.example", &[]), expected);
    }

    #[test]
    fn wildcards_are_the_requests_own_word_with_credentials() {
        let mut expected = headers(&[
            ("access-control-allow-origin", "https://shop.example"),
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-methods", "PUT"),
            ("access-control-allow-headers", "x-a,x-b"),
            ("access-control-max-age", "5"),
        ]);
        for name in [
            "origin",
            "access-control-request-method",
            "access-control-request-headers",
        ] {
            expected.append(VARY, HeaderValue::from_static(name));
        }
        assert_eq!(any(true).preflight(&headers(&QUESTION)), expected);
        // Without a question there is nothing to allow.
        expected.remove(ACCESS_CONTROL_ALLOW_HEADERS);
        assert_eq!(any(true).preflight(&headers(&QUESTION[..2])), expected);

        let cors = Cors {
            expose_headers: texts(&["x-c", "*", "x-d"]),
            ..any(true)
        };
        let expected = headers(&[
            ("access-control-allow-origin", "https://shop.example"),
            ("access-control-allow-credentials", "true"),
            ("access-control-expose-headers", "x-c, x-d"),
            ("vary", "origin"),
        ]);
        assert_eq!(actual(&cors, "https://shop.example", &[]), expected);
    }

    #[test]
    fn other_origins_are_told_nothing() {
        let cors = Cors {
            allow_methods: texts(&["*"]),
            ..cors(&["https://other.example"])
        };
        let expected = headers(&[("vary", "origin")]);
        assert_eq!(cors.preflight(&headers(&QUESTION)), expected);
        assert_eq!(actual(&cors, "https://shop.example", &[]), expected);
        let mut answer = HeaderMap::new();
        cors.apply(None, &mut answer);
        assert_eq!(answer, expected);
    }

    #[test]
    fn the_routes_word_replaces_the_apps() {
        let app = [
            ("access-control-allow-origin", "*"),
            ("access-control-allow-credentials", "true"),
            ("access-control-max-age", "600"),
            ("vary", "accept, Origin"),
            ("x-a", "1"),
        ];
        let expected = headers(&[
            ("access-control-allow-origin", "https://shop.example"),
            ("vary", "accept, Origin"),
            ("x-a", "1"),
        ]);
        let cors = cors(&["https://shop.example"]);
        assert_eq!(actual(&cors, "https://shop.example", &app), expected);
    }
}
