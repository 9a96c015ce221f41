//! Where each HTTP/1.1 request ends, read as strictly as RFC 9112 is written.
//!
//! A request that two parsers could frame differently is how requests are smuggled, so ours never
//! reaches the parser: this state machine runs over the bytes before hyper sees them and stops at
//! the first one that is ambiguous. It looks only at what frames a message (line ends,
//! `Content-Length`, `Transfer-Encoding`, chunk sizes) and at what names its parts. A head, a chunk's
//! line and trailers pass whole or not at all.

use crate::detect::is_token;

/// The longest line of a chunk's size with its extensions, bytes.
const MAX_CHUNK_LINE: usize = 256;
/// The longest head, and the longest trailers, bytes.
pub const MAX_HEAD: usize = 64 * 1024;
/// The most headers of a request, and the most trailers: hyper's and Envoy's limit.
const MAX_HEADERS: usize = 100;

/// Why the bytes of a request are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("a line ends without CR LF, or holds a CR or NUL")]
    LineEnd,
    #[error("the request line is not `method SP target SP HTTP/1.x`")]
    RequestLine,
    #[error("a header has no name, or one that is no token right before its colon")]
    HeaderName,
    #[error("a header's value holds a control character")]
    HeaderValue,
    #[error("a header line is folded")]
    FoldedHeader,
    #[error("Content-Length stands beside Transfer-Encoding")]
    LengthWithEncoding,
    #[error("more than one Content-Length")]
    RepeatedLength,
    #[error("Content-Length is not a decimal number")]
    BadLength,
    #[error("Transfer-Encoding is not exactly `chunked`")]
    BadEncoding,
    #[error("Transfer-Encoding in an HTTP/1.0 request")]
    EncodingInHttp10,
    #[error("an HTTP/1.0 request whose body only the close would end")]
    UnframedBody,
    #[error("a chunk is malformed")]
    BadChunk,
    #[error("the head or the trailers are over 64 KiB, or over 100 headers")]
    TooLarge,
}

/// What comes next in the stream of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Length(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
    /// The request asked for another protocol: nothing is read on until that is decided.
    Undecided,
    /// Another protocol: no longer ours to look at.
    Raw,
}

/// What a head says about the message.
#[derive(Default)]
struct Head {
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
    http10: bool,
    needs_length: bool,
}

/// The position of one connection in its stream of requests.
#[derive(Debug)]
pub struct Framing {
    state: State,
    /// How much of an unfinished unit (head, chunk line, trailers) was searched for its end.
    scanned: usize,
}

/// What may go to the parser, and why the rest may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that may pass.
    pub passed: usize,
    pub stop: Stop,
}

/// Why not all bytes pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// They do.
    End,
    /// What follows is the beginning of a unit that passes whole or not at all: to be given again,
    /// with more.
    Incomplete,
    /// An upgrade is to be decided first.
    Undecided,
    Violation(Violation),
}

impl Default for Framing {
    fn default() -> Self {
        Self {
            state: State::Head,
            scanned: 0,
        }
    }
}

impl Framing {
    /// Reads on over `bytes`, which begin where the last call stopped.
    pub fn advance(&mut self, bytes: &[u8]) -> Progress {
        let mut passed = 0;
        loop {
            let rest = &bytes[passed..];
            if rest.is_empty() {
                return Progress {
                    passed,
                    stop: Stop::End,
                };
            }
            let unit = match self.state {
                State::Raw => Ok(Some(rest.len())),
                State::Undecided => {
                    return Progress {
                        passed,
                        stop: Stop::Undecided,
                    };
                }
                State::Head => self.head(rest),
                State::Length(left) => Ok(self.skip(rest, left, State::Length, State::Head)),
                State::ChunkSize => self.chunk_size(rest),
                State::ChunkData(left) => {
                    Ok(self.skip(rest, left, State::ChunkData, State::ChunkEnd))
                }
                State::ChunkEnd => self.chunk_end(rest),
                State::Trailers => self.trailers(rest),
            };
            let stop = match unit {
                Ok(Some(length)) => {
                    passed += length;
                    self.scanned = 0;
                    continue;
                }
                Ok(None) => Stop::Incomplete,
                Err(violation) => Stop::Violation(violation),
            };
            return Progress { passed, stop };
        }
    }

    /// Whether an upgrade is to be decided before anything is read on.
    pub fn is_undecided(&self) -> bool {
        self.state == State::Undecided
    }

