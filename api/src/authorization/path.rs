//! Paths that every app reads alike.
//!
//! Most ways around a policy are a path that policy and app read differently: `//admin`,
//! `/x/../admin`, `/%61dmin`, `/admin;x`, `/x%2f..%2fadmin`. Normalizing would have to guess which
//! of the readings is the app's. So a path is either canonical, that is of one reading, or refused
//! where a rule looks at paths. Canonical paths are compared after percent-decoding, which is what
//! apps see.

/// Why a path has more than one reading (RFC 3986 section 6.2.2, and what servers do besides).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ambiguity {
    #[error("does not begin with \"/\"")]
    NoSlash,
    #[error("has an empty segment (\"//\")")]
    EmptySegment,
    #[error("has a segment \".\" or \"..\"")]
    DotSegment,
    #[error("contains a character that apps read differently: \"\\\", \";\", \"#\" or a space")]
    Delimiter,
    #[error("contains a control character or one outside ASCII, not percent-encoded")]
    NotAscii,
    #[error("contains a \"%\" without two hexadecimal digits")]
    MalformedEscape,
    #[error(
        "percent-encodes what apps read differently: a letter, digit, \"-\", \".\", \"_\", \"~\", \
         \"/\", \"\\\", \";\", \"%\" before two hexadecimal digits, or a control character"
    )]
    Escape,
    #[error("percent-encodes bytes that are not UTF-8")]
    NotUtf8,
}

/// Whether every app reads `path` (without its query) alike.
///
/// # Errors
/// The first thing that apps read differently.
pub fn check_canonical(path: &[u8]) -> Result<(), Ambiguity> {
    // The target of `OPTIONS *` (RFC 9112 section 3.2.4): no rule matches it.
    if path == b"*" {
        return Ok(());
    }
    if path.first() != Some(&b'/') {
        return Err(Ambiguity::NoSlash);
    }
    check_bytes(path)?;
    check_segments(path)
}

fn check_bytes(path: &[u8]) -> Result<(), Ambiguity> {
    let mut rest = path;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = match byte {
            b'%' => check_escape(rest)?,
            b'\\' | b';' | b'#' | b' ' => return Err(Ambiguity::Delimiter),
            0x21..=0x7e => tail,
            _ => return Err(Ambiguity::NotAscii),
        };
    }
    Ok(())
}

fn check_segments(path: &[u8]) -> Result<(), Ambiguity> {
    // `path` begins with "/": the first segment is empty, and so may the last one be.
    let mut segments = path.split(|b| *b == b'/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        match segment {
            b"" if segments.peek().is_some() => return Err(Ambiguity::EmptySegment),
            b"." | b".." => return Err(Ambiguity::DotSegment),
            _ => {}
        }
    }
    Ok(())
}

/// Checks the escape, or the escaped UTF-8 sequence, that `rest` begins with; what follows it.
fn check_escape(rest: &[u8]) -> Result<&[u8], Ambiguity> {
    let (first, mut rest) = split_escape(rest).ok_or(Ambiguity::MalformedEscape)?;
    if first.is_ascii() {
        let twice = first == b'%' && hex_pair(rest).is_some();
        let reread = first.is_ascii_alphanumeric()
            || first.is_ascii_control()
            || matches!(first, b'-' | b'.' | b'_' | b'~' | b'/' | b'\\' | b';');
        return if reread || twice {
            Err(Ambiguity::Escape)
        } else {
            Ok(rest)
        };
    }
    let length = match first {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return Err(Ambiguity::NotUtf8),
    };
    let mut sequence = [first, 0, 0, 0];
    for slot in &mut sequence[1..length] {
        (*slot, rest) = split_escape(rest).ok_or(Ambiguity::NotUtf8)?;
    }
    match std::str::from_utf8(&sequence[..length]) {
        Ok(_) => Ok(rest),
        Err(_) => Err(Ambiguity::NotUtf8),
    }
}

