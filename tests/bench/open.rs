//! Load at a fixed rate, whatever is answered when: a latency counts from the moment at which its
//! request was due. And one stream of bulk.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use mesh_tests::wait::PATIENCE;

use crate::backend::BULK;
use crate::results::Sample;

/// Connections that take turns: 2,000 requests a second are one in 16 ms on each.
const CONNECTIONS: u32 = 32;
/// For 1 KB.
pub(crate) const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: billing\r\n\r\n";

/// `per_second` requests for `time`.
pub(crate) fn rate(address: SocketAddr, per_second: u32, time: Duration) -> Result<Sample> {
    let every = Duration::from_secs(1) / per_second;
    let connections = (0..CONNECTIONS)
        .map(|_| Client::open(address))
        .collect::<Result<Vec<_>>>()?;
    let begin = Instant::now() + Duration::from_millis(20);
    let threads: Vec<_> = connections
        .into_iter()
        .zip(0..)
        .map(|(mut client, number)| {
            thread::spawn(move || {
                let mut took = Vec::new();
                let mut due = begin + every * number;
                while due < begin + time {
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    client.ask(REQUEST)?;
                    took.push(due.elapsed());
                    due += every * CONNECTIONS;
                }
                Ok(took)
            })
        })
        .collect();
    let mut took = Vec::new();
    for thread in threads {
        let own: Result<Vec<Duration>> = thread.join().map_err(|_| anyhow!("it panicked"))?;
        took.extend(own?);
    }
    let passed = begin.elapsed().as_secs_f64();
    took.sort_unstable();
    let quantile = |share: f64| {
        let rank = (share * took.len() as f64).ceil() as usize;
        took.get(rank.saturating_sub(1)).context("a request")
    };
    let mut sample = Sample::from([("requests_per_second", took.len() as f64 / passed)]);
    for (metric, share) in [("p50_us", 0.5), ("p99_us", 0.99), ("p999_us", 0.999)] {
        sample.insert(metric, quantile(share)?.as_secs_f64() * 1e6);
    }
    Ok(sample)
}

/// Which way the bytes of a bulk transfer go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bulk {
    Down,
    Up,
}

/// One stream of [`BULK`] bytes, again and again for `time`. Returns how many bytes.
pub(crate) fn bulk(address: SocketAddr, way: Bulk, time: Duration) -> Result<(Sample, u64)> {
    let mut client = Client::open(address)?;
    let upload = vec![b'u'; 256 * 1024];
    let begin = Instant::now();
    let mut bytes = 0;
    while begin.elapsed() < time {
        match way {
            Bulk::Down => {
                let body = client.ask(b"GET /files/bulk HTTP/1.1\r\nHost: billing\r\n\r\n")?;
                ensure!(body == BULK, "{body} bytes");
            }
            Bulk::Up => {
                let head = format!(
                    "POST /upload HTTP/1.1\r\nHost: billing\r\nContent-Length: {BULK}\r\n\r\n"
                );
                client.stream.write_all(head.as_bytes())?;
                for _ in 0..BULK / upload.len() as u64 {
                    client.stream.write_all(&upload)?;
                }
                client.ask(b"")?;
            }
        }
        bytes += BULK;
    }
    let bits = 8.0 * bytes as f64 / begin.elapsed().as_secs_f64();
    Ok((Sample::from([("gbit_per_second", bits / 1e9)]), bytes))
}

/// A client that costs little: it reads as much of an answer as it must.
pub(crate) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            buffer: vec![0; 256 * 1024],
        })
    }

    /// Sends, and reads an answer of 200 with a Content-Length, which is returned.
    pub(crate) fn ask(&mut self, request: &[u8]) -> Result<u64> {
        self.stream.write_all(request)?;
        let mut read = 0;
        let end = loop {
            let length = self.stream.read(&mut self.buffer[read..])?;
            ensure!(length > 0, "closed after {read} bytes of an answer");
            read += length;
            let head = &self.buffer[..read];
            if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
        };
        let head = std::str::from_utf8(&self.buffer[..end])?;
        ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
        let body: u64 = head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .and_then(|(_, value)| value.trim().parse().ok())
            .with_context(|| format!("a length in {head}"))?;
        let mut rest = body.saturating_sub((read - end) as u64);
        while rest > 0 {
            let room = rest.min(self.buffer.len() as u64) as usize;
            let length = self.stream.read(&mut self.buffer[..room])?;
            ensure!(length > 0, "closed with {rest} bytes to come");
            rest -= length as u64;
        }
        Ok(body)
    }
}
