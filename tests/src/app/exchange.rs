//! One connection of the app: requests read as an application of the trusting kind reads them, and
//! answered by path and behaviour.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};

use super::behaviour::Answer;
use super::{Request, State, lock};

/// What comes after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Request,
    Close,
    /// The connection is ended with a RST.
    Reset,
}

impl Next {
    fn after(close: bool) -> Self {
        if close { Self::Close } else { Self::Request }
    }
}

/// One connection.
pub(super) struct Exchange<'a> {
    reader: BufReader<Counted<'a>>,
    writer: &'a TcpStream,
    state: &'a State,
    number: usize,
}

struct Counted<'a> {
    stream: &'a TcpStream,
    received: &'a AtomicU64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        self.received.fetch_add(count as u64, Ordering::SeqCst);
        Ok(count)
    }
}

#[derive(Clone, Copy)]
enum Framing {
    Length(u64),
    Chunked,
}

impl<'a> Exchange<'a> {
    pub(super) fn new(stream: &'a TcpStream, state: &'a State, number: usize) -> io::Result<Self> {
        let reader = BufReader::with_capacity(
            64 * 1024,
            Counted {
                stream,
                received: &state.received,
            },
        );
        Ok(Self {
            reader,
            writer: stream,
            state,
            number,
        })
    }

    pub(super) fn run(&mut self) -> io::Result<Next> {
        while let Some(head) = self.head()? {
            let next = self.answer(head)?;
            if next != Next::Request {
                return Ok(next);
            }
        }
        Ok(Next::Close)
    }

    fn head(&mut self) -> io::Result<Option<String>> {
        let mut head = Vec::new();
        loop {
            let before = head.len();
            self.reader.read_until(b'\n', &mut head)?;
            if head.len() == before {
                return Ok(None);
            }
            if &head[before..] == b"\r\n" || &head[before..] == b"\n" {
                break;
            }
        }
        Ok(Some(head.iter().map(|byte| char::from(*byte)).collect()))
    }