/// The byte that the escape at the start of `text` stands for, and what follows the escape.
pub(crate) fn split_escape(text: &[u8]) -> Option<(u8, &[u8])> {
    let text = text.strip_prefix(b"%")?;
    Some((hex_pair(text)?, text.get(2..)?))
}

fn hex_pair(text: &[u8]) -> Option<u8> {
    let digit = |b: &u8| char::from(*b).to_digit(16);
    let value = digit(text.first()?)? * 16 + digit(text.get(1)?)?;
    u8::try_from(value).ok()
}

/// The bytes of a path, percent-decoded one by one. A "%" that begins no escape stands for itself.
#[derive(Clone)]
pub(super) struct Decoded<'p>(pub(super) &'p [u8]);

impl Iterator for Decoded<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let (byte, rest) = match split_escape(self.0) {
            Some(escape) => escape,
            None => {
                let (byte, rest) = self.0.split_first()?;
                (*byte, rest)
            }
        };
        self.0 = rest;
        Some(byte)
    }
}

#[cfg(test)]
mod tests {
    use super::{Ambiguity as A, *};

    #[test]
    fn paths_of_one_reading() {
        let table = [
            "/",
            "*",
            "/charges",
            "/charges/",
            "/v1/a.b",
            "/...",
            "/a..b",
            "/.well-known/x",
            "/~u",
            "/a%20b",
            "/caf%C3%A9",
            "/caf%c3%a9",
            "/%E2%82%AC",
            "/%F0%9F%98%80",
            "/a@b:c,d=e",
            "/a%40b",
            "/100%25",
            "/100%25/x",
            "/C%23",
            "/what%3F",
            "/a+b",
            "/{id}",
            "/a|b",
            "/a&b=c",
        ];
        for path in table {
            assert_eq!(check_canonical(path.as_bytes()), Ok(()), "{path}");
        }
    }

    #[test]
    fn paths_of_several_readings() {
        let table: [(&[u8], A); 37] = [
            (b"", A::NoSlash),
            (b"admin", A::NoSlash),
            (b"http://billing/admin", A::NoSlash),
            (b"**", A::NoSlash),
            (b"//", A::EmptySegment),
            (b"//admin", A::EmptySegment),
            (b"/a//b", A::EmptySegment),
            (b"/admin//", A::EmptySegment),
            (b"/.", A::DotSegment),
            (b"/..", A::DotSegment),
            (b"/./admin", A::DotSegment),
            (b"/x/../admin", A::DotSegment),
            (b"/x/%2e%2e/admin", A::Escape),
            (b"/x/.%2E/admin", A::Escape),
            (b"/x%2fadmin", A::Escape),
            (b"/x%2Fadmin", A::Escape),
            (b"/x%5cadmin", A::Escape),
            (b"/admin%00", A::Escape),
            (b"/admin%0a", A::Escape),
            (b"/admin%7f", A::Escape),
            (b"/%61dmin", A::Escape),
            (b"/%7euser", A::Escape),
            (b"/admin%3bx", A::Escape),
            (b"/x%252e", A::Escape),
            (b"/x\\admin", A::Delimiter),
            (b"/admin;x=1", A::Delimiter),
            (b"/admin#x", A::Delimiter),
            (b"/admin x", A::Delimiter),
            (b"/admin%", A::MalformedEscape),
            (b"/admin%4", A::MalformedEscape),
            (b"/admin%zz", A::MalformedEscape),
            (b"/admin\x00", A::NotAscii),
            (b"/admin\x7f", A::NotAscii),
            (b"/caf\xc3\xa9", A::NotAscii),
            (b"/%c0%af", A::NotUtf8),
            (b"/%e0%80%af", A::NotUtf8),
            (b"/%ff", A::NotUtf8),
        ];
        for (path, ambiguity) in table {
            let shown = String::from_utf8_lossy(path);
            assert_eq!(check_canonical(path), Err(ambiguity), "{shown}");
        }
    }

    #[test]
    fn decoding_is_what_apps_see() {
        let decoded: Vec<u8> = Decoded(b"/a%40%c3%A9%").collect();
        assert_eq!(decoded, "/a@é%".as_bytes());
    }
}
