//! Clients that call at a steady rate whatever becomes of their calls, and keep how each one ended:
//! for shares of success and for latencies. A latency is counted from the moment at which the call
//! was due, so that a stall shows in every call that it held up.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::http::Connection;
use crate::load::Connections;
use crate::process::{Process, command};
use crate::programs::grpc_go;
use crate::wait::{PATIENCE, until};

/// How many connections an HTTP client calls on in turn.
const CALLERS: u32 = 16;

/// One call that has ended.
#[derive(Debug, Clone)]
pub struct Call {
    pub took: Duration,
    /// What was answered instead of success.
    pub failure: Option<String>,
}

/// The calls of a span of time.
#[derive(Debug, Clone, Default)]
pub struct Window {
    pub calls: Vec<Call>,
}

impl Window {
    /// 0 to 100.
    pub fn success_percent(&self) -> f64 {
        let good = self.calls.iter().filter(|call| call.failure.is_none());
        100.0 * good.count() as f64 / self.calls.len().max(1) as f64
    }

    /// The latency that so many (0 to 1) of the calls do not exceed, failed ones too.
    pub fn quantile(&self, quantile: f64) -> Duration {
        let mut took: Vec<Duration> = self.calls.iter().map(|call| call.took).collect();
        took.sort_unstable();
        let rank = (quantile * took.len() as f64).ceil() as usize;
        took.get(rank.saturating_sub(1))
            .copied()
            .unwrap_or_default()
    }

    pub fn p99(&self) -> Duration {
        self.quantile(0.99)
    }

    /// What failed, the first of it.
    pub fn failures(&self) -> Vec<&str> {
        let failures = self.calls.iter().filter_map(|call| call.failure.as_deref());
        failures.take(5).collect()
    }
}

/// A client that calls until it is dropped.
#[derive(Debug)]
pub enum Paced {
    Http(Callers),
    /// grpc-go, which prints a line for each call.
    Grpc(Process),
}

impl Paced {
    /// `GET path`; 200 is success.
    pub fn http(per_second: u32, address: SocketAddr, host: &str, path: &str) -> Self {
        let kept = Connections::Kept;
        Self::Http(Callers::start(per_second, address, host, path, kept))
    }

    /// The same with a connection for each call.
    pub fn of_connections(per_second: u32, address: SocketAddr, host: &str, path: &str) -> Self {
        let fresh = Connections::Fresh;
        Self::Http(Callers::start(per_second, address, host, path, fresh))
    }

    /// Unary calls; OK is success.
    pub fn grpc(per_second: u32, folder: &Path, port: u16, authority: &str) -> Result<Self> {
        let mut start = command(&grpc_go()?)?;
        start
            .arg("load")
            .args(["--port", &port.to_string(), "--authority", authority])
            .args(["--rate", &per_second.to_string()]);
        Ok(Self::Grpc(Process::start("grpc-load", folder, &mut start)?))
    }

    /// Waits for the next `count` calls to end.
    pub fn next(&mut self, count: usize) -> Result<Window> {
        let first = self.ended()?.len();
        let mut calls = Vec::new();
        until(&format!("{count} calls end"), PATIENCE, || {
            calls = self.ended()?.split_off(first);
            Ok(calls.len() >= count)
        })?;
        Ok(Window { calls })
    }

    /// Every call that has ended.
    fn ended(&mut self) -> Result<Vec<Call>> {
        match self {
            Self::Http(callers) => Ok(callers.ended()),
            Self::Grpc(process) => {
                ensure!(process.running(), "the client ended:\n{}", process.log());
                let log = process.log();
                // The last line may be half written.
                let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
                whole.lines().map(grpc_call).collect()
            }
        }
    }
}

/// "CODE MICROSECONDS DETAILS"
fn grpc_call(line: &str) -> Result<Call> {
    let mut words = line.splitn(3, ' ');
    let code = words.next().unwrap_or_default();
    let took = words.next().and_then(|took| took.parse().ok());
    Ok(Call {
        took: Duration::from_micros(took.with_context(|| format!("a call, not {line:?}"))?),
        failure: (code != "0").then(|| line.to_owned()),
    })
}

