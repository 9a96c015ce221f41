//! A client that keeps calling, and counts what did not succeed.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Result, bail, ensure};

use crate::http::Connection;
use crate::wait::{PATIENCE, until};

#[derive(Debug, Default)]
struct Counts {
    stop: AtomicBool,
    succeeded: AtomicU64,
    failures: Mutex<Vec<String>>,
}

/// What becomes of a connection when its request was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connections {
    Kept,
    Fresh,
}

/// Callers that each repeat one request over a connection they keep.
#[derive(Debug)]
pub struct Load {
    counts: Arc<Counts>,
    callers: Vec<JoinHandle<()>>,
}

impl Load {
    /// `callers` threads call `GET path`. A caller opens another connection only after an answer
    /// that said `connection: close`.
    pub fn start(callers: usize, address: SocketAddr, host: &str, path: &str) -> Self {
        Self::calling(callers, address, host, path, Connections::Kept)
    }

    /// The same with a connection for each call.
    pub fn of_connections(callers: usize, address: SocketAddr, host: &str, path: &str) -> Self {
        Self::calling(callers, address, host, path, Connections::Fresh)
    }

    fn calling(
        callers: usize,
        address: SocketAddr,
        host: &str,
        path: &str,
        connections: Connections,
    ) -> Self {
        let counts = Arc::new(Counts::default());
        let callers = (0..callers)
            .map(|_| {
                let (counts, host, path) = (Arc::clone(&counts), host.to_owned(), path.to_owned());
                thread::spawn(move || call(&counts, address, &host, &path, connections))
            })
            .collect();
        Self { counts, callers }
    }

    pub fn succeeded(&self) -> u64 {
        self.counts.succeeded.load(Ordering::SeqCst)
    }

    pub fn failures(&self) -> Vec<String> {
        self.counts
            .failures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits until `count` more requests have succeeded, whatever fails meanwhile.
    pub fn reaches(&self, count: u64) -> Result<()> {
        let goal = self.succeeded() + count;
        until(&format!("{count} more requests succeed"), PATIENCE, || {
            Ok(self.succeeded() >= goal)
        })
    }

    /// Waits until `count` more requests have succeeded; fails at the first failure.
    pub fn goes_on(&self, count: u64) -> Result<()> {
        let goal = self.succeeded() + count;
        until(&format!("{count} more requests succeed"), PATIENCE, || {
            Ok(self.succeeded() >= goal || !self.failures().is_empty())
        })?;
        self.unharmed()
    }

    /// Fails if a request has failed.
    pub fn unharmed(&self) -> Result<()> {
        let failures = self.failures();
        ensure!(
            failures.is_empty(),
            "{} requests failed: {failures:?}",
            failures.len()
        );
        Ok(())
    }

    /// Ends the load; fails if a request has failed, or if there was none.
    pub fn finish(mut self) -> Result<u64> {
        self.end();
        self.unharmed()?;
        match self.succeeded() {
            0 => bail!("no request was made"),
            succeeded => Ok(succeeded),
        }
    }

    fn end(&mut self) {
        self.counts.stop.store(true, Ordering::SeqCst);
        for caller in self.callers.drain(..) {
            let _ = caller.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

fn call(counts: &Counts, address: SocketAddr, host: &str, path: &str, connections: Connections) {
    let mut connection = None;
    while !counts.stop.load(Ordering::SeqCst) {
        if connections == Connections::Fresh {
            connection = None;
        }
        match one(&mut connection, address, host, path) {
            Ok(()) => {
                counts.succeeded.fetch_add(1, Ordering::SeqCst);
            }
            Err(error) => {
                connection = None;
                let mut failures = counts
                    .failures
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                if failures.len() < 20 {
                    failures.push(format!("{error:#}"));
                }
            }
        }
    }
}

fn one(kept: &mut Option<Connection>, address: SocketAddr, host: &str, path: &str) -> Result<()> {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => Connection::open(address)?,
    };
    let response = connection.get(host, path)?;
    ensure!(response.status == 200, "{}", response.head);
    let closes = response
        .header("connection")
        .is_some_and(|value| value.contains("close"));
    if !closes {
        *kept = Some(connection);
    }
    Ok(())
}