    /// Whether a head comes next, or has begun: no request is being read.
    pub fn is_in_head(&self) -> bool {
        self.state == State::Head
    }

    /// The upgrade was agreed to (`true`: the rest is another protocol) or not.
    pub fn decide(&mut self, upgraded: bool) {
        if self.is_undecided() {
            self.state = if upgraded { State::Raw } else { State::Head };
        }
    }

    fn skip(
        &mut self,
        rest: &[u8],
        left: u64,
        more: fn(u64) -> State,
        done: State,
    ) -> Option<usize> {
        let taken = left.min(rest.len() as u64);
        self.state = if taken == left {
            done
        } else {
            more(left - taken)
        };
        Some(taken as usize)
    }

    fn head(&mut self, rest: &[u8]) -> Result<Option<usize>, Violation> {
        // Empty lines before a request line are tolerated (RFC 9112, section 2.2): by the parser
        // too, and they frame nothing.
        if rest.starts_with(b"\r\n") {
            return Ok(Some(2));
        }
        let Some(end) = self.block(rest)? else {
            return Ok(None);
        };
        self.state = read_head(&rest[..end])?.body()?;
        Ok(Some(end))
    }

    fn trailers(&mut self, rest: &[u8]) -> Result<Option<usize>, Violation> {
        // The empty line alone ends trailers that are none.
        let end = if rest.starts_with(b"\r\n") {
            2
        } else {
            let Some(end) = self.block(rest)? else {
                return Ok(None);
            };
            for (index, line) in lines(&rest[..end - 2]).enumerate() {
                if index == MAX_HEADERS {
                    return Err(Violation::TooLarge);
                }
                check_header(line?)?;
            }
            end
        };
        self.state = State::Head;
        Ok(Some(end))
    }

    /// The length of the block of lines that `rest` begins with (`CR LF CR LF` ends it).
    fn block(&mut self, rest: &[u8]) -> Result<Option<usize>, Violation> {
        let mut at = self.scanned;
        while let Some(found) = rest[at..].iter().position(|&byte| byte == b'\n') {
            at += found + 1;
            let line = &rest[..at];
            // At once, not only at an end that another parser has found before.
            if !line.ends_with(b"\r\n") {
                return Err(Violation::LineEnd);
            }
            if line.len() > MAX_HEAD {
                return Err(Violation::TooLarge);
            }
            if line.ends_with(b"\r\n\r\n") {
                return Ok(Some(at));
            }
        }
        if rest.len() > MAX_HEAD {
            return Err(Violation::TooLarge);
        }
        self.scanned = rest.len();
        Ok(None)
    }

    fn chunk_size(&mut self, rest: &[u8]) -> Result<Option<usize>, Violation> {
        let searched = &rest[..rest.len().min(MAX_CHUNK_LINE)];
        match searched.iter().position(|&byte| byte == b'\n') {
            Some(end) => {
                let size = read_chunk_size(&rest[..=end])?;
                self.state = if size == 0 {
                    State::Trailers
                } else {
                    State::ChunkData(size)
                };
                Ok(Some(end + 1))
            }
            None if searched.len() == MAX_CHUNK_LINE => Err(Violation::BadChunk),
            None => Ok(None),
        }
    }

    fn chunk_end(&mut self, rest: &[u8]) -> Result<Option<usize>, Violation> {
        match rest {
            [b'\r'] => Ok(None),
            [b'\r', b'\n', ..] => {
                self.state = State::ChunkSize;
                Ok(Some(2))
            }
            _ => Err(Violation::BadChunk),
        }
    }
}

/// The lines of a block without their line ends, each checked.
fn lines(bytes: &[u8]) -> impl Iterator<Item = Result<&[u8], Violation>> {
    bytes.split_inclusive(|&byte| byte == b'\n').map(|line| {
        let line = line.strip_suffix(b"\r\n").ok_or(Violation::LineEnd)?;
        if line.iter().any(|&byte| byte == b'\r' || byte == 0) {
            return Err(Violation::LineEnd);
        }
        Ok(line)
    })
}

/// Reads a whole head, its empty line included.
fn read_head(bytes: &[u8]) -> Result<Head, Violation> {
    let mut head = Head::default();
    let mut lines = lines(&bytes[..bytes.len() - 2]);
    head.request_line(lines.next().unwrap_or(Err(Violation::RequestLine))?)?;
    for (index, line) in lines.enumerate() {
        if index == MAX_HEADERS {
            return Err(Violation::TooLarge);
        }
        head.header(line?)?;
    }
    Ok(head)
}

