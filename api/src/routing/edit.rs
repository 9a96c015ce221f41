//! Edits of headers and paths.

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::uri::InvalidUri;
use http::{HeaderMap, HeaderName};

use crate::model::{HeaderEdit, PathEdit};
use crate::names::{NameError, check_subdomain};

/// The longest path that somebody writes, bytes (HTTPPathModifier's CRD).
const PATH_MAX: usize = 1024;

/// Why a filter comes to no URI.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    #[error(
        "{0:?} is not a path, expected one that begins with \"/\", of at most {PATH_MAX} characters \
         that RFC 3986 allows, without query"
    )]
    Path(String),
    #[error("is not a hostname: {0}")]
    Hostname(#[from] NameError),
    #[error("{0:?} is not a scheme, expected http or https")]
    Scheme(String),
    #[error("{0:?} is not an authority")]
    Authority(String),
    #[error(transparent)]
    Uri(#[from] InvalidUri),
}

/// Whether a header is an app's to edit: not if it frames the message or is of one connection (RFC
/// 9110, section 7.6.1), nor `Host`, which is what a rewrite is for.
#[must_use]
pub fn is_editable(name: &HeaderName) -> bool {
    let framing = [
        CONNECTION,
        CONTENT_LENGTH,
        HOST,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ];
    !framing.contains(name) && !matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

impl HeaderEdit {
    /// An added value is a field line of its own, after those that are there (RFC 9110, section
    /// 5.3).
    pub fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}

impl PathEdit {
    /// # Errors
    /// The new text is neither a path nor, of a prefix, empty.
    pub fn check(&self) -> Result<(), EditError> {
        match self {
            Self::Prefix(text) if text.is_empty() => Ok(()),
            Self::Full(text) | Self::Prefix(text) => check_path(text),
        }
    }

    /// The new path. `prefix` is how many bytes of `path` the match's prefix is.
    ///
    /// A slash at the end of a new prefix is ignored, and no path is empty (Gateway API,
    /// HTTPPathModifier).
    ///
    /// # Errors
    /// As [`Self::check`].
    pub(super) fn apply(&self, path: &str, prefix: usize) -> Result<String, EditError> {
        self.check()?;
        let edited = match self {
            Self::Full(text) => return Ok(text.clone()),
            Self::Prefix(text) => {
                let rest = path.get(prefix..);
                let rest = rest.filter(|rest| rest.starts_with('/'));
                let new = text.trim_end_matches('/');
                format!("{new}{}", rest.unwrap_or_default())
            }
        };
        Ok(if edited.is_empty() {
            "/".to_owned()
        } else {
            edited
        })
    }
}

/// Whether a text is the path of a URI: RFC 3986, section 3.3, `path-absolute`, and empty segments.
///
/// # Errors
/// It is not, or too long.
pub fn check_path(text: &str) -> Result<(), EditError> {
    let is_encoded = || super::redirect::encode(text, b"").len() == text.len();
    if text.starts_with('/') && text.len() <= PATH_MAX && is_encoded() {
        return Ok(());
    }
    Err(EditError::Path(text.chars().take(64).collect()))
}

/// # Errors
/// It is not the name of a host (RFC 1123), in lower case.
pub(super) fn check_hostname(hostname: &str) -> Result<(), EditError> {
    Ok(check_subdomain(hostname)?)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn field(name: &str, value: &str) -> (HeaderName, HeaderValue) {
        (
            name.parse().expect("a name"),
            value.parse().expect("a value"),
        )
    }

    /// The examples of Gateway API's HTTPHeaderFilter, all at once.
    #[test]
    fn headers_are_set_added_and_removed() {
        let mut headers = HeaderMap::from_iter([
            field("my-header", "foo"),
            field("my-header1", "foo"),
            field("my-header2", "bar"),
            field("my-header3", "baz"),
            field("my-header4", "qux"),
        ]);
        headers.append("my-header4", HeaderValue::from_static("quux"));
        let edit = HeaderEdit {
            set: vec![field("My-Header4", "bar"), field("new", "1")],
            add: vec![field("my-header", "bar,baz"), field("new", "2")],
            remove: vec![field("My-Header1", "").0, field("my-header3", "").0],
        };
        edit.apply(&mut headers);
        let values = |name: &str| headers.get_all(name).iter().collect::<Vec<_>>();
        assert_eq!(values("my-header"), ["foo", "bar,baz"]);
        assert_eq!(values("my-header2"), ["bar"]);
        assert_eq!(values("my-header4"), ["bar"]);
        assert_eq!(values("new"), ["1", "2"]);
        assert_eq!(headers.keys_len(), 4);
    }

    /// The table of Gateway API's HTTPPathModifier; a match's prefix has no slash at its end.
    #[test]
    fn prefixes_are_replaced_as_documented() {
        let table = [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            // Beyond the table.
            ("/foo", "/foo", "/xyz/", "/xyz"),
            ("/", "/", "/xyz", "/xyz/"),
            ("/bar", "/", "/xyz", "/xyz/bar"),
            ("/bar", "/", "", "/bar"),
            ("/foo//bar", "/foo", "/", "//bar"),
        ];
        for (path, prefix, replacement, expected) in table {
            let edit = PathEdit::Prefix(replacement.to_owned());
            let length = prefix.trim_end_matches('/').len();
            let edited = edit.apply(path, length).expect("a path");
            assert_eq!(edited, expected, "{path}, {prefix} by {replacement}");
        }
    }

    #[test]
    fn the_whole_path_is_replaced() {
        let edit = PathEdit::Full("/one/two/".to_owned());
        assert_eq!(edit.apply("/foo/bar", 4).expect("a path"), "/one/two/");
    }

    #[test]
    fn what_is_no_path_is_an_error() {
        for text in [
            "x", "/a?b", "/a#b", "/a b", "/é", "/%zz", "/a\n", "*", "/\"",
        ] {
            assert!(PathEdit::Full(text.to_owned()).check().is_err(), "{text}");
            assert!(PathEdit::Prefix(text.to_owned()).check().is_err(), "{text}");
        }
        assert!(PathEdit::Full(String::new()).check().is_err());
        let long = format!("/{}", "a".repeat(PATH_MAX));
        assert!(PathEdit::Full(long[..PATH_MAX].to_owned()).check().is_ok());
        assert!(PathEdit::Full(long).check().is_err());
        assert!(PathEdit::Prefix(String::new()).check().is_ok());
        assert!(PathEdit::Full("/a%20b;c=d".to_owned()).check().is_ok());
    }

    #[test]
    fn what_frames_a_message_is_nobodys_to_edit() {
        for name in [
            "transfer-encoding",
            "content-length",
            "host",
            "keep-alive",
            "te",
        ] {
            assert!(!is_editable(&field(name, "").0), "{name}");
        }
        for name in ["x-a", "content-type", "authorization", "cookie"] {
            assert!(is_editable(&field(name, "").0), "{name}");
        }
    }
}
