//! Starting, waiting and ending: the threads of a sidecar and what goes between them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use outrider_certs::bundle::TrustBundle;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};

use crate::args::Args;
use crate::containers;
use crate::control::anchors::AnchorFile;
use crate::control::discovery::{Discovery, DiscoverySource, Leaving, Seen};
use crate::control::identity::{self, IdentitySource};
use crate::control::subjects::Subjects;
use crate::departure::Departure;
use crate::descriptors;
use crate::handover::{self, Inherited, Predecessor};
use crate::inbound::limits;
use crate::intercept::Interception;
use crate::listen::{self, ListenError, Options};
use crate::logging;
use crate::strangers;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::server::{self, Surface, View};
use crate::traffic::context::Contexts;
use crate::user;
use crate::worker::{self, Ending, Shared, SocketsWanted};

/// Subscriptions that may wait for the control thread.
const QUEUE: usize = 1024;
/// A sidecar that was replaced is gone after so long: the longest drain timeout.
const PREDECESSOR_GONE: Duration = Duration::from_secs(3600);

/// Runs the sidecar until SIGTERM or SIGINT, and drains.
///
/// # Errors
///
/// What cannot be read, and a port that cannot be listened on.
pub fn run(args: Args) -> anyhow::Result<()> {
    if let Some(user) = args.user {
        user::become_user(user, args.intercept)?;
    }
    let log_level = logging::init(args.log_format, &args.log_level)?;
    descriptors::raise_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(args, log_level))
}

