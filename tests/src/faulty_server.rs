//! A proxy before an API server's plain HTTP, which answers in its place when it is told to, or has whoever
//! is behind it believe in a Lease of its own.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::Result;
use serde_json::json;

/// A request's head is no longer.
const HEAD_MAX: usize = 64 * 1024;

/// What becomes of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Everything is answered with this status.
    Answer(u16),
    /// Every watch is answered with 410 Gone, everything else as it is.
    Expired,
    /// Every watch begins, and says at once that its version is gone.
    ExpiredWithin,
    /// Connections are closed as they come.
    Closed,
    /// Nothing is answered, for as long as this is so.
    Silent,
}

/// The Lease by which replicas agree, and one of which only they know who are behind a proxy that says so:
/// as long, so that messages keep their length.
const LEASE: &str = "outrider-control-plane";
const OWN_LEASE: &str = "outrider-control-apart";

/// Gone with the process.
pub struct FaultyServer {
    port: u16,
    state: Arc<State>,
}

struct State {
    upstream: u16,
    /// Whether the Lease is another than that which others see.
    is_apart: bool,
    fault: Mutex<Fault>,
    /// How many requests have met one.
    met: AtomicU64,
    /// Of watches that are open, and of whatever else is.
    open: Mutex<Vec<TcpStream>>,
}

impl FaultyServer {
    pub fn before(upstream: u16) -> Result<Self> {
        Self::start(upstream, false)
    }

    /// Whoever is behind it leads, whoever leads otherwise.
    pub fn apart(upstream: u16) -> Result<Self> {
        Self::start(upstream, true)
    }

    fn start(upstream: u16, is_apart: bool) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(State {
            upstream,
            is_apart,
            fault: Mutex::new(Fault::None),
            met: AtomicU64::new(0),
            open: Mutex::default(),
        });
        let serving = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = Arc::clone(&serving);
                // A client that breaks off is the test's business.
                thread::spawn(move || drop(state.serve(client)));
            }
        });
        Ok(Self { port, state })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on; what is open is cut, in the middle of whatever it says.
    pub fn set(&self, fault: Fault) {
        *lock(&self.state.fault) = fault;
        self.cut();
    }

    /// How many requests have met a fault so far.
    pub fn met(&self) -> u64 {
        self.state.met.load(Ordering::SeqCst)
    }

    /// Cuts whatever is open.
    pub fn cut(&self) {
        for stream in lock(&self.state.open).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl State {
    /// To be cut.
    fn keep(&self, client: &TcpStream) -> io::Result<()> {
        lock(&self.open).push(client.try_clone()?);
        Ok(())
    }

    /// Until it is cut, or the client ends it.
    fn hold(&self, mut client: TcpStream) -> io::Result<()> {
        self.keep(&client)?;
        io::copy(&mut client, &mut io::sink())?;
        Ok(())
    }

    /// One request; then the connection is closed.
    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        let (head, rest) = read_head(&mut client)?;
        let first = head.lines().next().unwrap_or_default();
        let is_watch = first.contains("watch=true") || first.contains("watch=1");
        let fault = *lock(&self.fault);
        let meets = match fault {
            Fault::None => false,
            Fault::Closed | Fault::Silent | Fault::Answer(_) => true,
            Fault::Expired | Fault::ExpiredWithin => is_watch,
        };
        self.met.fetch_add(u64::from(meets), Ordering::SeqCst);
        match fault {
            Fault::None => {}
            Fault::Closed => return Ok(()),
            Fault::Silent => return self.hold(client),
            Fault::Answer(status) => return answer(&mut client, status),
            Fault::Expired if is_watch => return answer(&mut client, 410),
            Fault::ExpiredWithin if is_watch => return expired_within(&mut client),
            Fault::Expired | Fault::ExpiredWithin => {}
        }
        let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, self.upstream))?;
        self.keep(&client)?;
        if self.is_apart && first.contains("/leases") {
            return exchange_apart(&mut client, &mut server, &head, rest);
        }
        server.write_all(closing(&head).as_bytes())?;
        server.write_all(&rest)?;
        let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
        let sending = thread::spawn(move || io::copy(&mut from, &mut to));
        let _ = io::copy(&mut server, &mut client);
        let _ = client.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
        let _ = sending.join();
        Ok(())
    }
}

/// One request and its answer, each whole, about the Lease that only this side knows.
fn exchange_apart(
    client: &mut TcpStream,
    server: &mut TcpStream,
    head: &str,
    mut body: Vec<u8>,
) -> io::Result<()> {
    let mut missing = vec![0; content_length(head)?.saturating_sub(body.len())];
    client.read_exact(&mut missing)?;
    body.append(&mut missing);
    let body = String::from_utf8_lossy(&body);
    let request = closing(head) + &body;
    server.write_all(request.replace(LEASE, OWN_LEASE).as_bytes())?;
    let mut answer = String::new();
    server.read_to_string(&mut answer)?;
    client.write_all(answer.replace(OWN_LEASE, LEASE).as_bytes())?;
    client.shutdown(Shutdown::Both)
}

/// Of a request, in bytes; what does not say has none.
fn content_length(head: &str) -> io::Result<usize> {
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    let mut lengths = fields.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = lengths.next().map_or("0", |(_, value)| value.trim());
    length
        .parse()
        .map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The head, and what has come after it.
fn read_head(client: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(end) = end {
            let rest = bytes.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), rest));
        }
        let count = client.read(&mut buffer)?;
        if count == 0 || bytes.len() > HEAD_MAX {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&buffer[..count]);
    }
}

/// The head of the last request on its connection.
fn closing(head: &str) -> String {
    let is_connection = |line: &&str| line.to_ascii_lowercase().starts_with("connection:");
    let lines = head.lines().filter(|line| !line.is_empty());
    let mut lines: Vec<&str> = lines.filter(|line| !is_connection(line)).collect();
    lines.push("Connection: close");
    lines.join("\r\n") + "\r\n\r\n"
}

fn answer(client: &mut TcpStream, status: u16) -> io::Result<()> {
    let reason = match status {
        410 => "Expired",
        429 => "TooManyRequests",
        _ => "InternalError",
    };
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "as the test wants it", "reason": reason, "code": status,
    });
    let body = body.to_string();
    write!(
        client,
        "HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nRetry-After: 1\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn expired_within(client: &mut TcpStream) -> io::Result<()> {
    let event = json!({"type": "ERROR", "object": {
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "too old resource version", "reason": "Expired", "code": 410,
    }});
    write!(
        client,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n{event}\n"
    )
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
