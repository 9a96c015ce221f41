//! Names and values of a query, as forms write them (WHATWG URL, application/x-www-form-urlencoded):
//! pairs with "&" between, "+" for a space, bytes percent-encoded. A "%" that begins no escape
//! stands for itself, and what has no "=" has an empty value.

use std::borrow::Cow;

use crate::authorization::path::split_escape;

/// Names and values, encoded as they are.
pub(super) fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    let parts = query.split('&').filter(|part| !part.is_empty());
    parts.map(|part| part.split_once('=').unwrap_or((part, "")))
}

/// Whether `encoded` stands for `text`.
pub(super) fn is(encoded: &str, text: &str) -> bool {
    Decoded(encoded.as_bytes()).eq(text.bytes())
}

/// `None`: it is not UTF-8.
pub(super) fn decode(encoded: &str) -> Option<Cow<'_, str>> {
    if encoded.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        let bytes = Decoded(encoded.as_bytes()).collect();
        String::from_utf8(bytes).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(encoded))
    }
}

struct Decoded<'t>(&'t [u8]);

impl Iterator for Decoded<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let (byte, rest) = match split_escape(self.0) {
            Some(escape) => escape,
            None => match self.0.split_first()? {
                (b'+', rest) => (b' ', rest),
                (byte, rest) => (*byte, rest),
            },
        };
        self.0 = rest;
        Some(byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_as_forms_write_them() {
        let read = |query| pairs(query).collect::<Vec<_>>();
        assert_eq!(read(""), []);
        assert_eq!(read("a=1&&b&c=d=e"), [("a", "1"), ("b", ""), ("c", "d=e")]);
        // Not a separator, whatever some servers do.
        assert_eq!(read("a=1;b=2"), [("a", "1;b=2")]);
        assert_eq!(read("=1"), [("", "1")]);
    }

    #[test]
    fn escapes() {
        let table = [
            ("", Some("")),
            ("a+b", Some("a b")),
            ("a%2Bb", Some("a+b")),
            ("%c3%A9", Some("é")),
            ("%", Some("%")),
            ("%4", Some("%4")),
            ("%zz%41", Some("%zzA")),
            ("%%41", Some("%A")),
            ("%+1", Some("% 1")),
            ("%ff", None),
        ];
        for (encoded, text) in table {
            assert_eq!(decode(encoded).as_deref(), text, "{encoded}");
            assert!(text.is_none_or(|text| is(encoded, text)), "{encoded}");
        }
    }
}
