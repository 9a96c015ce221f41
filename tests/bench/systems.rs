//! The pairs of sidecars that are compared. Each has an outbound and an inbound proxy, processes of
//! their own, between the load and the same app, with client certificates required between the two.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::Mesh;
use mesh_tests::http::Connection;
use mesh_tests::process::{Footprint, Process};
use mesh_tests::wait::PATIENCE;

use crate::backend::{Backend, Entry};
use crate::{outrider, peers};

/// A system by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum System {
    /// No proxy at all.
    Direct,
    Outrider,
    Envoy,
    /// HTTP/1.1 between the two for HTTP/1.1.
    HaProxy,
    /// HTTP/2 between the two for everything.
    HaProxyH2,
    Nginx,
    Given(Given),
}

/// A pair that somebody else started: `NAME=ADDR:PIDS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Given {
    name: String,
    address: SocketAddr,
    pids: Vec<u32>,
    entry: Entry,
}

impl Given {
    /// `NAME=ADDR:PORT:PID[,PID…][:ENTRY]`
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let parse = || {
            let (name, rest) = text.split_once('=')?;
            let mut words = rest.split(':');
            let address = format!("{}:{}", words.next()?, words.next()?);
            let pids = words.next()?.split(',').map(|pid| pid.parse().ok());
            Some(Self {
                name: name.to_owned(),
                address: address.parse().ok()?,
                pids: pids.collect::<Option<_>>()?,
                entry: words.next().map_or(Some(Entry::Http), Entry::of)?,
            })
        };
        parse().ok_or_else(|| {
            format!("expected NAME=ADDRESS:PORT:PID[,PID][:http|http2|grpc|tcp], not {text:?}")
        })
    }
}

impl System {
    pub(crate) const OURS: &'static str = "outrider";
    pub(crate) const ALL: [Self; 6] = [
        Self::Direct,
        Self::Outrider,
        Self::Envoy,
        Self::HaProxy,
        Self::HaProxyH2,
        Self::Nginx,
    ];

    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Direct => "direct",
            Self::Outrider => Self::OURS,
            Self::Envoy => "envoy",
            Self::HaProxy => "haproxy",
            Self::HaProxyH2 => "haproxy-h2",
            Self::Nginx => "nginx",
            Self::Given(given) => &given.name,
        }
    }

    pub(crate) fn of(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|system| system.name() == name);
        found.with_context(|| {
            let names = Self::ALL.map(|system| system.name().to_owned());
            format!("no system {name}: there are {}", names.join(", "))
        })
    }

    /// Everything that can be done before its two proxies are started.
    pub(crate) fn prepare(&self, backend: &Backend) -> Result<Prepared> {
        let name = self.name().to_owned();
        match self {
            Self::Direct => Ok(Prepared::external(name, Vec::new(), |entry| {
                Some(backend.address(entry))
            })),
            Self::Given(given) => Ok(Prepared::external(name, given.pids.clone(), |entry| {
                (entry == given.entry).then_some(given.address)
            })),
            Self::Outrider => outrider::prepare(name, backend),
            Self::Envoy | Self::HaProxy | Self::HaProxyH2 | Self::Nginx => {
                peers::prepare(self, backend)
            }
        }
    }

    /// The program on disk, as it is installed.
    pub(crate) fn program(&self) -> Result<Option<PathBuf>> {
        Ok(match self {
            Self::Direct | Self::Given(_) => None,
            Self::Outrider => outrider::program(),
            _ => Some(peers::program(self)?),
        })
    }
}

/// What can be started.
pub(crate) struct Prepared {
    pub(crate) name: String,
    pub(crate) entries: BTreeMap<Entry, SocketAddr>,
    pub(crate) start: Start,
}

pub(crate) enum Start {
    Given(Vec<u32>),
    Outrider(Box<outrider::Ready>),
    Peer(peers::Ready),
}

