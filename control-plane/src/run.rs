//! Puts the control plane together, and takes it apart again.

mod cluster;

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use outrider_certs::token::TokenIssuer;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::admin::{Admin, Programmed, Readiness, Trusted};
use crate::args::{Args, Mode};
use crate::discovery::{DiscoveryService, Fleet};
use crate::identity::{IdentityService, SharedAuthority, Tokens};
use crate::kubernetes;
use crate::logging;
use crate::metrics::Metrics;
use crate::reload::{Authorities, AuthorityFiles, ReloadError, Reloader};
use crate::server::tls::OwnCertificate;
use crate::server::{Server, Services};
use crate::source::Source;
use crate::source::watch::DirectoryWatch;
use crate::store::Store;
use crate::version::VersionCounter;

/// How long the tasks of a cluster may take to end.
const ENDING: Duration = Duration::from_secs(3);

/// Runs a control plane until `shutdown`, then lets streams end.
///
/// # Errors
/// It could not start (a port in use, a state directory that cannot be written), or there is a mesh
/// and no certificate authority for it.
pub async fn run(args: Args, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    logging::init(&args).context("--log-level")?;
    let mut control_plane = ControlPlane::start(&args).await?;
    tokio::select! {
        failed = control_plane.failed() => Err(failed),
        () = shutdown => {
            tracing::info!("shutting down");
            control_plane.shut_down().await;
            Ok(())
        }
    }
}

/// A control plane that runs.
pub struct ControlPlane {
    listen: SocketAddr,
    admin: SocketAddr,
    shutdown: watch::Sender<bool>,
    server: JoinHandle<()>,
    background: Vec<JoinHandle<()>>,
    ending: Vec<JoinHandle<()>>,
    reloader: JoinHandle<Result<(), ReloadError>>,
}

/// What one mode has, and the other has not.
struct Parts {
    source: Source,
    authorities: Authorities,
    tokens: Tokens,
    /// How far sidecars are with each object of a cluster.
    programmed: Option<Programmed>,
    /// Further tasks, which end when they hear of the shutdown.
    ending: Vec<JoinHandle<()>>,
    /// Those that are ended.
    background: Vec<JoinHandle<()>>,
}

impl ControlPlane {
    /// Binds its addresses and starts. It serves sidecars from the first good configuration on.
    ///
    /// # Errors
    /// An address is in use, the state directory cannot be used, or there is no API server to be
    /// found.
    pub async fn start(args: &Args) -> anyhow::Result<Self> {
        match args.mode() {
            Mode::Directory {
                config_dir,
                state_dir,
            } => Self::of_directory(args, config_dir, state_dir).await,
            Mode::Kubernetes => Self::of_kubernetes(args).await,
        }
    }

    /// Files say everything, and state is kept in files.
    async fn of_directory(
        args: &Args,
        config_dir: PathBuf,
        state_dir: PathBuf,
    ) -> anyhow::Result<Self> {
        // Only a state directory that was asked for is made with its parents: a mistyped configuration
        // directory is not.
        create_private(&state_dir, args.state_dir.is_some())
            .with_context(|| format!("the state directory {}", state_dir.display()))?;
        let tokens =
            TokenIssuer::load_or_create(&state_dir).context("the key of bootstrap tokens")?;
        let version = VersionCounter::open(&state_dir, SystemTime::now());
        let base = Base::bind(args, version).await?;
        let (listen, admin) = base.addresses()?;
        tracing::info!(%listen, %admin, directory = %config_dir.display(), "listening");
        base.start(Parts {
            authorities: Authorities::Files(authority_files(args, &state_dir)),
            tokens: Tokens::Signed(tokens.verifier()),
            programmed: None,
            source: Source::Directory(DirectoryWatch::new(config_dir, state_dir)),
            ending: Vec::new(),
            background: Vec::new(),
        })
    }

    /// The API server says everything, and keeps the state.
    async fn of_kubernetes(args: &Args) -> anyhow::Result<Self> {
        let client = kubernetes::client().await?;
        let base = Base::bind(args, VersionCounter::in_memory(SystemTime::now())).await?;
        let (listen, admin) = base.addresses()?;
        let context = kubernetes::Context {
            client,
            namespace: args.cluster.namespace.clone(),
            trust_domain: args.cluster.trust_domain.clone(),
            metrics: base.metrics.clone(),
        };
        let (source, view) = kubernetes::Source::new(context.clone(), base.readiness.clone());
        let progress = kubernetes::Progress {
            view: view.clone(),
            store: Arc::clone(&base.store),
            fleet: Arc::clone(&base.fleet),
        };
        let identity = cluster::Identity {
            context: &context,
            cluster: &args.cluster,
            given: given_authority(args),
            meshed: view.meshed.clone(),
            admin: admin.port(),
            progress: progress.clone(),
        };
        let (authorities, ending, is_leader) = identity.start(&base);
        let webhooks = cluster::webhooks(&context, &args.cluster, &base, view, is_leader).await?;
        tracing::info!(%listen, %admin, namespace = context.namespace, "listening");
        base.start(Parts {
            authorities,
            tokens: cluster::tokens(&context, &args.cluster),
            programmed: Some(Arc::new(move || progress.answer())),
            source: Source::Kubernetes(Box::new(source)),
            ending,
            background: webhooks.start(),
        })
    }

