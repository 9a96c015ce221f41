//! An HTTP/1.1 client that writes exactly the bytes it is given, and reads what comes back strictly.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

/// How long a read waits before the test fails.
const READ_TIMEOUT: Duration = Duration::from_secs(20);
const MAX_HEAD: usize = 1024 * 1024;

/// A loopback address.
pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Names and values, in order.
pub type Fields = Vec<(String, String)>;

/// The head of an answer, and its body where one was read.
#[derive(Debug, Clone, Default)]
pub struct Response {
    pub status: u16,
    /// The head, byte for byte (Latin-1).
    pub head: String,
    pub headers: Fields,
    pub body: Vec<u8>,
    pub trailers: Fields,
}

impl Response {
    /// The value of a header, whatever the case of its name.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    pub fn trailer(&self, name: &str) -> Option<&str> {
        find(&self.trailers, name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The closed reason in `Proxy-Status` that says why a sidecar answered itself.
    pub fn reason(&self) -> Option<&str> {
        reason(self.header("proxy-status")?)
    }

    fn parse(head: Vec<u8>) -> Result<Self> {
        let head: String = head.iter().map(|byte| char::from(*byte)).collect();
        let mut lines = head.split("\r\n");
        let status_line = lines.next().unwrap_or_default();
        let status = status_line
            .strip_prefix("HTTP/1.1 ")
            .or_else(|| status_line.strip_prefix("HTTP/1.0 "))
            .and_then(|rest| rest.get(..3))
            .and_then(|code| code.parse().ok())
            .with_context(|| format!("a status line, not {status_line:?}"))?;
        let headers = fields(lines)?;
        Ok(Self {
            status,
            headers,
            head: head.clone(),
            ..Self::default()
        })
    }

    fn has_no_body(&self) -> bool {
        self.status < 200 || self.status == 204 || self.status == 304
    }
}

/// The reason in a `Proxy-Status` of ours: `outrider; error=…; details="REASON…"`.
pub fn reason(proxy_status: &str) -> Option<&str> {
    let (_, details) = proxy_status
        .strip_prefix("outrider;")?
        .split_once("details=\"")?;
    let end = details.find(|c: char| !(c.is_ascii_lowercase() || c == '_'))?;
    Some(&details[..end])
}

fn find<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = fields
        .iter()
        .find(|(field, _)| field.eq_ignore_ascii_case(name))?;
    Some(&found.1)
}

fn fields<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Fields> {
    lines
        .filter(|line| !line.is_empty())
        .map(|line| {
            let (name, value) = line
                .split_once(':')
                .with_context(|| format!("a field, not {line:?}"))?;
            Ok((name.to_owned(), value.trim().to_owned()))
        })
        .collect()
}

/// A connection that stays open between requests.
#[derive(Debug)]
pub struct Connection {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub fn open(address: SocketAddr) -> Result<Self> {
        Self::on(TcpStream::connect(address).with_context(|| format!("connect {address}"))?)
    }

    /// From an address of this machine, such as any of 127.0.0.0/8.
    pub fn open_from(source: Ipv4Addr, address: SocketAddr) -> Result<Self> {
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
        bind(&socket, &SocketAddr::from((source, 0)))?;
        connect(&socket, &address).with_context(|| format!("connect {address}"))?;
        Self::on(socket.into())
    }

