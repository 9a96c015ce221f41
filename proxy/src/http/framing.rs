//! Where each HTTP/1.1 request ends, read as strictly as RFC 9112 is written.
//!
//! A request that two parsers could frame differently is how requests are smuggled, so ours never
//! reaches the parser: this state machine runs over the bytes before hyper sees them and stops at
//! the first one that is ambiguous. It looks only at what frames a message (line ends,
//! `Content-Length`, `Transfer-Encoding`, chunk sizes); everything else is hyper's to judge.

/// The longest line of a chunk's size with its extensions, bytes.
const MAX_CHUNK_LINE: usize = 256;
/// The longest head, and the longest trailers, bytes.
pub const MAX_HEAD: usize = 64 * 1024;

/// Why the bytes of a request are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("a line ends without CR LF, or holds a CR or NUL")]
    LineEnd,
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
    #[error("the head or the trailers are over 64 KiB")]
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
    /// The part of a head or a line that came before.
    partial: Vec<u8>,
}

impl Default for Framing {
    fn default() -> Self {
        Self {
            state: State::Head,
            partial: Vec::new(),
        }
    }
}

impl Framing {
    /// Reads on over `bytes`, and tells how many of them may go to the parser: all, unless an
    /// upgrade is to be decided first.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<usize, Violation> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            at += match self.state {
                State::Raw => rest.len(),
                State::Undecided => break,
                State::Head => self.head(rest)?,
                State::Length(left) => self.skip(rest, left, State::Length, State::Head),
                State::ChunkSize => self.chunk_size(rest)?,
                State::ChunkData(left) => self.skip(rest, left, State::ChunkData, State::ChunkEnd),
                State::ChunkEnd => self.chunk_end(rest)?,
                State::Trailers => self.trailers(rest)?,
            };
        }
        Ok(at)
    }

    /// Whether an upgrade is to be decided before anything is read on.
    pub fn is_undecided(&self) -> bool {
        self.state == State::Undecided
    }

    /// Whether a head has begun and not ended: the time for it is bounded.
    pub fn is_inside_head(&self) -> bool {
        self.state == State::Head && !self.partial.is_empty()
    }

    /// The upgrade was agreed to (`true`: the rest is another protocol) or not.
    pub fn decide(&mut self, upgraded: bool) {
        if self.is_undecided() {
            self.state = if upgraded { State::Raw } else { State::Head };
        }
    }

    fn skip(&mut self, rest: &[u8], left: u64, more: fn(u64) -> State, done: State) -> usize {
        let taken = left.min(rest.len() as u64);
        self.state = if taken == left {
            done
        } else {
            more(left - taken)
        };
        taken as usize
    }

    /// Takes bytes up to the empty line that ends a head.
    fn head(&mut self, rest: &[u8]) -> Result<usize, Violation> {
        let Some(taken) = self.take_block(rest)? else {
            return Ok(rest.len());
        };
        let head = if self.partial.is_empty() {
            read_head(&rest[..taken])?
        } else {
            read_head(&std::mem::take(&mut self.partial))?
        };
        self.state = head.body()?;
        Ok(taken)
    }

    fn trailers(&mut self, rest: &[u8]) -> Result<usize, Violation> {
        // The empty line alone ends trailers that are none.
        if self.partial.is_empty() && rest.starts_with(b"\r\n") {
            self.state = State::Head;
            return Ok(2);
        }
        if self.partial == b"\r" && rest[0] == b'\n' {
            self.partial.clear();
            self.state = State::Head;
            return Ok(1);
        }
        let Some(taken) = self.take_block(rest)? else {
            return Ok(rest.len());
        };
        let block = std::mem::take(&mut self.partial);
        check_lines(if block.is_empty() {
            &rest[..taken]
        } else {
            &block
        })?;
        self.state = State::Head;
        Ok(taken)
    }

    /// The length of the part of `rest` that ends the block (`CR LF CR LF`); `None` keeps it all
    /// for later. Bytes before it are in `partial` then.
    fn take_block(&mut self, rest: &[u8]) -> Result<Option<usize>, Violation> {
        if self.partial.is_empty() {
            // Empty lines before a request line are tolerated (RFC 9112, section 2.2): by the
            // parser too, and they frame nothing.
            if self.state == State::Head && rest.starts_with(b"\r\n") {
                return Ok(Some(2));
            }
            if let Some(end) = find_end(rest, 0) {
                return Ok(Some(end));
            }
            self.partial.extend_from_slice(rest);
        } else {
            let before = self.partial.len();
            self.partial.extend_from_slice(rest);
            if self.state == State::Head && self.partial.starts_with(b"\r\n") {
                self.partial.truncate(2);
                return Ok(Some(2 - before));
            }
            if let Some(end) = find_end(&self.partial, before.saturating_sub(3)) {
                self.partial.truncate(end);
                return Ok(Some(end - before));
            }
        }
        check_partial(&self.partial)?;
        if self.partial.len() > MAX_HEAD {
            return Err(Violation::TooLarge);
        }
        Ok(None)
    }

    fn chunk_size(&mut self, rest: &[u8]) -> Result<usize, Violation> {
        let (line, taken) = match rest.iter().position(|&byte| byte == b'\n') {
            Some(end) => (&rest[..=end], end + 1),
            None => (rest, rest.len()),
        };
        self.partial.extend_from_slice(line);
        if self.partial.len() > MAX_CHUNK_LINE {
            return Err(Violation::BadChunk);
        }
        if self.partial.last() == Some(&b'\n') {
            let size = read_chunk_size(&self.partial)?;
            self.partial.clear();
            self.state = if size == 0 {
                State::Trailers
            } else {
                State::ChunkData(size)
            };
        }
        Ok(taken)
    }

    fn chunk_end(&mut self, rest: &[u8]) -> Result<usize, Violation> {
        let expected = if self.partial.is_empty() {
            b'\r'
        } else {
            b'\n'
        };
        if rest[0] != expected {
            return Err(Violation::BadChunk);
        }
        if expected == b'\n' {
            self.partial.clear();
            self.state = State::ChunkSize;
        } else {
            self.partial.push(b'\r');
        }
        Ok(1)
    }
}