/// The threads of an HTTP client.
#[derive(Debug)]
pub struct Callers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    calls: Mutex<Vec<Call>>,
}

impl Callers {
    fn start(
        per_second: u32,
        address: SocketAddr,
        host: &str,
        path: &str,
        connections: Connections,
    ) -> Self {
        let shared = Arc::new(Shared::default());
        let every = Duration::from_secs(1) / per_second;
        let begin = Instant::now();
        let threads = (0..CALLERS)
            .map(|number| {
                let (shared, host, path) = (Arc::clone(&shared), host.to_owned(), path.to_owned());
                let first = begin + every * number;
                thread::spawn(move || {
                    let mut connection = None;
                    call_on_time(&shared, first, every * CALLERS, || {
                        if connections == Connections::Fresh {
                            connection = None;
                        }
                        one(&mut connection, address, &host, &path)
                    });
                })
            })
            .collect();
        Self { shared, threads }
    }

    fn ended(&self) -> Vec<Call> {
        let calls = self.shared.calls.lock();
        calls.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Callers {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn call_on_time(
    shared: &Shared,
    first: Instant,
    every: Duration,
    mut call: impl FnMut() -> Result<()>,
) {
    let mut due = first;
    while !shared.stop.load(Ordering::SeqCst) {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let failure = call().err().map(|error| format!("{error:#}"));
        let ended = Call {
            took: due.elapsed(),
            failure,
        };
        let mut calls = shared.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.push(ended);
        due += every;
    }
}

fn one(kept: &mut Option<Connection>, address: SocketAddr, host: &str, path: &str) -> Result<()> {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => Connection::open(address)?,
    };
    let response = connection.get(host, path)?;
    if !response
        .header("connection")
        .is_some_and(|value| value.contains("close"))
    {
        *kept = Some(connection);
    }
    ensure!(response.status == 200, "{}", response.head);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::App;
    use crate::app::Behaviour;
    use crate::wait::becomes;

    #[test]
    fn reads_what_the_grpc_client_prints() {
        let good = grpc_call("0 1500").unwrap();
        assert_eq!(
            (good.took, good.failure),
            (Duration::from_micros(1500), None)
        );
        let bad = grpc_call("14 20 no such thing").unwrap();
        assert_eq!(bad.failure.as_deref(), Some("14 20 no such thing"));
        assert!(grpc_call("listening").is_err());
    }

    #[test]
    fn a_stall_shows_in_the_calls_that_were_due() -> Result<()> {
        let app = App::start()?;
        let at = crate::http::local(app.port());
        let mut client = Paced::http(200, at, "app", "/");
        let good = client.next(50)?;
        assert_eq!(good.success_percent(), 100.0, "{:?}", good.failures());
        // Those that were under way when it changed end as they began.
        let mut ends_with = |behaviour, expected: f64| {
            app.behave(behaviour);
            becomes("the share of success", &expected, || {
                Ok(client.next(20)?.success_percent())
            })
        };
        ends_with(Behaviour::Status(503), 0.0)?;
        ends_with(Behaviour::Usual, 100.0)?;
        ends_with(Behaviour::ResetBeforeHead, 0.0)?;
        ends_with(Behaviour::Usual, 100.0)?;
        ends_with(Behaviour::ResetMidBody, 0.0)?;
        ends_with(Behaviour::Delay(Duration::from_millis(100)), 100.0)?;
        assert!(client.next(50)?.quantile(0.5) >= Duration::from_millis(100));
        app.behave(Behaviour::Hang);
        let asked = app.requests().len();
        until("it is asked", PATIENCE, || Ok(app.requests().len() > asked))?;
        app.behave(Behaviour::Usual);
        client.next(20)?;
        Ok(())
    }
}
