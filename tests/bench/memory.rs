//! What the proxies of every pair hold: at rest, for connections that are open and say nothing, and
//! after they have gone. And how soon a pair listens.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mesh_tests::pki::{Authority, Leaf};
use mesh_tests::process::Footprint;
use mesh_tests::tls::Tls;
use mesh_tests::wait::eventually;
use mesh_tests::{Mesh, Service, Workload};

use crate::arguments::Arguments;
use crate::backend::{Backend, Entry};
use crate::open::Client;
use crate::results::{Results, Sample};
use crate::systems::{Pair, System};

/// Connections that are open at once.
const IDLE: usize = 1000;
/// Connections that come and go, and how many of them at once.
const GONE: usize = 5000;
const AT_ONCE: usize = 250;
/// Sidecars let go of what is idle after some seconds, and allocators of what is free after ten: at
/// rest is what has not changed for so long.
const REST: Duration = Duration::from_secs(12);
/// The difference between two looks that is none, bytes.
const SAME: u64 = 64 * 1024;

/// Everything here that is wanted, of all these systems.
pub(crate) fn measure(
    arguments: &Arguments,
    systems: &[System],
    backend: &Backend,
    results: &mut Results,
) -> Result<()> {
    let measured = Measured { systems, backend };
    if arguments.wants("start") {
        measured.start(if arguments.quick { 3 } else { 9 }, results)?;
    }
    for (entry, idle, gone) in [
        (Entry::Http, "idle-http", "gone-http"),
        (Entry::Tcp, "idle-opaque", "gone-opaque"),
    ] {
        if arguments.wants("at-rest") && entry == Entry::Http || arguments.wants(idle) {
            measured.idle(entry, idle, results)?;
        }
        if arguments.wants(gone) && !arguments.quick {
            measured.gone(entry, gone, results)?;
        }
    }
    if !systems.contains(&System::Outrider) {
        return Ok(());
    }
    if arguments.wants("idle-mtls") && !arguments.quick {
        measured.idle_of_peers(results)?;
    }
    if arguments.wants("mesh-size") && !arguments.quick {
        measured.mesh_size(results)?;
    }
    Ok(())
}

struct Measured<'a> {
    systems: &'a [System],
    backend: &'a Backend,
}

