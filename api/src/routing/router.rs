//! From a request to a rule.
//!
//! Paths are compared byte by byte as they were sent, which is what the app will see: nothing is
//! decoded, folded or normalized. So
//!
//! | request | fits | does not fit |
//! |---|---|---|
//! | `/a/` | prefix `/a` | exact `/a` |
//! | `/a//b` | prefix `/a` | prefix `/a/b` |
//! | `//a`, `/A`, `/%61`, `/a;x` | prefix `/` | prefix `/a` |
//! | `/a/../b`, `/a/%2e%2e/b` | prefix `/a` | prefix `/b` |
//! | an empty path | what `/` fits (RFC 9110, section 4.2.3) | |
//! | `*`, of OPTIONS | prefix `/` | any other, but a regular expression |
//!
//! A route is therefore no security boundary: an app that reads `/a/../b` as `/b` answers for a
//! rule of `/a`. Who may call what is [`crate::authorization`]'s, which refuses such paths.

use http::HeaderMap;

use super::conditions;
use super::group::Group;
use super::paths::PathTree;
use super::patterns::PatternIndex;
use crate::model::{HttpRoutes, PathMatch, RouteMatch};

/// [`HttpRoutes`], compiled once.
///
/// What a request costs grows with the segments of its path that any match names, and not with the
/// number of matches, as long as each is told apart from most of the others by one of
///
/// - its path, exact or a prefix,
/// - a literal that its regular expression asks of a path,
/// - its method, or the exact value of a header or parameter (of the same path: under one of the
///   eight names that tell the most matches apart).
///
/// What is told apart by nothing of this is looked at one by one: regular expressions without a
/// literal, or of values.
#[derive(Clone, Debug)]
pub struct Router {
    matches: Vec<RouteMatch>,
    paths: PathTree,
    patterns: PatternIndex,
    /// Those that neither holds, in order: paths that begin without a slash.
    others: Group,
}

/// What routes look at.
#[derive(Clone, Copy, Debug)]
pub struct RouteRequest<'r> {
    pub method: &'r str,
    /// As it was sent: `/a?b=c`, or `*`.
    pub path_and_query: &'r str,
    pub headers: &'r HeaderMap,
}

/// What a request met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteHit {
    /// Index into [`HttpRoutes::rules`].
    pub rule: usize,
    /// Index into [`HttpRoutes::matches`].
    pub matched: usize,
    /// How many bytes of the path the prefix is that matched; 0 for `/`, and where no prefix did.
    pub prefix: usize,
}

impl Router {
    #[must_use]
    pub fn new(routes: &HttpRoutes) -> Self {
        let mut paths = PathTree::default();
        let mut others = Group::default();
        let mut patterns = Vec::new();
        for (index, found) in routes.matches.iter().enumerate() {
            let held = match &found.path {
                PathMatch::Exact(path) => paths.add_exact(path, index),
                PathMatch::Prefix(prefix) => paths.add_prefix(prefix, index),
                PathMatch::Regex(pattern) => {
                    patterns.push((index, pattern));
                    true
                }
            };
            if !held {
                others.add(index);
            }
        }
        paths.divide(&routes.matches);
        Self {
            matches: routes.matches.clone(),
            patterns: PatternIndex::new(patterns.into_iter(), &routes.matches),
            paths,
            others,
        }
    }

    /// The first match in order of precedence that fits.
    ///
    /// Allocates only where a regular expression meets a value that must be put together first: a
    /// header with several values, a parameter with escapes.
    #[must_use]
    pub fn route(&self, request: &RouteRequest<'_>) -> Option<RouteHit> {
        let (path, query) = split(request.path_and_query);
        let mut first = None;
        let mut look_into = |group: &Group| first = self.better(first, group, request, path, query);
        self.paths.candidates(path).for_each(&mut look_into);
        look_into(&self.others);
        if self.patterns.is_before(first) {
            let candidates = self.patterns.candidates(path);
            candidates.for_each(|group| first = self.better(first, group, request, path, query));
        }
        let matched = first?;
        let found = &self.matches[matched];
        let prefix = match &found.path {
            PathMatch::Prefix(prefix) => prefix.len(),
            PathMatch::Exact(_) | PathMatch::Regex(_) => 0,
        };
        Some(RouteHit {
            rule: found.rule,
            matched,
            prefix,
        })
    }

    /// The first match of a group that fits, or `first` where that comes before it.
    fn better(
        &self,
        mut first: Option<usize>,
        group: &Group,
        request: &RouteRequest<'_>,
        path: &str,
        query: &str,
    ) -> Option<usize> {
        if !group.is_before(first) {
            return first;
        }
        for candidates in group.lists(request, query) {
            let mut better = candidates
                .iter()
                .copied()
                .take_while(|index| first.is_none_or(|first| *index < first));
            let fits = |index: &usize| self.fits(*index, request, path, query);
            first = better.find(fits).or(first);
        }
        first
    }

