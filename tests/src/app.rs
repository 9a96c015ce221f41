//! An HTTP/1.1 application behind a sidecar that keeps every head it was sent, byte for byte, and
//! answers by path:
//!
//! | path | answer |
//! |---|---|
//! | `/echo` | the request's body, with `X-Case-Kept: yes` |
//! | `/head` | the request's head, as it arrived |
//! | `/sink` | the number of bytes of the request's body |
//! | `/zeros/N` | N bytes |
//! | `/chunked` | two chunks and the trailer `X-Sum: 42` |
//! | `/hints` | 103, then 200 |
//! | `/continue` | 100 by itself before the body is read |
//! | `/early` | 413, before the body is read, and then close |
//! | `/status/N` | that status |
//! | `/header/N` | a header `X-Large` of N bytes |
//! | `/close` | 200, and then it closes without having said so |
//! | `/hold` | 200 once [`App::release`] was called |
//! | `/stall` | takes no byte of the body until [`App::release`] was called |

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::Result;

/// What arrived.
#[derive(Debug, Clone)]
pub struct Request {
    /// Request line and fields, byte for byte (Latin-1), each line ending with `\r\n`.
    pub head: String,
    pub method: String,
    pub path: String,
    /// Of a chunked request.
    pub trailers: String,
    /// The first 64 KiB.
    pub body: Vec<u8>,
    /// Which of the connections it came on.
    pub connection: usize,
}

impl Request {
    /// Every value of a header, in order, whatever the case of its name.
    pub fn headers(&self, name: &str) -> Vec<&str> {
        self.head
            .split("\r\n")
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .filter(|(field, _)| field.trim().eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .collect()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers(name).first().copied()
    }
}

#[derive(Debug, Default)]
struct State {
    requests: Mutex<Vec<Request>>,
    connections: AtomicUsize,
    /// Every byte that arrived, bodies included, counted.
    received: AtomicU64,
    gate: Gate,
    stopped: AtomicBool,
    /// Those that are open, to be closed with the app.
    streams: Mutex<Vec<TcpStream>>,
}

#[derive(Debug, Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut open = lock(&self.open);
        while !*open {
            open = self
                .opened
                .wait(open)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The application; it stops listening on drop.
#[derive(Debug)]
pub struct App {
    address: SocketAddr,
    state: Arc<State>,
}

impl App {
    pub fn start() -> Result<Self> {
        Self::on(crate::ports::free_port()?)
    }

    pub fn on(port: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let address = listener.local_addr()?;
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        thread::spawn(move || accept(&listener, &shared));
        Ok(Self { address, state })
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The requests so far, whole ones: each is here before it is answered.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.state.requests).clone()
    }

    /// The last request; empty if there was none.
    pub fn last(&self) -> Option<Request> {
        lock(&self.state.requests).last().cloned()
    }

    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// Bytes that were read from all connections.
    pub fn received(&self) -> u64 {
        self.state.received.load(Ordering::SeqCst)
    }

    /// Lets `/hold` and `/stall` go on, those waiting and those to come.
    pub fn release(&self) {
        *lock(&self.state.gate.open) = true;
        self.state.gate.opened.notify_all();
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.release();
        self.state.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        for stream in lock(&self.state.streams).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn accept(listener: &TcpListener, state: &Arc<State>) {
    for stream in listener.incoming() {
        if state.stopped.load(Ordering::SeqCst) {
            return;
        }
        let (Ok(stream), state) = (stream, Arc::clone(state)) else {
            continue;
        };
        let number = state.connections.fetch_add(1, Ordering::SeqCst);
        if let Ok(stream) = stream.try_clone() {
            lock(&state.streams).push(stream);
        }
        thread::spawn(move || {
            let _ = stream.set_nodelay(true);
            let _ = Exchange::new(&stream, &state, number).and_then(|mut exchange| exchange.run());
            let _ = stream.shutdown(Shutdown::Both);
        });
    }
}

/// One connection.
struct Exchange<'a> {
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
    fn new(stream: &'a TcpStream, state: &'a State, number: usize) -> io::Result<Self> {
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

    fn run(&mut self) -> io::Result<()> {
        while let Some(head) = self.head()? {
            if !self.answer(head)? {
                return Ok(());
            }
        }
        Ok(())
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

    /// Answers one request; false when the connection must end.
    fn answer(&mut self, head: String) -> io::Result<bool> {
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
                return Ok(false);
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
        let (body, head) = (request.body.clone(), request.head.clone());
        self.record(request);
        self.respond(&route, head_only, length, &body, &head)?;
        Ok(!close && route != "/close")
    }

    fn record(&self, request: Request) {
        lock(&self.state.requests).push(request);
    }

    fn respond(
        &mut self,
        route: &str,
        head_only: bool,
        length: u64,
        body: &[u8],
        head: &str,
    ) -> io::Result<()> {
        let number = |prefix: &str| route.strip_prefix(prefix)?.parse::<usize>().ok();
        if let Some(count) = number("/zeros/") {
            return self.zeros(count, head_only);
        }
        if let Some(status) = number("/status/") {
            let framing = if status == 204 || status == 304 {
                ""
            } else {
                "Content-Length: 0\r\n"
            };
            return self.send(
                format!("HTTP/1.1 {status} Some\r\nETag: \"e\"\r\n{framing}\r\n").as_bytes(),
            );
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
            ("/hold", _) => {
                self.state.gate.pass();
                String::new()
            }
            (_, Some(size)) => format!("X-Large: {}\r\n", "v".repeat(size)),
            _ => String::new(),
        };
        let body = match route {
            "/echo" => body.to_vec(),
            "/head" => head.chars().map(|c| c as u8).collect(),
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