impl Measured<'_> {
    /// From the start of both processes until the outbound one listens, and until it has answered.
    fn start(&self, times: usize, results: &mut Results) -> Result<()> {
        for _ in 0..times {
            for system in self.proxies() {
                let pair = system.prepare(self.backend)?.start()?;
                let millis = |time: Duration| time.as_secs_f64() * 1e3;
                let mut sample = Sample::from([
                    ("listening_ms", millis(pair.listening)),
                    ("answered_ms", millis(pair.answered)),
                ]);
                if let Some(program) = system.program()? {
                    let bytes = program.metadata().context("the program's size")?.len();
                    sample.insert("program_kb", bytes as f64 / 1024.0);
                }
                results.add(&pair.name, "start", sample);
            }
        }
        Ok(())
    }

    /// At rest after one answer, and with connections that have had one each.
    fn idle(&self, entry: Entry, workload: &str, results: &mut Results) -> Result<()> {
        let pairs = self.pairs(entry)?;
        let before = self.at_rest(&pairs)?;
        let mut clients = Vec::new();
        for pair in &pairs {
            clients.extend(answered(pair, entry, IDLE)?);
        }
        let after = self.at_rest(&pairs)?;
        for (pair, (before, after)) in pairs.iter().zip(before.iter().zip(&after)) {
            if entry == Entry::Http {
                results.add(&pair.name, "at-rest", largest(before));
            }
            let each = |side: usize| {
                let more = after[side].resident.saturating_sub(before[side].resident);
                more as f64 / 1024.0 / IDLE as f64
            };
            let sample = Sample::from([
                ("outbound_kb_per_connection", each(0)),
                ("inbound_kb_per_connection", each(1)),
            ]);
            results.add(&pair.name, workload, sample);
        }
        drop(clients);
        Ok(())
    }

    /// After many connections have come and gone.
    fn gone(&self, entry: Entry, workload: &str, results: &mut Results) -> Result<()> {
        let pairs = self.pairs(entry)?;
        let before = self.at_rest(&pairs)?;
        for pair in &pairs {
            for _ in 0..GONE / AT_ONCE {
                answered(pair, entry, AT_ONCE)?;
            }
        }
        let after = self.at_rest(&pairs)?;
        for (pair, (before, after)) in pairs.iter().zip(before.iter().zip(&after)) {
            let growth = before.iter().zip(after).map(|(before, after)| {
                100.0 * (after.resident as f64 / before.resident as f64 - 1.0)
            });
            let mut sample = largest(after);
            sample.insert("growth_percent", growth.fold(f64::MIN, f64::max));
            results.add(&pair.name, workload, sample);
        }
        Ok(())
    }

    /// Idle connections of other sidecars, which only we can make for our own; and the control plane.
    fn idle_of_peers(&self, results: &mut Results) -> Result<()> {
        let mut mesh = Mesh::pair(self.backend.port(Entry::Http), Some("http"))?
            .setting("defaultDeny", false)
            .start()?;
        let before = self.at_rest_of(&mut mesh, "billing-1")?;
        let authority = Authority::of_mesh(&mesh.state_dir())?;
        let order = authority.issue(&Leaf::of("order")?, mesh.folder(), "order")?;
        let address = mesh.mesh_port("billing-1")?;
        let mut idle = Vec::new();
        for _ in 0..IDLE {
            let mut connection = Tls::connect(address, Some(&order))?;
            connection.accepted()?;
            idle.push(connection);
        }
        let after = self.at_rest_of(&mut mesh, "billing-1")?;
        let more = after.resident.saturating_sub(before.resident);
        let sample = Sample::from([
            (
                "inbound_kb_per_connection",
                more as f64 / 1024.0 / IDLE as f64,
            ),
            ("inbound_rss_kb", after.resident as f64 / 1024.0),
            (
                "control_plane_rss_kb",
                mesh.control_plane()?.resident()? as f64 / 1024.0,
            ),
        ]);
        results.add(System::OURS, "idle-mtls", sample);
        Ok(())
    }

    /// The caller's sidecar in meshes of 10 and of 10,000 endpoints, of which it uses one.
    fn mesh_size(&self, results: &mut Results) -> Result<()> {
        let mut held = Vec::new();
        for endpoints in [10, 10_000] {
            let mut mesh = Mesh::pair(self.backend.port(Entry::Http), Some("http"))?;
            for (name, yaml) in others(endpoints)? {
                mesh = mesh.file(&name, yaml);
            }
            let mut mesh = mesh.setting("defaultDeny", false).start()?;
            let address = mesh.upstream("order-1", "billing", 80)?;
            Client::open(address)?.ask(crate::open::REQUEST)?;
            held.push(self.at_rest_of(&mut mesh, "order-1")?.resident as f64 / 1024.0);
        }
        let sample = Sample::from([
            ("rss_of_10_kb", held[0]),
            ("rss_of_10000_kb", held[1]),
            ("growth_kb", held[1] - held[0]),
        ]);
        results.add(System::OURS, "mesh-size", sample);
        Ok(())
    }

    /// Those whose memory is their own: HAProxy is one, whatever it speaks.
    fn proxies(&self) -> impl Iterator<Item = &System> {
        let is_ours = |system: &&System| {
            !matches!(
                system,
                System::Direct | System::HaProxyH2 | System::Given(_)
            )
        };
        self.systems.iter().filter(is_ours)
    }

    /// Fresh ones of every system, which have each given one answer.
    fn pairs(&self, entry: Entry) -> Result<Vec<Pair>> {
        self.proxies()
            .map(|system| {
                let pair = system.prepare(self.backend)?.start()?;
                answered(&pair, entry, 1)?;
                Ok(pair)
            })
            .collect()
    }

    /// What the proxies of all pairs hold once none of them changes.
    fn at_rest(&self, pairs: &[Pair]) -> Result<Vec<Vec<Footprint>>> {
        let look = || {
            pairs
                .iter()
                .map(Pair::footprints)
                .collect::<Result<Vec<_>>>()
        };
        self.unchanged(look, |now, last| {
            let mut both = now.iter().flatten().zip(last.iter().flatten());
            both.all(|(now, last)| now.resident.abs_diff(last.resident) <= SAME)
        })
    }

    fn at_rest_of(&self, mesh: &mut Mesh, name: &str) -> Result<Footprint> {
        let process = mesh.process(name)?;
        self.unchanged(
            || process.footprint(),
            |now, last| now.resident.abs_diff(last.resident) <= SAME,
        )
    }

    /// What `look` sees once that has been the same for a while.
    fn unchanged<T>(
        &self,
        look: impl Fn() -> Result<T>,
        same: impl Fn(&T, &T) -> bool,
    ) -> Result<T> {
        let mut last = (look()?, Instant::now());
        eventually("memory is at rest", Duration::from_secs(90), || {
            // Every look walks the pages of all proxies.
            std::thread::sleep(Duration::from_millis(200));
            let now = look()?;
            if !same(&now, &last.0) {
                last = (now, Instant::now());
                return Ok(None);
            }
            Ok((last.1.elapsed() >= REST).then_some(now))
        })
    }
}

/// The larger of both proxies.
fn largest(footprints: &[Footprint]) -> Sample {
    let kb = |bytes: fn(Footprint) -> u64| {
        let most = footprints.iter().map(|footprint| bytes(*footprint)).max();
        most.unwrap_or_default() as f64 / 1024.0
    };
    Sample::from([
        ("rss_kb", kb(|footprint| footprint.resident)),
        ("rss_anonymous_kb", kb(|footprint| footprint.anonymous)),
        ("rss_file_kb", kb(Footprint::of_files)),
    ])
}

/// Connections that have had an answer each, and stay.
fn answered(pair: &Pair, entry: Entry, count: usize) -> Result<Vec<Client>> {
    let address = pair.entry(entry).context("an entry")?;
    (0..count)
        .map(|_| {
            let mut client = Client::open(address)?;
            client.ask(crate::open::REQUEST)?;
            Ok(client)
        })
        .collect::<Result<_>>()
        .with_context(|| format!("{} connections through {}", entry.name(), pair.name))
}

/// Files of workloads that the caller never calls, ten behind each Service.
fn others(count: usize) -> Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    for first in (0..count).step_by(250) {
        let mut documents = Vec::new();
        for number in first..count.min(first + 250) {
            let name = format!("other{}", number / 10);
            if number % 10 == 0 {
                documents.push(Service::new(&name).port(80, 8080, Some("http")).yaml());
            }
            let workload = Workload::new(&format!("{name}-{}", number % 10))?;
            let yaml = workload.port("app", 8080, Some("http")).yaml();
            let address = format!("address: 10.60.{}.{}", number / 250, number % 250 + 1);
            documents.push(yaml.replace("address: 127.0.0.1", &address));
        }
        files.push((format!("others-{first}.yaml"), documents.join("---\n")));
    }
    Ok(files)
}
