//! What a connection speaks, by its first bytes. Pure: the waiting is its caller's.

/// The connection preface of HTTP/2 (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A handshake record of TLS (RFC 8446, section 5.1).
const TLS_HANDSHAKE: &[u8] = b"\x16\x03";
/// The longest ClientHello that is waited for, bytes.
const MAX_CLIENT_HELLO: usize = 16 * 1024;
/// The longest method that is taken for HTTP/1, bytes.
const MAX_METHOD: usize = 20;
/// The longest request line that is looked at, bytes: what has no end by then is not HTTP.
const MAX_REQUEST_LINE: usize = 8 * 1024;

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    Http1,
    Http2,
    /// TLS of the app's own: carried as it is.
    Tls,
    /// Everything else.
    Opaque,
    /// The bytes so far could still become one of the others.
    Undecided,
}

impl Detected {
    /// The label of metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Tls => "tls",
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
    if bytes.starts_with(TLS_HANDSHAKE) {
        return detect_tls(bytes);
    }
    detect_http1(bytes)
}

/// The whole ClientHello is waited for, since it tells the server's name.
fn detect_tls(bytes: &[u8]) -> Detected {
    match client_hello(bytes) {
        Hello::Partial if bytes.len() <= MAX_CLIENT_HELLO => Detected::Undecided,
        Hello::Partial | Hello::Whole(_) => Detected::Tls,
        Hello::Malformed => Detected::Opaque,
    }
}

/// A ClientHello, as far as it has come.
enum Hello {
    Partial,
    /// With the server's name (RFC 6066, section 3), if it has one.
    Whole(Option<String>),
    Malformed,
}

fn client_hello(mut bytes: &[u8]) -> Hello {
    let mut acceptor = rustls::server::Acceptor::default();
    loop {
        if bytes.is_empty() {
            return Hello::Partial;
        }
        if acceptor.read_tls(&mut bytes).is_err() {
            return Hello::Malformed;
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let name = accepted.client_hello().server_name().map(str::to_owned);
                return Hello::Whole(name);
            }
            Err(_) => return Hello::Malformed,
        }
    }
}

/// The name of the server as the client says it in its first bytes, for people: nothing is decided
/// by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerName {
    Sni(String),
    Host(String),
}

impl ServerName {
    /// `None`: the client says no name, or nothing that is one.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        match detect(bytes) {
            Detected::Tls => match client_hello(bytes) {
                Hello::Whole(name) => name.map(Self::Sni),
                Hello::Partial | Hello::Malformed => None,
            },
            Detected::Http1 => host(bytes).map(Self::Host),
            Detected::Http2 | Detected::Opaque | Detected::Undecided => None,
        }
    }
}

/// The value of `Host`, without the port.
fn host(head: &[u8]) -> Option<String> {
    let mut lines = head.split(|&byte| byte == b'\n').skip(1);
    let value = lines.find_map(|line| {
        let (name, value) = line.split_at_checked(5)?;
        name.eq_ignore_ascii_case(b"host:").then_some(value)
    })?;
    let value = std::str::from_utf8(value.trim_ascii()).ok()?;
    let authority = http::uri::Authority::try_from(value).ok()?;
    Some(authority.host().to_ascii_lowercase())
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
            (b"\x16\x03\x01\x02\x00\x01", Detected::Undecided),
            (
                b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00",
                Detected::Opaque,
            ),
            (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", Detected::Opaque),
            (b"CONNECT {\"verbose\":false}\r\n", Detected::Opaque),
            (b"PING\r\n", Detected::Opaque),
            (b"A B\0", Detected::Opaque),
        ] {
            assert_eq!(detect(bytes), expected, "{}", bytes.escape_ascii());
        }
    }

    fn client_hello_to(name: &str) -> Vec<u8> {
        let config = rustls::ClientConfig::builder_with_provider(std::sync::Arc::new(
            rustls::crypto::aws_lc_rs::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
        let name = name.to_owned().try_into().expect("a name");
        let mut client =
            rustls::ClientConnection::new(std::sync::Arc::new(config), name).expect("a client");
        let mut hello = Vec::new();
        client.write_tls(&mut hello).expect("a hello");
        hello
    }

    #[test]
    fn tls_is_told_by_its_whole_hello_and_names_the_server() {
        let hello = client_hello_to("db.example");
        for cut in 3..hello.len() {
            assert_eq!(detect(&hello[..cut]), Detected::Undecided, "{cut}");
        }
        assert_eq!(detect(&hello), Detected::Tls);
        assert_eq!(
            ServerName::of(&hello),
            Some(ServerName::Sni("db.example".into()))
        );
        assert_eq!(ServerName::of(&client_hello_to("192.0.2.1")), None);
    }

    #[test]
    fn an_http_head_names_the_server() {
        let host = |head: &[u8]| ServerName::of(head);
        let named = Some(ServerName::Host("a.example".into()));
        assert_eq!(
            host(b"GET / HTTP/1.1\r\nhOsT:  A.example:81 \r\n\r\n"),
            named
        );
        assert_eq!(host(b"GET / HTTP/1.1\r\nx: y\r\n\r\n"), None);
        assert_eq!(host(b"GET / HTTP/1.1\r\nhost: \xff\r\n\r\n"), None);
        assert_eq!(host(b"*1\r\n$4\r\nPING\r\n"), None);
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
