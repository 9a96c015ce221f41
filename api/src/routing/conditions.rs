//! Method, headers and query of a match.
//!
//! - Methods are compared exactly (RFC 9110, section 9.1).
//! - Several values of one header are one value with "," between (RFC 9110, section 5.3), and "; "
//!   for `Cookie` (RFC 9113, section 8.2.3). A value that is not UTF-8 fits no text.
//! - Of a parameter that is repeated, the first counts, as the Gateway API recommends.

use std::borrow::Cow;

use http::HeaderMap;
use http::header::{COOKIE, HeaderName, HeaderValue, ValueIter};

use super::query;
use crate::model::{HeaderMatch, QueryMatch, RouteMatch, ValueMatch};

/// Whether all of `found` fits, but for its path.
pub(super) fn fit(found: &RouteMatch, method: &str, headers: &HeaderMap, query: &str) -> bool {
    let method_fits = match &found.method {
        Some(wanted) => wanted == method,
        None => true,
    };
    method_fits
        && found.headers.iter().all(|wanted| wanted.fits(headers))
        && found.query.iter().all(|wanted| wanted.fits(query))
}

/// The value of a header; `None`: there is no such header.
pub(super) fn header<'h>(name: &HeaderName, headers: &'h HeaderMap) -> Option<Cow<'h, [u8]>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    Some(join(name, first, values))
}

/// The value of a parameter; `None`: there is none, or none that is UTF-8.
pub(super) fn parameter<'q>(name: &str, query: &'q str) -> Option<Cow<'q, str>> {
    query::decode(encoded(name, query)?)
}

fn encoded<'q>(name: &str, query: &'q str) -> Option<&'q str> {
    let mut pairs = query::pairs(query);
    let (_, value) = pairs.find(|(known, _)| query::is(known, name))?;
    Some(value)
}

impl HeaderMatch {
    fn fits(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(&self.name).iter();
        let Some(first) = values.next() else {
            return false;
        };
        match &self.value {
            ValueMatch::Exact(wanted) => is_joined(wanted, &self.name, first, values),
            ValueMatch::Regex(pattern) => {
                let joined = join(&self.name, first, values);
                std::str::from_utf8(&joined).is_ok_and(|text| pattern.is_match(text))
            }
        }
    }
}

fn separator(name: &HeaderName) -> &'static str {
    if *name == COOKIE { "; " } else { "," }
}

/// Whether the values, joined, are `wanted`.
fn is_joined(
    wanted: &str,
    name: &HeaderName,
    first: &HeaderValue,
    others: ValueIter<'_, HeaderValue>,
) -> bool {
    let Some(mut rest) = wanted.as_bytes().strip_prefix(first.as_bytes()) else {
        return false;
    };
    for value in others {
        let after = rest.strip_prefix(separator(name).as_bytes());
        match after.and_then(|after| after.strip_prefix(value.as_bytes())) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    rest.is_empty()
}

fn join<'v>(
    name: &HeaderName,
    first: &'v HeaderValue,
    others: ValueIter<'v, HeaderValue>,
) -> Cow<'v, [u8]> {
    let mut joined = Cow::Borrowed(first.as_bytes());
    for value in others {
        let bytes = joined.to_mut();
        bytes.extend_from_slice(separator(name).as_bytes());
        bytes.extend_from_slice(value.as_bytes());
    }
    joined
}

impl QueryMatch {
    fn fits(&self, query: &str) -> bool {
        let Some(value) = encoded(&self.name, query) else {
            return false;
        };
        match &self.value {
            ValueMatch::Exact(wanted) => query::is(value, wanted),
            ValueMatch::Regex(pattern) => {
                query::decode(value).is_some_and(|text| pattern.is_match(&text))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::header;

    use super::*;

    fn header(name: &str, value: ValueMatch, given: &[&[u8]]) -> bool {
        let name: HeaderName = name.parse().expect("a name");
        let mut headers = HeaderMap::new();
        for given in given {
            let value = HeaderValue::from_bytes(given).expect("a value");
            headers.append(&name, value);
        }
        HeaderMatch { name, value }.fits(&headers)
    }

    fn exact(text: &str) -> ValueMatch {
        ValueMatch::Exact(text.to_owned())
    }

    fn regex(text: &str) -> ValueMatch {
        ValueMatch::Regex(text.parse().expect("a pattern"))
    }

    #[test]
    fn several_values_are_one() {
        let table: [(&str, &[&[u8]], bool); 9] = [
            ("a,b", &[b"a", b"b"], true),
            ("a,b", &[b"a,b"], true),
            ("a,b", &[b"a"], false),
            ("a", &[b"a", b"b"], false),
            ("a", &[b"A"], false),
            ("a, b", &[b"a", b"b"], false),
            ("a,,", &[b"a", b"", b""], true),
            ("", &[b""], true),
            ("", &[], false),
        ];
        for (wanted, given, fits) in table {
            assert_eq!(header("x-a", exact(wanted), given), fits, "{wanted}");
            assert_eq!(header("x-a", regex(wanted), given), fits, "{wanted}");
        }
        let crumbs: &[&[u8]] = &[b"a=1", b"b=2"];
        assert!(header("cookie", exact("a=1; b=2"), crumbs));
        assert!(header("cookie", regex("a=1; b=2"), crumbs));
        assert!(!header("cookie", exact("a=1,b=2"), crumbs));
    }

    #[test]
    fn what_is_not_utf_8_fits_no_text() {
        assert!(!header("x-a", regex("(?s).*"), &[b"\xff"]));
        assert!(header("x-a", regex(".*"), &["é".as_bytes()]));
        assert!(header("x-a", exact("é"), &["é".as_bytes()]));
    }

    #[test]
    fn the_first_of_a_repeated_parameter_counts() {
        let fits = |value, query| {
            let name = "a b".to_owned();
            QueryMatch { name, value }.fits(query)
        };
        assert!(fits(exact("1"), "c=3&a+b=1&a%20b=2"));
        assert!(!fits(exact("2"), "a+b=1&a+b=2"));
        assert!(fits(regex("x/y z"), "a+b=x%2Fy+z"));
        assert!(fits(exact(""), "a%20b"));
        assert!(!fits(exact(""), "c"));
        assert!(!fits(regex(".*"), "A+b=1"));
        assert!(!fits(regex("(?s).*"), "a+b=%ff"));
    }

    #[test]
    fn methods_are_compared_exactly() {
        let found = RouteMatch {
            path: crate::model::PathMatch::Prefix(String::new()),
            method: Some("GET".to_owned()),
            headers: Vec::new(),
            query: Vec::new(),
            rule: 0,
        };
        let headers = HeaderMap::new();
        assert!(fit(&found, "GET", &headers, ""));
        assert!(!fit(&found, "get", &headers, "") && !fit(&found, "HEAD", &headers, ""));
    }

    #[test]
    fn all_of_it_must_fit() {
        let mut found = RouteMatch {
            path: crate::model::PathMatch::Prefix(String::new()),
            method: None,
            headers: vec![HeaderMatch {
                name: header::ACCEPT,
                value: exact("a"),
            }],
            query: vec![QueryMatch {
                name: "q".to_owned(),
                value: exact("1"),
            }],
            rule: 0,
        };
        let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static("a"))]);
        assert!(fit(&found, "GET", &headers, "q=1"));
        assert!(!fit(&found, "GET", &headers, "q=2"));
        assert!(!fit(&found, "GET", &HeaderMap::new(), "q=1"));
        found.method = Some("PUT".to_owned());
        assert!(!fit(&found, "GET", &headers, "q=1"));
    }
}