/// The index after the first `CR LF CR LF` that ends at or after `from + 4`.
fn find_end(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(found) = bytes[at..].iter().position(|&byte| byte == b'\n') {
        let end = at + found + 1;
        if bytes[..end].ends_with(b"\r\n\r\n") {
            return Some(end);
        }
        at = end;
    }
    None
}

/// Refuses what can never become a head, as soon as it is seen: two line ends without CR would
/// otherwise wait for an end that another parser has already found.
fn check_partial(bytes: &[u8]) -> Result<(), Violation> {
    let complete = bytes
        .iter()
        .rposition(|&byte| byte == b'\n')
        .map_or(0, |last| last + 1);
    check_lines(&bytes[..complete])
}

fn check_lines(bytes: &[u8]) -> Result<(), Violation> {
    lines(bytes).try_for_each(|line| line.map(|_| ()))
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

fn read_head(bytes: &[u8]) -> Result<Head, Violation> {
    if bytes.len() > MAX_HEAD {
        return Err(Violation::TooLarge);
    }
    let mut head = Head::default();
    let mut lines = lines(bytes);
    if let Some(line) = lines.next() {
        let line = line?;
        head.http10 = line.ends_with(b" HTTP/1.0");
        head.upgrade = line.starts_with(b"CONNECT ");
        head.needs_length = [&b"POST "[..], b"PUT ", b"PATCH "]
            .iter()
            .any(|method| line.starts_with(method));
    }
    for line in lines {
        head.header(line?)?;
    }
    Ok(head)
}

impl Head {
    fn header(&mut self, line: &[u8]) -> Result<(), Violation> {
        match line.first() {
            Some(b' ' | b'\t') => return Err(Violation::FoldedHeader),
            // Only these letters begin the names that frame a message.
            Some(b'c' | b'C' | b't' | b'T' | b'u' | b'U') => {}
            _ => return Ok(()),
        }
        let Some(colon) = line.iter().position(|&byte| byte == b':') else {
            return Ok(());
        };
        // A name with space before the colon is refused by the parser; read as if it had none.
        let (name, value) = (
            line[..colon].trim_ascii_end(),
            line[colon + 1..].trim_ascii(),
        );
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
