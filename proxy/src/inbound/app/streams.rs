//! HTTP/2 connections to the app: each carries many requests, and where the app allows no more on one,
//! there is another.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;

use super::connect::{self, AppAddress, Driven, Sender2};
use crate::http::body::RequestBody;
use crate::refusal::Refusal;
use crate::turns::Turns;

/// Streams that an app is taken to allow until it has said how many: no less is recommended (RFC 9113,
/// section 6.5.2).
const ASSUMED: usize = 100;
/// To one address. Beyond that, requests wait for one another.
const MAX_CONNECTIONS: usize = 64;
/// Beyond that, one that is idle makes room for another.
const MAX_ADDRESSES: usize = 512;
/// Below the times after which servers end an idle connection (hypercorn 5 s, Tomcat 20 s, nginx 75 s).
const IDLE: Duration = Duration::from_secs(3);
/// By then an app has said how many streams it allows.
const SETTLED: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Streams {
    by_address: RefCell<HashMap<AppAddress, Rc<Pool>>>,
    max_addresses: usize,
}

/// The connections to one address.
#[derive(Debug)]
struct Pool {
    connections: RefCell<Vec<Rc<Warm>>>,
    connecting: Turns,
    /// What a new connection is taken to allow.
    assumed: Cell<usize>,
}

#[derive(Debug)]
struct Warm {
    sender: RefCell<Sender2>,
    connection: Weak<RefCell<Driven>>,
    made: Instant,
    in_flight: Cell<usize>,
    /// What the app allows, when it was last asked.
    allowed: Cell<usize>,
    /// Asking costs a lock: from then on it is done now and then, and not for each request.
    settled: Cell<bool>,
    /// Since the last sweep.
    used: Cell<bool>,
    idle_since: Cell<Instant>,
}

/// Room for one request on a connection, until it is dropped.
#[derive(Debug)]
pub struct Stream(Rc<Warm>);

impl Default for Streams {
    fn default() -> Self {
        Self::new(MAX_ADDRESSES)
    }
}

impl Streams {
    pub fn new(max_addresses: usize) -> Self {
        Self {
            by_address: RefCell::default(),
            max_addresses,
        }
    }

    /// Room on a connection that is there already.
    pub fn warm(&self, address: AppAddress) -> Option<Stream> {
        self.by_address.borrow().get(&address)?.room(None)
    }

    /// Room on a connection other than that of `refused`, made if there is none.
    pub async fn open(
        &self,
        address: AppAddress,
        refused: Option<&Stream>,
    ) -> Result<Stream, Refusal> {
        let pool = self.pool(address);
        pool.connecting
            .take(|| pool.room(refused), pool.connect(address))
            .await
    }

    fn pool(&self, address: AppAddress) -> Rc<Pool> {
        let mut by_address = self.by_address.borrow_mut();
        if by_address.len() >= self.max_addresses && !by_address.contains_key(&address) {
            let idle = by_address.iter().filter(|(_, pool)| pool.is_idle());
            let oldest = idle.min_by_key(|(_, pool)| pool.last_use());
            if let Some(oldest) = oldest.map(|(&address, _)| address) {
                by_address.remove(&oldest);
            }
        }
        Rc::clone(by_address.entry(address).or_default())
    }

    /// Closes what has been idle for long.
    pub fn sweep(&self, now: Instant) {
        self.by_address.borrow_mut().retain(|_, pool| {
            let mut connections = pool.connections.borrow_mut();
            connections.retain(|warm| warm.stays(now));
            !connections.is_empty() || Rc::strong_count(pool) > 1
        });
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            connections: RefCell::default(),
            connecting: Turns::default(),
            assumed: Cell::new(ASSUMED),
        }
    }
}

impl Pool {
    /// On the first connection that has some, so that the last ones become idle.
    fn room(&self, refused: Option<&Stream>) -> Option<Stream> {
        let connections = self.connections.borrow();
        let usable = || {
            connections
                .iter()
                .filter(|warm| warm.is_ready() && !refused.is_some_and(|by| by.is_on(warm)))
        };
        let warm = match usable().find(|warm| warm.has_room()) {
            Some(warm) => warm,
            None if connections.len() < MAX_CONNECTIONS => return None,
            None => usable().min_by_key(|warm| warm.in_flight.get())?,
        };
        Some(Stream::begin(warm))
    }

    async fn connect(&self, address: AppAddress) -> Result<Stream, Refusal> {
        let assumed = self.assume();
        let (sender, connection) = connect::http2(address, assumed).await?;
        let warm = Rc::new(Warm::new(sender, connection, assumed));
        let mut connections = self.connections.borrow_mut();
        connections.retain(|warm| warm.is_ready());
        connections.push(Rc::clone(&warm));
        Ok(Stream::begin(&warm))
    }

    /// What the others allow: those who waited for a new connection would be refused there, too.
    fn assume(&self) -> usize {
        let connections = self.connections.borrow();
        if let Some(least) = connections.iter().map(|warm| warm.ask()).min() {
            self.assumed.set(least.clamp(1, ASSUMED));
        }
        self.assumed.get()
    }

    /// Whether nobody uses it, or is about to.
    fn is_idle(self: &Rc<Self>) -> bool {
        let connections = self.connections.borrow();
        Rc::strong_count(self) == 1 && connections.iter().all(|warm| warm.in_flight.get() == 0)
    }

    fn last_use(&self) -> Option<(bool, Instant)> {
        let connections = self.connections.borrow();
        let uses = connections
            .iter()
            .map(|warm| (warm.used.get(), warm.idle_since.get()));
        uses.max()
    }
}

impl Warm {
    fn new(sender: Sender2, connection: Weak<RefCell<Driven>>, allowed: usize) -> Self {
        let now = Instant::now();
        Self {
            sender: RefCell::new(sender),
            connection,
            made: now,
            in_flight: Cell::new(0),
            allowed: Cell::new(allowed),
            settled: Cell::new(false),
            used: Cell::new(true),
            idle_since: Cell::new(now),
        }
    }

    fn is_ready(&self) -> bool {
        self.sender.borrow().is_ready()
    }

    fn has_room(&self) -> bool {
        let allowed = match self.settled.get() {
            true => self.allowed.get(),
            false => self.ask(),
        };
        self.in_flight.get() < allowed
    }

    /// How many streams the app allows at once.
    fn ask(&self) -> usize {
        // One that is at work at this moment is asked another time.
        if let Some(connection) = self.connection.upgrade()
            && let Ok(driven) = connection.try_borrow()
        {
            self.allowed.set(driven.current_max_send_streams());
        }
        self.allowed.get()
    }

    /// Whether it is not to be closed; an app may allow more or less than it did.
    fn stays(&self, now: Instant) -> bool {
        self.ask();
        self.settled
            .set(now.saturating_duration_since(self.made) >= SETTLED);
        if self.used.replace(false) || self.in_flight.get() > 0 {
            self.idle_since.set(now);
        }
        self.is_ready() && now.saturating_duration_since(self.idle_since.get()) < IDLE
    }
}

impl Stream {
    fn begin(warm: &Rc<Warm>) -> Self {
        warm.in_flight.set(warm.in_flight.get() + 1);
        warm.used.set(true);
        Self(Rc::clone(warm))
    }

    fn is_on(&self, warm: &Rc<Warm>) -> bool {
        Rc::ptr_eq(&self.0, warm)
    }

    /// Sends a request and waits for the head of its answer.
    pub fn send(
        &self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> + use<>
    {
        self.0.sender.borrow_mut().try_send_request(request)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
    }
}
