//! The router against a second model, written as naively as its documentation reads: from the first
//! match to the last, with a copy for everything.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use http::{HeaderMap, HeaderName, HeaderValue};
use outrider_api::model::{HeaderMatch, HttpRoutes, PathMatch, QueryMatch, RouteMatch, ValueMatch};
use outrider_api::routing::{RouteHit, RouteRequest, Router};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

/// Few segments, so that paths meet.
fn path() -> impl Strategy<Value = String> {
    let odd = select(&["/", "//", "*", "", "/%61", "/a;b", "/a/../b", "/A"][..]);
    prop_oneof![
        4 => "(/(a|b|ab|)){0,4}",
        1 => odd.prop_map(str::to_owned),
    ]
}

fn query() -> impl Strategy<Value = String> {
    let pair = (
        select(&["q", "%71", "r", "a+b", "a%20b", ""][..]),
        select(&["", "=", "=1", "=%31", "=1+2", "=%ff", "=%", "=1=2"][..]),
    )
        .prop_map(|(name, value)| format!("{name}{value}"));
    prop_oneof![
        Just(String::new()),
        vec(pair, 0..4).prop_map(|pairs| format!("?{}", pairs.join("&"))),
    ]
}

/// What of it is a path that a match may hold.
fn path_match() -> impl Strategy<Value = PathMatch> {
    let pattern = select(&["/a", "/a.*", "/(a|b)/b", r"\*", ".*", "/", "/%61"][..]);
    prop_oneof![
        3 => path().prop_map(PathMatch::Exact),
        4 => path().prop_map(|path| PathMatch::Prefix(path.trim_end_matches('/').to_owned())),
        1 => pattern.prop_map(|pattern| PathMatch::Regex(pattern.parse().unwrap())),
    ]
}

fn value() -> impl Strategy<Value = ValueMatch> {
    let pattern = select(&["1", "1|2", "", ".*", "1,2", "1.2"][..]);
    prop_oneof![
        select(&["", "1", "2", "1,2", "1; 2", "1 2", "%", "1=2"][..])
            .prop_map(|text| ValueMatch::Exact(text.to_owned())),
        pattern.prop_map(|pattern| ValueMatch::Regex(pattern.parse().unwrap())),
    ]
}

fn route_match() -> impl Strategy<Value = RouteMatch> {
    let name = select(&["x-a", "x-b", "cookie"][..]).prop_map(HeaderName::from_static);
    let header = (name, value()).prop_map(|(name, value)| HeaderMatch { name, value });
    let query = (select(&["q", "r", "a b", ""][..]), value()).prop_map(|(name, value)| {
        let name = name.to_owned();
        QueryMatch { name, value }
    });
    (
        path_match(),
        option::weighted(0.2, method()),
        vec(header, 0..2),
        vec(query, 0..2),
        0usize..9,
    )
        .prop_map(|(path, method, headers, query, rule)| RouteMatch {
            path,
            method,
            headers,
            query,
            rule,
        })
}

/// Many matches at few places: told apart by what else they ask for, and by patterns that have
/// literals and some that have none.
fn crowd() -> impl Strategy<Value = Vec<RouteMatch>> {
    let patterns = [
        "/a", "/a.*", "/(a|b)/b", "/a/[ab]+", "/[ab]+/b", ".*", "/b.*", "/ab/?.*", "/.*/ab",
        "(/a)+", "(/a|/b)*", "/a;b",
    ];
    let pattern = select(patterns.to_vec());
    let place = prop_oneof![
        2 => Just(PathMatch::Prefix("/a".to_owned())),
        1 => Just(PathMatch::Exact("/a/b".to_owned())),
        3 => pattern.prop_map(|pattern| PathMatch::Regex(pattern.parse().unwrap())),
    ];
    let crowded = (place, route_match(), option::weighted(0.5, method()));
    let crowded = crowded.prop_map(|(path, rest, method)| RouteMatch {
        path,
        method,
        ..rest
    });
    vec(crowded, 0..60)
}

