//! Puts the control plane together, and takes it apart again.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use anyhow::Context;
use outrider_certs::token::TokenIssuer;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::admin::{Admin, Readiness};
use crate::args::Args;
use crate::discovery::DiscoveryService;
use crate::identity::{IdentityService, SharedAuthority};
use crate::logging;
use crate::metrics::Metrics;
use crate::reload::{AuthorityFiles, ReloadError, Reloader};
use crate::server::tls::OwnCertificate;
use crate::server::{Server, Services};
use crate::source::watch::DirectoryWatch;
use crate::store::Store;
use crate::version::VersionCounter;

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
    reloader: JoinHandle<Result<(), ReloadError>>,
}

impl ControlPlane {
    /// Binds its addresses and starts. It serves sidecars from the first good configuration on.
    ///
    /// # Errors
    /// An address is in use, or the state directory cannot be used.
    pub async fn start(args: &Args) -> anyhow::Result<Self> {
        let state_dir = args.state_dir();
        // Only a state directory that was asked for is made with its parents: a mistyped configuration
        // directory is not.
        create_private(&state_dir, args.state_dir.is_some())
            .with_context(|| format!("the state directory {}", state_dir.display()))?;
        let (tokens, version) = open_state(&state_dir)?;
        let listener = bind(args.listen).await.context("--listen")?;
        let admin_listener = bind(args.admin).await.context("--admin")?;
        let (listen, admin) = (listener.local_addr()?, admin_listener.local_addr()?);

        let metrics = Metrics::new()?;
        let store = Store::new(version);
        let authority: SharedAuthority = Arc::new(OnceLock::new());
        let (shutdown, is_shutdown) = watch::channel(false);
        let (readiness, is_ready) = watch::channel(Readiness::NotReady(
            "the configuration has not been read yet".to_owned(),
        ));
        let (serving, is_serving) = watch::channel(None);
        let (keeper, kept) = mpsc::channel(1);

        let server = Server {
            listener,
            serving: is_serving,
            services: services(&tokens, &authority, &store, &metrics, &is_shutdown),
            metrics: metrics.clone(),
            shutdown: is_shutdown,
        };
        let reloader = Reloader {
            files: authority_files(args),
            authority: Arc::clone(&authority),
            store: Arc::clone(&store),
            metrics: metrics.clone(),
            readiness,
            own_certificate: Some(OwnCertificate {
                authority,
                store,
                serving,
                metrics: metrics.clone(),
            }),
            keeper,
        };
        let source = DirectoryWatch::new(args.config_dir.clone(), state_dir);
        let answering = Admin {
            metrics,
            readiness: is_ready,
        };
        tracing::info!(%listen, %admin, directory = %args.config_dir.display(), "listening");
        Ok(Self {
            listen,
            admin,
            shutdown,
            server: tokio::spawn(server.run()),
            background: vec![
                tokio::spawn(answering.run(admin_listener)),
                tokio::spawn(keep(kept)),
            ],
            reloader: tokio::spawn(reloader.run(source)),
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
        for task in self.background {
            task.abort();
            let _ = task.await;
        }
    }
}

fn services(
    tokens: &TokenIssuer,
    authority: &SharedAuthority,
    store: &Arc<Store>,
    metrics: &Metrics,
    shutdown: &watch::Receiver<bool>,
) -> Services {
    Services {
        identity: IdentityService::server(
            tokens.verifier(),
            Arc::clone(authority),
            Arc::clone(store),
            metrics.clone(),
        ),
        discovery: DiscoveryService::server(Arc::clone(store), metrics.clone(), shutdown.clone()),
    }
}

/// Keeps the own certificate, once there is one.
async fn keep(mut first: mpsc::Receiver<(OwnCertificate, SystemTime)>) {
    if let Some((own, renew_at)) = first.recv().await {
        own.keep(renew_at).await;
    }
}

fn open_state(state_dir: &Path) -> anyhow::Result<(TokenIssuer, VersionCounter)> {
    let tokens = TokenIssuer::load_or_create(state_dir).context("the key of bootstrap tokens")?;
    Ok((tokens, VersionCounter::open(state_dir, SystemTime::now())))
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

fn authority_files(args: &Args) -> AuthorityFiles {
    match (&args.ca_cert, &args.ca_key) {
        (Some(cert), Some(key)) => AuthorityFiles::Given {
            cert: cert.clone(),
            key: key.clone(),
        },
        _ => AuthorityFiles::Own(args.state_dir()),
    }
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))
}
