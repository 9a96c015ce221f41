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
//! | `/drip` | a head and one byte; the second byte once [`App::release`] was called |
//! | `/hold` | 200 once [`App::release`] was called |
//! | `/stall` | takes no byte of the body until [`App::release`] was called |
//!
//! [`App::behave`] makes it slow or failing while it runs; [`App::forward_to`] makes it a hop in a
//! chain of calls. `exchange` owns a connection, `behaviour` and `forward` what their names say.

mod behaviour;
mod exchange;
mod forward;

use std::collections::HashMap;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use rustix::net::shutdown;
use rustix::net::sockopt::set_socket_linger;

pub use self::behaviour::Behaviour;
use self::behaviour::Switch;
use self::exchange::{Exchange, Next};
pub use self::forward::Hop;

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
    behaviour: Switch,
    next_hop: Mutex<Option<Hop>>,
    /// By their number, to be closed with the app.
    streams: Mutex<HashMap<usize, TcpStream>>,
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
    listener: TcpListener,
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
        let (accepting, shared) = (listener.try_clone()?, Arc::clone(&state));
        thread::spawn(move || accept(&accepting, &shared));
        Ok(Self {
            address,
            listener,
            state,
        })
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

    /// From now on it answers like this, also what hangs already.
    pub fn behave(&self, behaviour: Behaviour) {
        self.state.behaviour.set(behaviour);
    }

    /// From now on it makes a call for each request that it is sent, and answers with its answer.
    pub fn forward_to(&self, hop: Hop) {
        *lock(&self.state.next_hop) = Some(hop);
    }

    /// How many requests there were for a path.
    pub fn count(&self, path: &str) -> usize {
        let requests = lock(&self.state.requests);
        requests
            .iter()
            .filter(|request| request.path == path)
            .count()
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.release();
        self.behave(Behaviour::Usual);
        self.state.stopped.store(true, Ordering::SeqCst);
        // Of every copy of the socket, also one in a program that is being started: the port is free.
        let _ = shutdown(&self.listener, rustix::net::Shutdown::Both);
        for (_, stream) in lock(&self.state.streams).drain() {
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
            lock(&state.streams).insert(number, stream);
        }
        thread::spawn(move || {
            let _ = stream.set_nodelay(true);
            let ended =
                Exchange::new(&stream, &state, number).and_then(|mut exchange| exchange.run());
            if matches!(ended, Ok(Next::Reset)) {
                // It goes out when the last handle is closed.
                lock(&state.streams).remove(&number);
                let _ = set_socket_linger(&stream, Some(Duration::ZERO));
            } else {
                let _ = stream.shutdown(Shutdown::Both);
            }
        });
    }
}