    /// Answers one request.
    fn answer(&mut self, head: String) -> io::Result<Next> {
        let mut words = head.split(' ');
        let method = words.next().unwrap_or_default().to_owned();
        let path = words.next().unwrap_or_default().to_owned();
        let mut request = Request {
            head,
            method,
            path,
            trailers: String::new(),
            body: Vec::new(),
            connection: self.number,
        };
        let framing = framing(&request)?;
        let route = request
            .path
            .split('?')
            .next()
            .unwrap_or_default()
            .to_owned();
        match route.as_str() {
            "/early" => {
                self.record(request);
                self.send(b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 5\r\n\r\nearly")?;
                return Ok(Next::Close);
            }
            "/continue" => self.send(b"HTTP/1.1 100 Continue\r\n\r\n")?,
            "/stall" => self.state.gate.pass(),
            _ => {}
        }
        let length = self.body(framing, &mut request)?;
        let close = request
            .header("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let head_only = request.method == "HEAD";
        self.record(request.clone());
        match self.state.behaviour.next() {
            Answer::Usual => {}
            Answer::Status(status) => {
                self.send(status_only(status).as_bytes())?;
                return Ok(Next::after(close));
            }
            Answer::Reset { after } => {
                self.send(after)?;
                return Ok(Next::Reset);
            }
        }
        match self.state.forward(&request) {
            Some(forwarded) => self.send(&forwarded.answer())?,
            None => self.respond(&route, head_only, length, &request)?,
        }
        Ok(Next::after(close || route == "/close"))
    }

    fn record(&self, request: Request) {
        lock(&self.state.requests).push(request);
    }

    fn respond(
        &mut self,
        route: &str,
        head_only: bool,
        length: u64,
        request: &Request,
    ) -> io::Result<()> {
        let number = |prefix: &str| route.strip_prefix(prefix)?.parse::<usize>().ok();
        if let Some(count) = number("/zeros/") {
            return self.zeros(count, head_only);
        }
        if let Some(status) = number("/status/") {
            return self.send(status_only(status).as_bytes());
        }
        let extra = match (route, number("/header/")) {
            ("/chunked", _) => {
                return self.send(
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
                      5\r\nfirst\r\n7;ext=1\r\n second\r\n0\r\nX-Sum: 42\r\n\r\n",
                );
            }
            ("/hints", _) => {
                self.send(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")?;
                String::new()
            }
            ("/drip", _) => {
                self.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n1")?;
                self.state.gate.pass();
                return self.send(b"2");
            }
            ("/hold", _) => {
                self.state.gate.pass();
                String::new()
            }
            (_, Some(size)) => format!("X-Large: {}\r\n", "v".repeat(size)),
            _ => String::new(),
        };
        let body = match route {
            "/echo" => request.body.clone(),
            "/head" => request.head.chars().map(|c| c as u8).collect(),
            "/sink" | "/stall" => length.to_string().into_bytes(),
            _ => b"ok".to_vec(),
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\nX-Case-Kept: yes\r\nX-Odd-CASE: yes\r\n{extra}Content-Length: {}\r\n\r\n",
            body.len()
        );
        let mut message = head.into_bytes();
        if !head_only {
            message.extend(body);
        }
        self.send(&message)
    }

    fn zeros(&mut self, mut count: usize, head_only: bool) -> io::Result<()> {
        self.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {count}\r\n\r\n").as_bytes())?;
        let block = vec![0; 64 * 1024];
        while count > 0 && !head_only {
            let part = count.min(block.len());
            self.send(&block[..part])?;
            count -= part;
        }
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut writer = self.writer;
        writer.write_all(bytes)
    }

    /// Reads the body, and keeps its beginning.
    fn body(&mut self, framing: Framing, request: &mut Request) -> io::Result<u64> {
        match framing {
            Framing::Length(length) => self.read_exactly(length, &mut request.body),
            Framing::Chunked => self.chunks(request),
        }
    }

    fn chunks(&mut self, request: &mut Request) -> io::Result<u64> {
        let mut total = 0;
        loop {
            let line = self.line()?;
            let digits = line.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(digits, 16)
                .map_err(|_| io::Error::new(ErrorKind::InvalidData, line.clone()))?;
            if size == 0 {
                break;
            }
            total += self.read_exactly(size, &mut request.body)?;
            self.line()?;
        }
        loop {
            let line = self.line()?;
            if line.trim().is_empty() {
                return Ok(total);
            }
            request.trailers.push_str(&line);
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.reader.read_line(&mut line)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(line),
        }
    }

    fn read_exactly(&mut self, length: u64, keep: &mut Vec<u8>) -> io::Result<u64> {
        let mut left = length;
        while left > 0 {
            let available = self.reader.fill_buf()?;
            if available.is_empty() {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let part = available
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            let room = (64 * 1024_usize).saturating_sub(keep.len()).min(part);
            keep.extend_from_slice(&available[..room]);
            self.reader.consume(part);
            left -= part as u64;
        }
        Ok(length)
    }
}

fn status_only(status: impl Into<usize>) -> String {
    let status = status.into();
    let framing = if status == 204 || status == 304 {
        ""
    } else {
        "Content-Length: 0\r\n"
    };
    format!("HTTP/1.1 {status} Some\r\nETag: \"e\"\r\n{framing}\r\n")
}

/// As an application of the trusting kind reads it: the first of what it finds.
fn framing(request: &Request) -> io::Result<Framing> {
    if !request.headers("transfer-encoding").is_empty() {
        return Ok(Framing::Chunked);
    }
    let Some(length) = request.header("content-length") else {
        return Ok(Framing::Length(0));
    };
    length
        .parse()
        .map(Framing::Length)
        .map_err(|_| ErrorKind::InvalidData.into())
}