fn method() -> impl Strategy<Value = String> {
    select(&["GET", "POST", "get"][..]).prop_map(str::to_owned)
}

fn headers() -> impl Strategy<Value = HeaderMap> {
    let name = select(&["x-a", "x-b", "cookie"][..]).prop_map(HeaderName::from_static);
    // In Latin-1: the last is not UTF-8.
    let value = select(&["", "1", "2", "1,2", "\u{ff}"][..]).prop_map(|text| {
        let bytes: Vec<u8> = text.chars().map(|c| u32::from(c) as u8).collect();
        HeaderValue::from_bytes(&bytes).unwrap()
    });
    vec((name, value), 0..4).prop_map(|fields| {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, value);
        }
        headers
    })
}

mod naive {
    use super::*;

    pub(super) fn route(routes: &HttpRoutes, request: &RouteRequest<'_>) -> Option<RouteHit> {
        let fitting = routes.matches.iter().enumerate();
        let (matched, found) = fitting
            .into_iter()
            .find(|(_, found)| fits(found, request))?;
        let prefix = match &found.path {
            PathMatch::Prefix(prefix) => prefix.len(),
            _ => 0,
        };
        Some(RouteHit {
            rule: found.rule,
            matched,
            prefix,
        })
    }

    fn fits(found: &RouteMatch, request: &RouteRequest<'_>) -> bool {
        let mut parts = request.path_and_query.splitn(2, '?');
        let path = match parts.next().unwrap() {
            "" => "/",
            path => path,
        };
        let parameters = parse(parts.next().unwrap_or_default());
        let path_fits = match &found.path {
            PathMatch::Exact(exact) => path == exact,
            PathMatch::Prefix(prefix) => {
                prefix.is_empty() || path == prefix || path.starts_with(&format!("{prefix}/"))
            }
            PathMatch::Regex(pattern) => pattern.is_match(path),
        };
        path_fits
            && found.method.iter().all(|method| method == request.method)
            && found.headers.iter().all(|wanted| {
                let values = request.headers.get_all(&wanted.name);
                let values: Vec<&[u8]> = values.iter().map(HeaderValue::as_bytes).collect();
                let between = if wanted.name == "cookie" { "; " } else { "," };
                let joined = String::from_utf8(values.join(between.as_bytes()));
                !values.is_empty() && joined.is_ok_and(|joined| value_fits(&wanted.value, &joined))
            })
            && found.query.iter().all(|wanted| {
                let mut named = parameters.iter().filter(|(name, _)| *name == wanted.name);
                let value = named.next().and_then(|(_, value)| value.clone());
                value.is_some_and(|value| value_fits(&wanted.value, &value))
            })
    }

    fn value_fits(wanted: &ValueMatch, value: &str) -> bool {
        match wanted {
            ValueMatch::Exact(exact) => exact == value,
            ValueMatch::Regex(pattern) => pattern.is_match(value),
        }
    }

    /// Of the few escapes that are generated; `None`: a value that is not UTF-8.
    fn parse(query: &str) -> Vec<(String, Option<String>)> {
        let decode = |text: &str| {
            let text = text.replace('+', " ").replace("%20", " ");
            text.replace("%71", "q").replace("%31", "1")
        };
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = Some(decode(value)).filter(|value| !value.contains("%ff"));
            (decode(name), value)
        };
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        pairs.map(pair).collect()
    }
}

proptest! {
    #[test]
    fn the_index_finds_what_a_search_from_the_first_finds(
        matches in prop_oneof![vec(route_match(), 0..30), crowd()],
        requests in vec((method(), path(), query(), headers()), 1..20),
    ) {
        let routes = HttpRoutes { matches, rules: Vec::new() };
        let router = Router::new(&routes);
        for (method, path, query, headers) in requests {
            let path_and_query = format!("{path}{query}");
            let request = RouteRequest {
                method: &method,
                path_and_query: &path_and_query,
                headers: &headers,
            };
            prop_assert_eq!(router.route(&request), naive::route(&routes, &request));
        }
    }
}
