//! What a connection speaks, by its first bytes. Pure: the waiting is its caller's.

/// The connection preface of HTTP/2 (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The longest method that is taken for HTTP/1, bytes.
const MAX_METHOD: usize = 20;
/// The longest request line that is looked at, bytes: what has no end by then is not HTTP.
const MAX_REQUEST_LINE: usize = 8 * 1024;

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    Http1,
    Http2,
    /// Everything else, also TLS of the app's own.
    Opaque,
    /// The bytes so far could still become HTTP.
    Undecided,
}

impl Detected {
    /// The label of metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Opaque => "opaque",
            Self::Undecided => "undecided",
        }
    }
}

/// Reads the first bytes of a client. HTTP/1 is told by its whole request line
/// (`method SP target SP HTTP/1.x`), since `GET key` and the like begin other protocols too.
pub fn detect(bytes: &[u8]) -> Detected {
    let compared = bytes.len().min(HTTP2_PREFACE.len());
    if bytes[..compared] == HTTP2_PREFACE[..compared] {
        return if compared == HTTP2_PREFACE.len() {
            Detected::Http2
        } else {
            Detected::Undecided
        };
    }
    detect_http1(bytes)
}

fn detect_http1(bytes: &[u8]) -> Detected {
    let bytes = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    let method = bytes.iter().take_while(|byte| is_token(**byte)).count();
    if method > MAX_METHOD {
        return Detected::Opaque;
    }
    if method == bytes.len() {
        return Detected::Undecided;
    }
    if method == 0 || bytes[method] != b' ' {
        return Detected::Opaque;
    }
    match bytes.iter().position(|&byte| byte == b'\n') {
        None if bytes.len() > MAX_REQUEST_LINE => Detected::Opaque,
        // A request line holds no control characters: binary protocols need not wait for its end.
        None if bytes
            .iter()
            .any(|&byte| byte < b' ' && byte != b'\r' && byte != b'\t') =>
        {
            Detected::Opaque
        }
        None => Detected::Undecided,
        Some(end) if ends_as_http1(bytes[..end].trim_ascii_end()) => Detected::Http1,
        Some(_) => Detected::Opaque,
    }
}

fn ends_as_http1(line: &[u8]) -> bool {
    line.len() > 9 && {
        let (_, version) = line.split_at(line.len() - 9);
        version.starts_with(b" HTTP/1.") && version[8].is_ascii_digit()
    }
}

/// A character of a method (RFC 9110, section 5.6.2).
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_protocols_apart() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\nHost: a\r\n"[..], Detected::Http1),
            (b"GET / HTTP/1.1\nHost: a\r\n", Detected::Http1),
            (b"BREW-POT /pot HTTP/1.0\r\n", Detected::Http1),
            (b"\r\nGET / HTTP/1.1\r\n", Detected::Http1),
            (HTTP2_PREFACE, Detected::Http2),
            (b"PRI * HT", Detected::Undecided),
            (b"GET / HTT", Detected::Undecided),
            (b"GE", Detected::Undecided),
            (b"", Detected::Undecided),
            (b"GET key\r\n", Detected::Opaque),
            (b"*1\r\n$4\r\nPING\r\n", Detected::Opaque),
            (b"\x16\x03\x01\x02\x00\x01", Detected::Opaque),
            (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", Detected::Opaque),
            (b"CONNECT {\"verbose\":false}\r\n", Detected::Opaque),
            (b"PING\r\n", Detected::Opaque),
            (b"A B\0", Detected::Opaque),
        ] {
            assert_eq!(detect(bytes), expected, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn waits_for_no_endless_line() {
        let line = [b"GET /".to_vec(), vec![b'a'; MAX_REQUEST_LINE]].concat();
        assert_eq!(detect(&line), Detected::Opaque);
        assert_eq!(detect(&[b'G'; MAX_METHOD + 1]), Detected::Opaque);
    }

    #[test]
    fn more_bytes_never_change_a_verdict() {
        for whole in [
            &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            HTTP2_PREFACE,
            b"CONNECT {}\r\nPING\r\n",
            b"HELO there\r\n",
        ] {
            let verdict = detect(whole);
            for cut in 0..whole.len() {
                let early = detect(&whole[..cut]);
                assert!(
                    early == Detected::Undecided || early == verdict,
                    "{cut} of {}",
                    whole.escape_ascii()
                );
            }
        }
    }
}