    fn fits(&self, index: usize, request: &RouteRequest<'_>, path: &str, query: &str) -> bool {
        let found = &self.matches[index];
        // A path's regular expression costs more than most conditions.
        conditions::fit(found, request.method, request.headers, query) && found.path.fits(path)
    }
}

impl PathMatch {
    /// Whether it fits a path, without its query.
    #[must_use]
    pub fn fits(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == path,
            Self::Prefix(prefix) if prefix.is_empty() => true,
            Self::Prefix(prefix) => match path.strip_prefix(prefix.as_str()) {
                Some(rest) => rest.is_empty() || rest.starts_with('/'),
                None => false,
            },
            Self::Regex(pattern) => pattern.is_match(path),
        }
    }
}

/// The path, never empty, and the query.
pub(super) fn split(path_and_query: &str) -> (&str, &str) {
    let (path, query) = path_and_query
        .split_once('?')
        .unwrap_or((path_and_query, ""));
    (if path.is_empty() { "/" } else { path }, query)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(paths: &[PathMatch]) -> HttpRoutes {
        let matches = paths.iter().enumerate().map(|(rule, path)| RouteMatch {
            path: path.clone(),
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
            rule,
        });
        HttpRoutes {
            matches: matches.collect(),
            rules: Vec::new(),
        }
    }

    fn route(paths: &[PathMatch], path_and_query: &str) -> Option<usize> {
        let request = RouteRequest {
            method: "GET",
            path_and_query,
            headers: &HeaderMap::new(),
        };
        let hit = Router::new(&matches(paths)).route(&request);
        hit.map(|hit| hit.rule)
    }

    fn prefix(text: &str) -> PathMatch {
        PathMatch::Prefix(text.to_owned())
    }

    fn exact(text: &str) -> PathMatch {
        PathMatch::Exact(text.to_owned())
    }

    #[test]
    fn paths_as_documented() {
        let paths = [
            exact("/a"),
            prefix("/a/b"),
            prefix("/a"),
            prefix("/b"),
            prefix(""),
        ];
        let table = [
            ("/a", 0),
            ("/a?x=/b", 0),
            ("/a/", 2),
            ("/a/b", 1),
            ("/a/b/c", 1),
            ("/a//b", 2),
            ("/a/../b", 2),
            ("/a/%2e%2e/b", 2),
            ("//a", 4),
            ("/A", 4),
            ("/%61", 4),
            ("/a;x", 4),
            ("/ab", 4),
            ("/", 4),
            ("", 4),
            ("?b", 4),
            ("*", 4),
        ];
        for (path, rule) in table {
            assert_eq!(route(&paths, path), Some(rule), "{path}");
        }
    }

    #[test]
    fn an_empty_path_is_the_root_and_the_asterisk_is_not() {
        let paths = [exact("/")];
        assert_eq!(route(&paths, ""), Some(0));
        assert_eq!(route(&paths, "*"), None);
        let any = PathMatch::Regex(r"\*".parse().expect("a pattern"));
        assert_eq!(route(&[any], "*"), Some(0));
    }

    #[test]
    fn the_first_that_fits_wins_wherever_it_is_held() {
        let any = PathMatch::Regex("/a.*".parse().expect("a pattern"));
        assert_eq!(
            route(&[any.clone(), exact("/a"), prefix("/a")], "/a"),
            Some(0)
        );
        assert_eq!(
            route(&[prefix(""), exact("/a"), any.clone()], "/a"),
            Some(0)
        );
        assert_eq!(route(&[prefix("/b"), any, prefix("/a")], "/a/b"), Some(1));
    }

    #[test]
    fn the_hit_names_the_prefix() {
        let routes = matches(&[prefix("/a/b"), prefix("")]);
        let router = Router::new(&routes);
        let hit = |path_and_query| {
            router.route(&RouteRequest {
                method: "GET",
                path_and_query,
                headers: &HeaderMap::new(),
            })
        };
        let expected = |rule, prefix| RouteHit {
            rule,
            matched: rule,
            prefix,
        };
        assert_eq!(hit("/a/b/c"), Some(expected(0, 4)));
        assert_eq!(hit("/a"), Some(expected(1, 0)));
    }

    #[test]
    fn without_a_match_there_is_no_rule() {
        assert_eq!(route(&[], "/"), None);
        assert_eq!(route(&[prefix("/a")], "/"), None);
    }
}