/// `name: value` (RFC 9110, section 5.5), split.
fn check_header(line: &[u8]) -> Result<(&[u8], &[u8]), Violation> {
    if line.starts_with(b" ") || line.starts_with(b"\t") {
        return Err(Violation::FoldedHeader);
    }
    let name = line.iter().take_while(|&&byte| is_token(byte)).count();
    let (name, value) = line.split_at(name);
    let value = value.strip_prefix(b":").ok_or(Violation::HeaderName)?;
    if name.is_empty() {
        return Err(Violation::HeaderName);
    }
    if value.iter().any(|&byte| is_control(byte)) {
        return Err(Violation::HeaderValue);
    }
    Ok((name, value.trim_ascii()))
}

/// Not in a header's value: controls other than the tab (RFC 9110, section 5.5).
fn is_control(byte: u8) -> bool {
    (byte < b' ' && byte != b'\t') || byte == 0x7f
}

impl Head {
    /// `method SP target SP HTTP/1.x` (RFC 9112, section 3).
    fn request_line(&mut self, line: &[u8]) -> Result<(), Violation> {
        let mut parts = line.split(|&byte| byte == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Violation::RequestLine);
        };
        let method_is_fine = !method.is_empty() && method.iter().all(|&byte| is_token(byte));
        let target_is_fine = !target.is_empty() && target.iter().all(u8::is_ascii_graphic);
        self.http10 = version == b"HTTP/1.0";
        if !method_is_fine || !target_is_fine || !(self.http10 || version == b"HTTP/1.1") {
            return Err(Violation::RequestLine);
        }
        self.upgrade = method == b"CONNECT";
        self.needs_length = matches!(method, b"POST" | b"PUT" | b"PATCH");
        Ok(())
    }

    fn header(&mut self, line: &[u8]) -> Result<(), Violation> {
        let (name, value) = check_header(line)?;
        // Only these letters begin the names that frame a message.
        if !matches!(name[0] | 0x20, b'c' | b't' | b'u') {
            return Ok(());
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            self.content_length(value)?;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Violation::BadEncoding);
            }
            self.chunked = true;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.upgrade = true;
        }
        Ok(())
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), Violation> {
        if self.length.is_some() {
            return Err(Violation::RepeatedLength);
        }
        // 18 digits are below 2^63: no parser overflows on them.
        if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
            return Err(Violation::BadLength);
        }
        self.length = Some(
            value
                .iter()
                .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')),
        );
        Ok(())
    }

    /// What follows the head (RFC 9112, section 6.3).
    fn body(&self) -> Result<State, Violation> {
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(Violation::LengthWithEncoding),
            (true, None) if self.http10 => Err(Violation::EncodingInHttp10),
            (true, None) => Ok(State::ChunkSize),
            (false, None) if self.http10 && self.needs_length => Err(Violation::UnframedBody),
            (false, None | Some(0)) if self.upgrade => Ok(State::Undecided),
            (false, None | Some(0)) => Ok(State::Head),
            (false, Some(length)) => Ok(State::Length(length)),
        }
    }
}

/// RFC 9112, section 7.1: `1*HEXDIG [ chunk-ext ] CRLF`.
fn read_chunk_size(line: &[u8]) -> Result<u64, Violation> {
    let line = line.strip_suffix(b"\r\n").ok_or(Violation::LineEnd)?;
    let digits = line
        .iter()
        .take_while(|byte| byte.is_ascii_hexdigit())
        .count();
    let (size, extension) = line.split_at(digits);
    let extension_is_fine = extension.is_empty()
        || (extension[0] == b';'
            && extension
                .iter()
                .all(|&byte| byte == b'\t' || (b' '..0x7f).contains(&byte)));
    // 15 digits are below 2^60.
    if size.is_empty() || size.len() > 15 || !extension_is_fine {
        return Err(Violation::BadChunk);
    }
    let size = std::str::from_utf8(size).map_err(|_| Violation::BadChunk)?;
    u64::from_str_radix(size, 16).map_err(|_| Violation::BadChunk)
}

#[cfg(test)]
#[path = "framing_tests.rs"]
mod tests;