async fn serve(args: Args, log_level: logging::LogLevel) -> anyhow::Result<()> {
    let bundle = std::fs::read(&args.trust_bundle).with_context(|| {
        format!(
            "cannot read the trust bundle {}",
            args.trust_bundle.display()
        )
    })?;
    let bundle = TrustBundle::from_pem(args.trust_domain.clone(), &bundle)
        .with_context(|| format!("the trust bundle {}", args.trust_bundle.display()))?;
    let metrics = Arc::new(Metrics::new()?);
    let interception = args.intercept.map(|mode| Interception {
        mode,
        outbound_port: args.outbound_port,
        inbound_port: args.inbound_port,
        own_ports: [args.telemetry.port(), args.admin.port()],
    });
    let (workload, workload_state) = watch::channel(None);
    let (credentials, credentials_state) = watch::channel(None);
    let (last_heard, last_heard_state) = watch::channel::<Option<Instant>>(None);
    let known = Subjects::default();
    let (listening, listening_state) = watch::channel(false);
    let (ending, ending_state) = watch::channel(Ending::No);
    let told = watch::Sender::new(false);
    let (terminating, terminating_state) = watch::channel(false);
    let (withdrawn, withdrawn_state) = watch::channel(false);
    let (subscriptions, subscribed) = mpsc::channel(QUEUE);
    let (first_listening, mut listened) = mpsc::unbounded_channel();

    let departure = Departure {
        told: told.clone(),
        terminating: terminating_state,
        withdrawn: withdrawn_state,
        workload: workload_state.clone(),
        metrics: Arc::clone(&metrics),
        drain_timeout: args.drain_timeout,
    };
    let view = View {
        metrics: Arc::clone(&metrics),
        workload: workload_state.clone(),
        credentials: credentials_state.clone(),
        listening: listening_state,
        departure: departure.clone(),
        last_heard: last_heard_state,
        known: known.clone(),
        log_level,
    };
    let handover = args.handover.as_deref();
    let (inherited, mut predecessor) = take_over(handover).await?;
    let listen = |address, purpose| {
        listen::bind(address, purpose, Options::default(), &inherited).map(Arc::new)
    };
    let telemetry = listen(args.telemetry, "telemetry")?;
    let admin = listen(args.admin, "admin")?;
    let own = [
        (args.telemetry, Arc::clone(&telemetry)),
        (args.admin, Arc::clone(&admin)),
    ];
    let surfaces = || {
        [
            (Arc::clone(&telemetry), Surface::Telemetry),
            (Arc::clone(&admin), Surface::Admin),
        ]
        .map(|(listener, surface)| tokio::spawn(server::serve(listener, surface, view.clone())))
    };
    // As long as there is a sidecar before, that one is asked how the sidecar is.
    let mut answering = predecessor.is_none().then(&surfaces);

    let anchors = AnchorFile {
        path: args.trust_bundle,
        trust_domain: args.trust_domain,
    };
    let identity = IdentitySource {
        control_plane: args.control_plane.clone(),
        token_file: args.token_file,
        bundle,
        anchors: anchors.clone(),
    };
    tokio::spawn(identity::keep(
        identity,
        credentials,
        workload_state.clone(),
        Arc::clone(&metrics),
    ));
    let discovery = DiscoverySource {
        control_plane: args.control_plane,
        anchors,
        namespace: args.workload.namespace,
        workload: args.workload.name,
    };
    let discovery = Discovery::new(
        discovery,
        credentials_state.clone(),
        subscribed,
        workload,
        Arc::clone(&metrics),
        Seen { last_heard, known },
        Leaving {
            told,
            terminating,
            withdrawn,
        },
    );
    tokio::spawn(discovery.run());

    let shared = Shared {
        workload: workload_state,
        credentials: credentials_state,
        subscriptions,
        limits: Arc::new(limits::Shared::new(&metrics)),
        metrics,
        contexts: Arc::new(Contexts::new(Instant::now())),
        ending: ending_state,
        inherited: Arc::clone(&inherited),
        listening: first_listening,
        many: args.workers > 1,
        interception,
        drain_timeout: args.drain_timeout,
    };
    let (workers, sockets) = start(&shared, args.workers)?;
    let lookout = shared.interception.is_some().then(|| {
        // Until it has drained, the sidecar before is a stranger with our user.
        let after = predecessor
            .as_ref()
            .map_or(Duration::ZERO, |_| PREDECESSOR_GONE);
        tokio::spawn(strangers::watch(Arc::clone(&shared.metrics), after))
    });
    drop(shared);

    let (mut terminated, mut interrupted) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let mut why = Ending::Terminated;
    tokio::select! {
        result = all_listen(&mut listened, args.workers) => {
            result?;
            inherited.close();
            if let Some(predecessor) = predecessor.take() {
                tokio::task::spawn_blocking(|| predecessor.relieve())
                    .await?
                    .context("cannot replace the sidecar before")?;
            }
            let answering = answering.get_or_insert_with(&surfaces);
            let successor = successor(handover, own, sockets);
            listening.send_replace(true);
            tracing::info!("ready");
            tokio::select! {
                _ = terminated.recv() => {}
                _ = interrupted.recv() => why = Ending::Alone,
                () = others_ended(args.end_with) => {
                    why = Ending::Alone;
                    tracing::info!("the app has ended");
                }
                () = successor => {
                    why = Ending::Replaced;
                    answering.iter().for_each(|surface| surface.abort());
                }
            }
        }
        _ = terminated.recv() => {}
        _ = interrupted.recv() => why = Ending::Alone,
    }
    if let Some(lookout) = lookout {
        lookout.abort();
    }
    if why != Ending::Replaced {
        // A second signal does not wait.
        tokio::select! {
            () = departure.announced() => {}
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
    }
    ending.send_replace(why);
    tokio::select! {
        joined = tokio::task::spawn_blocking(move || join(workers)) => joined??,
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
    }
    Ok(())
}

/// Resolves when the other containers have ended, if that is what this one is to end with.
async fn others_ended(count: Option<u16>) {
    match count {
        Some(count) => containers::ended(count).await,
        None => std::future::pending().await,
    }
}

/// What the sidecar before hands over, where there is one.
async fn take_over(path: Option<&Path>) -> anyhow::Result<(Arc<Inherited>, Option<Predecessor>)> {
    let Some(path) = path.map(Path::to_path_buf) else {
        return Ok(Default::default());
    };
    let shown = path.display().to_string();
    let taken = tokio::task::spawn_blocking(move || handover::take_over(&path)).await?;
    let taken = taken.with_context(|| format!("cannot take over at {shown}"))?;
    Ok(match taken {
        Some((inherited, predecessor)) => {
            tracing::info!(path = shown, "took over the ports of the sidecar before");
            (Arc::new(inherited), Some(predecessor))
        }
        None => Default::default(),
    })
}

/// Resolves when another process has the ports of this one, and serves.
async fn successor(
    path: Option<&Path>,
    own: [(SocketAddr, Arc<TcpListener>); 2],
    workers: Vec<SocketsWanted>,
) {
    let Some(path) = path.map(Path::to_path_buf) else {
        return std::future::pending().await;
    };
    let (replaced, told) = oneshot::channel();
    // A thread of its own, not of a pool: it mostly waits for as long as the process lives.
    let waiting = std::thread::Builder::new()
        .name("handover".to_owned())
        .spawn(move || {
            let sockets = || {
                let ask = |worker: &SocketsWanted| {
                    let (reply, answer) = oneshot::channel();
                    worker.blocking_send(reply).ok()?;
                    answer.blocking_recv().ok()
                };
                let own = own
                    .iter()
                    .filter_map(|(address, listener)| listen::copy(*address, listener));
                own.chain(workers.iter().filter_map(ask).flatten())
                    .collect()
            };
            let result = handover::wait_for_successor(&path, sockets);
            let _ = replaced.send(result);
        });
    if let Err(error) = waiting {
        tracing::error!(%error, "this sidecar cannot be replaced without closing its ports");
    }
    match told.await {
        Ok(Ok(())) => tracing::info!("replaced: another process has the ports"),
        Ok(Err(error)) => {
            tracing::error!(%error, "this sidecar cannot be replaced without closing its ports");
            std::future::pending().await
        }
        Err(_) => std::future::pending().await,
    }
}

/// Threads that carry traffic, and how to ask each for its sockets.
type Workers = (Vec<JoinHandle<std::io::Result<()>>>, Vec<SocketsWanted>);

fn start(shared: &Shared, count: u16) -> anyhow::Result<Workers> {
    let start = |index| {
        let shared = shared.clone();
        let (wanted, wants) = mpsc::channel(1);
        let thread = std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || worker::run(shared, wants))
            .context("cannot start a worker thread")?;
        Ok((thread, wanted))
    };
    (0..count).map(start).collect()
}

async fn all_listen(
    listened: &mut mpsc::UnboundedReceiver<Result<(), ListenError>>,
    workers: u16,
) -> Result<(), ListenError> {
    for _ in 0..workers {
        match listened.recv().await {
            Some(result) => result?,
            // The workers have ended: so will the sidecar.
            None => break,
        }
    }
    Ok(())
}

fn join(workers: Vec<JoinHandle<std::io::Result<()>>>) -> anyhow::Result<()> {
    for worker in workers {
        worker
            .join()
            .map_err(|_| anyhow::anyhow!("a worker thread panicked"))??;
    }
    Ok(())
}
