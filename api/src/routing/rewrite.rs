//! What a request asks for instead (Gateway API, HTTPURLRewriteFilter).

use http::uri::{Authority, PathAndQuery};

use super::edit::{EditError, check_hostname};
use super::router::split;
use crate::model::Rewrite;

impl Rewrite {
    /// The new authority, if it is another, and the new path with the query that the request had.
    /// `prefix` is how many bytes of the path the match's prefix is ([`super::RouteHit::prefix`]).
    ///
    /// `*` is no path and stays. A new hostname is the whole authority: without a port.
    ///
    /// # Errors
    /// Host or path of the filter cannot be that of a URI, or the path grows too long.
    pub fn apply(
        &self,
        target: &PathAndQuery,
        prefix: usize,
    ) -> Result<(Option<Authority>, PathAndQuery), EditError> {
        let authority = match &self.hostname {
            Some(hostname) => {
                check_hostname(hostname)?;
                Some(hostname.parse()?)
            }
            None => None,
        };
        let (path, query) = split(target.as_str());
        let Some(edit) = self.path.as_ref().filter(|_| path != "*") else {
            return Ok((authority, target.clone()));
        };
        let mut edited = edit.apply(path, prefix)?;
        if target.query().is_some() {
            edited.push('?');
            edited.push_str(query);
        }
        Ok((authority, PathAndQuery::try_from(edited)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PathEdit;

    fn rewrite(hostname: Option<&str>, path: Option<PathEdit>) -> Rewrite {
        Rewrite {
            hostname: hostname.map(str::to_owned),
            path,
        }
    }

    fn path(edit: PathEdit, target: &str) -> String {
        let target = PathAndQuery::try_from(target).expect("a target");
        let applied = rewrite(None, Some(edit)).apply(&target, "/foo".len());
        let (authority, path) = applied.expect("a target");
        assert_eq!(authority, None);
        path.to_string()
    }

    #[test]
    fn the_path_is_new_and_the_query_stays() {
        let full = || PathEdit::Full("/one/two".to_owned());
        let prefix = |text: &str| PathEdit::Prefix(text.to_owned());
        assert_eq!(path(full(), "/foo/bar?a=b?c"), "/one/two?a=b?c");
        assert_eq!(path(full(), "/foo?"), "/one/two?");
        assert_eq!(path(prefix("/xyz/"), "/foo/bar/?a"), "/xyz/bar/?a");
        assert_eq!(path(prefix("/"), "/foo?a"), "/?a");
        assert_eq!(path(prefix(""), "/foo/é|"), "/é|");
        assert_eq!(path(full(), "*"), "*");
    }

    #[test]
    fn a_hostname_is_the_whole_authority() {
        let target = PathAndQuery::from_static("/foo?a");
        let applied = rewrite(Some("one.example"), None).apply(&target, 0);
        let (authority, path) = applied.expect("a target");
        assert_eq!(authority, Some(Authority::from_static("one.example")));
        assert_eq!(path, target);
    }

    #[test]
    fn what_cannot_be_a_target_is_an_error() {
        let long = format!("/{}", "a".repeat(70_000));
        let target = PathAndQuery::from_static("/foo");
        for wrong in [
            rewrite(Some("a b"), None),
            rewrite(Some("*.example"), None),
            rewrite(None, Some(PathEdit::Full("/a?b".to_owned()))),
            rewrite(None, Some(PathEdit::Prefix("a".to_owned()))),
            rewrite(None, Some(PathEdit::Full(long))),
        ] {
            assert!(wrong.apply(&target, 4).is_err());
        }
    }
}
