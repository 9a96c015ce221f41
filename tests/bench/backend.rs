//! The app behind every pair: nginx, whose counter of requests is the one that counts, and grpc-go
//! for streams.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use mesh_tests::http::{self, local};
use mesh_tests::peers::{Language, Server, grpc_server};
use mesh_tests::ports::free_port;
use mesh_tests::process::{Process, command};
use mesh_tests::programs::find;
use mesh_tests::wait::{PATIENCE, until};
use tempfile::TempDir;

use crate::template::{self, Values};

/// 1 KiB, as a small JSON answer.
pub(crate) const BODY: usize = 1024;
/// What `/files/bulk` holds, bytes.
pub(crate) const BULK: u64 = 256 << 20;
/// A length-prefixed gRPC message of 64 bytes.
pub(crate) const MESSAGE: usize = 64;

/// What is spoken at an entry of a pair, and which app is behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Entry {
    Http,
    Http2,
    /// HTTP/2 to grpc-go.
    Grpc,
    /// HTTP/1.1 that the pair carries as bytes.
    Tcp,
}

impl Entry {
    pub(crate) const ALL: [Self; 4] = [Self::Http, Self::Http2, Self::Grpc, Self::Tcp];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }

    pub(crate) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|entry| entry.name() == name)
    }
}

#[derive(Debug)]
pub(crate) struct Backend {
    _nginx: Process,
    _grpc: Server,
    ports: BTreeMap<Entry, u16>,
    folder: TempDir,
}

impl Backend {
    /// `first`: the port of HTTP, with HTTP/2 and opaque bytes on the next two; free ports if none.
    pub(crate) fn start(first: Option<u16>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("backend-").tempdir()?;
        let path = folder.path();
        fs::create_dir(path.join("files"))?;
        fs::write(path.join("files/100k"), vec![b'b'; 100 * 1024])?;
        fs::write(path.join("files/unary"), message())?;
        fs::write(path.join("request"), message())?;
        fs::File::create(path.join("files/bulk"))?.set_len(BULK)?;
        let grpc = grpc_server(Language::Go, path)?;
        let port = |number: u16| first.map_or_else(free_port, |first| Ok(first + number));
        let ports = BTreeMap::from([
            (Entry::Http, port(0)?),
            (Entry::Http2, port(1)?),
            (Entry::Tcp, port(2)?),
            (Entry::Grpc, grpc.port),
        ]);
        let values = Values::from([
            ("FOLDER", path.display().to_string()),
            ("BODY", "b".repeat(BODY)),
            ("HTTP", ports[&Entry::Http].to_string()),
            ("HTTP2", ports[&Entry::Http2].to_string()),
            ("TCP", ports[&Entry::Tcp].to_string()),
        ]);
        let file = path.join("backend.conf");
        fs::write(
            &file,
            template::fill("backend.conf", &values, &BTreeMap::new())?,
        )?;
        let mut start = command(&find("nginx", "nginx-light")?)?;
        start
            .args(["-e", "stderr", "-p"])
            .arg(path)
            .arg("-c")
            .arg(file);
        let mut nginx = Process::start("nginx", path, &mut start)?;
        until("nginx answers", PATIENCE, || {
            ensure!(nginx.running(), "it ended:\n{}", nginx.log());
            Ok(http::fetch(ports[&Entry::Http], "/")?.body.len() == BODY)
        })?;
        Ok(Self {
            _nginx: nginx,
            _grpc: grpc,
            ports,
            folder,
        })
    }

    pub(crate) fn port(&self, entry: Entry) -> u16 {
        self.ports[&entry]
    }

    pub(crate) fn address(&self, entry: Entry) -> SocketAddr {
        local(self.port(entry))
    }

    /// A file with the message of a unary call.
    pub(crate) fn request(&self) -> String {
        self.folder.path().join("request").display().to_string()
    }

    /// Requests that nginx has counted, this look among them.
    pub(crate) fn counted(&self) -> Result<u64> {
        counted(self.port(Entry::Http))
    }
}

/// Requests that the nginx at this port of loopback has counted, this one among them.
pub(crate) fn counted(port: u16) -> Result<u64> {
    let status = http::fetch(port, "/status")?.text();
    let line = status.lines().nth(2).context("the line of totals")?;
    let requests = line.split_whitespace().last().context("requests")?;
    Ok(requests.parse()?)
}

fn message() -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 0, MESSAGE as u8];
    bytes.extend([b'm'; MESSAGE]);
    bytes
}