impl Prepared {
    fn external(
        name: String,
        pids: Vec<u32>,
        address: impl Fn(Entry) -> Option<SocketAddr>,
    ) -> Self {
        let entries = Entry::ALL
            .into_iter()
            .filter_map(|entry| Some((entry, address(entry)?)));
        Self {
            name,
            entries: entries.collect(),
            start: Start::Given(pids),
        }
    }

    /// Starts both, and waits for an answer through the two.
    pub(crate) fn start(self) -> Result<Pair> {
        let (entry, address) = self.entries.first_key_value().context("an entry")?;
        let (entry, address) = (*entry, *address);
        let begin = Instant::now();
        let (pids, running) = match self.start {
            Start::Given(pids) => (pids, Running::Nothing),
            Start::Outrider(ready) => {
                let mut mesh = ready.start()?;
                (outrider::pids(&mut mesh)?, Running::Mesh(Box::new(mesh)))
            }
            Start::Peer(ready) => {
                let processes = ready.start()?;
                let pids = processes.iter().map(Process::id).collect();
                (pids, Running::Processes(processes, ready))
            }
        };
        let mut pair = Pair {
            name: self.name,
            entries: self.entries,
            pids,
            listening: Duration::ZERO,
            answered: Duration::ZERO,
            running,
        };
        pair.listening = pair.first(begin, || {
            std::net::TcpStream::connect(address)?;
            Ok(())
        })?;
        if matches!(entry, Entry::Http | Entry::Tcp) {
            pair.answered = pair.first(begin, || {
                let answer = Connection::open(address)?.get("billing", "/")?;
                ensure!(answer.status == 200, "{}", answer.head);
                Ok(())
            })?;
        }
        Ok(pair)
    }
}

/// A pair that runs.
pub(crate) struct Pair {
    pub(crate) name: String,
    entries: BTreeMap<Entry, SocketAddr>,
    /// Outbound first; none of a direct connection.
    pids: Vec<u32>,
    /// From the start of the processes until the outbound one takes connections.
    pub(crate) listening: Duration,
    /// The same until a request is answered.
    pub(crate) answered: Duration,
    running: Running,
}

enum Running {
    Nothing,
    Mesh(Box<Mesh>),
    /// The second keeps the folder with their files.
    Processes(Vec<Process>, peers::Ready),
}

impl Pair {
    pub(crate) fn entry(&self, entry: Entry) -> Option<SocketAddr> {
        self.entries.get(&entry).copied()
    }

    /// Outbound first.
    pub(crate) fn pids(&self) -> &[u32] {
        &self.pids
    }

    pub(crate) fn is_direct(&self) -> bool {
        self.pids.is_empty()
    }

    /// User and system time of both.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        self.pids.iter().map(|pid| Process::cpu_time_of(*pid)).sum()
    }

    /// What each holds: outbound, inbound.
    pub(crate) fn footprints(&self) -> Result<Vec<Footprint>> {
        self.pids
            .iter()
            .map(|pid| Process::footprint_of(*pid))
            .collect()
    }

    /// How long it took from `begin` until `works`, looked at every millisecond.
    fn first(&mut self, begin: Instant, works: impl Fn() -> Result<()>) -> Result<Duration> {
        loop {
            let last = works();
            if last.is_ok() {
                return Ok(begin.elapsed());
            }
            if begin.elapsed() > PATIENCE {
                let log = self.log();
                let told = last.with_context(|| format!("{} does not answer:\n{log}", self.name));
                return told.map(|()| PATIENCE);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn log(&mut self) -> String {
        match &mut self.running {
            Running::Nothing => String::new(),
            Running::Mesh(mesh) => outrider::log(mesh),
            Running::Processes(processes, ready) => {
                let logs: String = processes.iter().map(Process::log).collect();
                format!("{logs}\n(of {})", ready.folder().display())
            }
        }
    }

    /// Fails if one of its processes has ended.
    pub(crate) fn lives(&mut self) -> Result<()> {
        let ended = self
            .pids
            .iter()
            .any(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists());
        if ended {
            let log = self.log();
            bail!("a proxy of {} has ended:\n{log}", self.name);
        }
        Ok(())
    }
}