    fn on(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        stream.set_write_timeout(Some(READ_TIMEOUT))?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
        })
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.stream.write_all(bytes.as_ref()).context("send")
    }

    pub fn finish_sending(&self) -> Result<()> {
        Ok(self.stream.shutdown(Shutdown::Write)?)
    }

    /// Sends a request without a body and reads its answer.
    pub fn get(&mut self, host: &str, path: &str) -> Result<Response> {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"))?;
        self.response()
    }

    /// The next answer, 1xx included, with its body.
    pub fn response(&mut self) -> Result<Response> {
        let mut response = self.head()?;
        if response.has_no_body() {
            return Ok(response);
        }
        if let Some(coding) = response.header("transfer-encoding") {
            ensure!(coding.eq_ignore_ascii_case("chunked"), "coding {coding:?}");
            (response.body, response.trailers) = self.chunks()?;
        } else if let Some(length) = response.header("content-length") {
            let length = length
                .parse()
                .with_context(|| format!("length {length:?}"))?;
            response.body = self.exactly(length)?;
        } else {
            while self.fill()? > 0 {}
            response.body = std::mem::take(&mut self.buffer);
        }
        Ok(response)
    }

    /// The next answer's head alone; also what answers a HEAD.
    pub fn head(&mut self) -> Result<Response> {
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            ensure!(self.buffer.len() < MAX_HEAD, "a head that does not end");
            if self.fill()? == 0 {
                bail!("closed before an answer, after {:?}", self.buffered());
            }
        };
        let head: Vec<u8> = self.buffer.drain(..end + 4).take(end).collect();
        Response::parse(head)
    }

    /// The next `length` bytes.
    pub fn exactly(&mut self, length: usize) -> Result<Vec<u8>> {
        while self.buffer.len() < length {
            if self.fill()? == 0 {
                bail!("closed after {} of {length} bytes", self.buffer.len());
            }
        }
        Ok(self.buffer.drain(..length).collect())
    }

    fn chunks(&mut self) -> Result<(Vec<u8>, Fields)> {
        let mut body = Vec::new();
        loop {
            let size = self.line()?;
            let digits = size.split(';').next().unwrap_or_default();
            let length = usize::from_str_radix(digits, 16)
                .with_context(|| format!("a chunk's size, not {size:?}"))?;
            if length == 0 {
                break;
            }
            body.extend(self.exactly(length)?);
            ensure!(self.exactly(2)? == b"\r\n", "a chunk ends with CRLF");
        }
        let mut lines = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            lines.push(line);
        }
        Ok((body, fields(lines.iter().map(String::as_str))?))
    }

    fn line(&mut self) -> Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).take(end).collect();
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            if self.fill()? == 0 {
                bail!("closed within a line, after {:?}", self.buffered());
            }
        }
    }

    /// What was read and not yet asked for.
    pub fn take_buffered(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    /// Waits until the peer closes, and returns what came before that. Fails if it does not close.
    pub fn rest(&mut self) -> Result<Vec<u8>> {
        while self.fill().context("waiting for the peer to close")? > 0 {}
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Whether the peer closes without another byte.
    pub fn closed(&mut self) -> Result<()> {
        let rest = self.rest()?;
        ensure!(
            rest.is_empty(),
            "bytes before the close: {:?}",
            String::from_utf8_lossy(&rest)
        );
        Ok(())
    }

    /// Whether nothing has come within `period`, and the connection is open.
    pub fn silent(&mut self, period: Duration) -> Result<bool> {
        self.stream.set_read_timeout(Some(period))?;
        let mut one = [0; 1];
        let silent = match self.stream.peek(&mut one) {
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            Ok(_) => false,
        };
        self.stream.set_read_timeout(Some(READ_TIMEOUT))?;
        Ok(silent && self.buffer.is_empty())
    }

    fn buffered(&self) -> String {
        String::from_utf8_lossy(&self.buffer).into_owned()
    }

    /// Reads once; 0 when the peer has closed, also by a reset.
    fn fill(&mut self) -> Result<usize> {
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(count) => {
                self.buffer.extend_from_slice(&chunk[..count]);
                Ok(count)
            }
            Err(error) if is_reset(&error) => Ok(0),
            Err(error) => Err(error).with_context(|| format!("read, after {:?}", self.buffered())),
        }
    }
}

pub fn is_reset(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
    )
}

/// One request on a connection of its own.
pub fn get(address: SocketAddr, host: &str, path: &str) -> Result<Response> {
    Connection::open(address)?.get(host, path)
}

/// One request on a connection of its own, written as it is given.
pub fn exchange(address: SocketAddr, request: impl AsRef<[u8]>) -> Result<Response> {
    let mut connection = Connection::open(address)?;
    connection.send(request)?;
    connection.response()
}

/// What an endpoint without a `Host` of its own answers: `/metrics`, `/ready`.
pub fn fetch(port: u16, path: &str) -> Result<Response> {
    let mut connection = Connection::open(local(port))?;
    connection.send(format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    ))?;
    connection.response()
}
