//! The workloads: what is asked of every pair, and what is measured meanwhile.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::backend::{Backend, Entry};
use crate::load::{grpc_streams, h2load, wrk};
use crate::open::{Bulk, bulk, rate};
use crate::results::{Results, Sample};
use crate::systems::Pair;

#[derive(Debug)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    entry: Entry,
    load: Load,
}

#[derive(Debug)]
enum Load {
    Wrk {
        connections: u32,
        path: &'static str,
        close: bool,
    },
    H2load {
        grpc: bool,
    },
    GrpcStreams,
    Rate(u32),
    Bulk(Bulk),
}

const fn wrk_of(connections: u32, path: &'static str, close: bool) -> Load {
    Load::Wrk {
        connections,
        path,
        close,
    }
}

pub(crate) const ALL: [Workload; 13] = [
    Workload {
        name: "http1-64",
        about: "HTTP/1.1, 1 KB, 64 connections",
        entry: Entry::Http,
        load: wrk_of(64, "/", false),
    },
    Workload {
        name: "http1-256",
        about: "HTTP/1.1, 1 KB, 256 connections",
        entry: Entry::Http,
        load: wrk_of(256, "/", false),
    },
    Workload {
        name: "http1-100k",
        about: "HTTP/1.1, 100 KB, 64 connections",
        entry: Entry::Http,
        load: wrk_of(64, "/files/100k", false),
    },
    Workload {
        name: "http2",
        about: "HTTP/2, 1 KB, 8 connections with 32 streams each",
        entry: Entry::Http2,
        load: Load::H2load { grpc: false },
    },
    Workload {
        name: "grpc-unary",
        about: "gRPC, unary, 8 connections with 32 streams each",
        entry: Entry::Http2,
        load: Load::H2load { grpc: true },
    },
    Workload {
        name: "grpc-stream",
        about: "gRPC, messages there and back on 32 streams of a connection",
        entry: Entry::Grpc,
        load: Load::GrpcStreams,
    },
    Workload {
        name: "opaque",
        about: "opaque, 1 KB, 64 connections",
        entry: Entry::Tcp,
        load: wrk_of(64, "/", false),
    },
    Workload {
        name: "http-new",
        about: "HTTP/1.1, a new connection for each request, 64 at once",
        entry: Entry::Http,
        load: wrk_of(64, "/", true),
    },
    Workload {
        name: "opaque-new",
        about: "opaque, a new connection for each request, 64 at once",
        entry: Entry::Tcp,
        load: wrk_of(64, "/", true),
    },
    Workload {
        name: "rate-800",
        about: "HTTP/1.1, 800 requests/s, open loop",
        entry: Entry::Http,
        load: Load::Rate(800),
    },
    Workload {
        name: "rate-2000",
        about: "HTTP/1.1, 2,000 requests/s, open loop",
        entry: Entry::Http,
        load: Load::Rate(2000),
    },
    Workload {
        name: "bulk-down",
        about: "opaque, one stream of bulk to the caller",
        entry: Entry::Tcp,
        load: Load::Bulk(Bulk::Down),
    },
    Workload {
        name: "bulk-up",
        about: "opaque, one stream of bulk from the caller",
        entry: Entry::Tcp,
        load: Load::Bulk(Bulk::Up),
    },
];

/// What a name of a workload means in words.
pub(crate) fn about(name: &str) -> &str {
    match name {
        "start" => "from the start of both processes until the first listens, and has answered",
        "at-rest" => "after one answer, the larger of both proxies",
        "idle-http" => "1,000 idle HTTP/1.1 connections of the app",
        "idle-opaque" => "1,000 idle opaque connections of the app",
        "idle-mtls" => "1,000 idle connections of other sidecars",
        "gone-http" => "after 5,000 HTTP/1.1 connections have come and gone",
        "gone-opaque" => "after 5,000 opaque connections have come and gone",
        "mesh-size" => "a caller's sidecar in a mesh of 10 and of 10,000 endpoints",
        "intercept-new" => {
            "intercepted and detected, a new connection for each request, 16 at once; first byte of \
             one at a time"
        }
        _ => ALL
            .iter()
            .find(|workload| workload.name == name)
            .map_or(name, |workload| workload.about),
    }
}

impl Workload {
    /// One round of one pair; nothing where the pair does not speak it.
    pub(crate) fn measure(
        &self,
        pair: &mut Pair,
        backend: &Backend,
        time: Duration,
        results: &mut Results,
    ) -> Result<()> {
        if pair.entry(self.entry).is_none() {
            return Ok(());
        }
        let sample = self
            .sample(pair, backend, time)
            .with_context(|| format!("{} through {}", self.name, pair.name))?;
        pair.lives()?;
        results.add(&pair.name, self.name, sample);
        Ok(())
    }

    fn sample(&self, pair: &Pair, backend: &Backend, time: Duration) -> Result<Sample> {
        let address = pair.entry(self.entry).context("an entry")?;
        let (counted, cpu) = (backend.counted()?, pair.cpu()?);
        let (mut sample, amount) = match &self.load {
            Load::Wrk {
                connections,
                path,
                close,
            } => (wrk(address, *connections, path, *close, time)?, None),
            Load::H2load { grpc } => {
                let request = grpc.then(|| backend.request());
                (h2load(address, request.as_deref(), time)?, None)
            }
            Load::Rate(per_second) => (rate(address, *per_second, time)?, None),
            Load::GrpcStreams => {
                let (sample, messages) = grpc_streams(address, time)?;
                (sample, Some((messages as f64, "cpu_us_per_request", 1e6)))
            }
            Load::Bulk(way) => {
                let (sample, bytes) = bulk(address, *way, time)?;
                (sample, Some((bytes as f64 / 1e9, "cpu_s_per_gb", 1.0)))
            }
        };
        let used = pair.cpu()? - cpu;
        // The second look is counted, too.
        let requests = (backend.counted()? - counted).saturating_sub(1);
        let (amount, metric, unit) = amount.unwrap_or((requests as f64, "cpu_us_per_request", 1e6));
        ensure!(amount > 0.0, "nothing reached the app");
        if !pair.is_direct() {
            sample.insert(metric, used.as_secs_f64() * unit / amount);
        }
        Ok(sample)
    }
}