    /// Where sidecars connect to.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Where /live, /ready and /metrics are.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Waits until it cannot go on, and says why.
    pub async fn failed(&mut self) -> anyhow::Error {
        match (&mut self.reloader).await {
            Ok(Ok(())) => anyhow::anyhow!("the configuration is no longer watched"),
            Ok(Err(error)) => error.into(),
            Err(error) => error.into(),
        }
    }

    /// Tells every stream to end, and waits a few seconds for it.
    pub async fn shut_down(self) {
        self.reloader.abort();
        self.shutdown.send_replace(true);
        // Whatever has panicked is shut down as well.
        let _ = self.server.await;
        let _ = self.reloader.await;
        let ending = futures_util::future::join_all(self.ending);
        let _ = tokio::time::timeout(ENDING, ending).await;
        for task in self.background {
            task.abort();
            let _ = task.await;
        }
    }
}

/// What every mode has.
struct Base {
    listener: TcpListener,
    admin: TcpListener,
    metrics: Metrics,
    store: Arc<Store>,
    authority: SharedAuthority,
    fleet: Arc<Fleet>,
    shutdown: watch::Sender<bool>,
    readiness: watch::Sender<Readiness>,
}

impl Base {
    async fn bind(args: &Args, version: VersionCounter) -> anyhow::Result<Self> {
        let metrics = Metrics::new()?;
        Ok(Self {
            listener: bind(args.listen()).await.context("--listen")?,
            admin: bind(args.admin()).await.context("--admin")?,
            fleet: Fleet::new(metrics.clone()),
            metrics,
            store: Store::new(version),
            authority: SharedAuthority::new(),
            shutdown: watch::Sender::new(false),
            readiness: watch::Sender::new(Readiness::NotReady(
                "the configuration has not been read yet".to_owned(),
            )),
        })
    }

    fn addresses(&self) -> std::io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.listener.local_addr()?, self.admin.local_addr()?))
    }

    fn start(self, parts: Parts) -> anyhow::Result<ControlPlane> {
        let (listen, admin) = self.addresses()?;
        let (serving, is_serving) = watch::channel(None);
        let (keeper, kept) = mpsc::channel(1);
        let services = self.services(parts.tokens);
        let trusted = self.trusted();
        let server = Server {
            listener: self.listener,
            serving: is_serving,
            services,
            metrics: self.metrics.clone(),
            shutdown: self.shutdown.subscribe(),
        };
        let reloader = Reloader {
            authorities: parts.authorities,
            authority: self.authority.clone(),
            store: Arc::clone(&self.store),
            metrics: self.metrics.clone(),
            readiness: self.readiness.clone(),
            own_certificate: Some(OwnCertificate {
                authority: self.authority.follow(),
                store: self.store,
                serving,
                metrics: self.metrics.clone(),
            }),
            keeper,
        };
        let answering = Admin {
            metrics: self.metrics,
            readiness: self.readiness.subscribe(),
            trusted,
            programmed: parts.programmed,
        };
        let mut background = vec![
            tokio::spawn(answering.run(self.admin)),
            tokio::spawn(keep(kept)),
        ];
        background.extend(parts.background);
        Ok(ControlPlane {
            listen,
            admin,
            shutdown: self.shutdown,
            server: tokio::spawn(server.run()),
            background,
            ending: parts.ending,
            reloader: tokio::spawn(reloader.run(parts.source)),
        })
    }

    fn trusted(&self) -> Trusted {
        Trusted {
            authority: self.authority.clone(),
            fleet: Arc::clone(&self.fleet),
        }
    }

    fn services(&self, tokens: Tokens) -> Services {
        let (store, metrics) = (&self.store, &self.metrics);
        Services {
            identity: IdentityService::server(
                tokens,
                self.authority.clone(),
                Arc::clone(store),
                metrics.clone(),
            ),
            discovery: DiscoveryService::server(
                Arc::clone(store),
                Arc::clone(&self.fleet),
                metrics.clone(),
                self.shutdown.subscribe(),
            ),
        }
    }
}

/// Keeps the own certificate, once there is one.
async fn keep(mut first: mpsc::Receiver<(OwnCertificate, SystemTime)>) {
    if let Some((own, renew_at)) = first.recv().await {
        own.keep(renew_at).await;
    }
}

/// Keys are kept there.
fn create_private(dir: &Path, with_parents: bool) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = std::fs::DirBuilder::new();
    match builder.recursive(with_parents).mode(0o700).create(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        result => result,
    }
}

fn authority_files(args: &Args, state_dir: &Path) -> AuthorityFiles {
    given_authority(args).unwrap_or_else(|| AuthorityFiles::Own(state_dir.to_owned()))
}

fn given_authority(args: &Args) -> Option<AuthorityFiles> {
    let (cert, key) = args.ca_cert.clone().zip(args.ca_key.clone())?;
    Some(AuthorityFiles::Given { cert, key })
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))
}
