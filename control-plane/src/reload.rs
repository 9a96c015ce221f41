//! From what the source holds to what sidecars are told: read, judged, and applied whole or not at
//! all. The only writer of the store, the readiness and the configuration's metrics.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use outrider_api::manifest::Problem;
use outrider_certs::authority::{AuthorityError, CertificateAuthority};
use outrider_certs::spiffe::TrustDomain;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, spawn_blocking};

use crate::admin::Readiness;
use crate::identity::{Replacements, SharedAuthority};
use crate::index::Mesh;
use crate::logging::one_line;
use crate::metrics::{Metrics, gauge_value, unix_seconds};
use crate::server::tls::{OwnCertificate, OwnCertificateError};
use crate::source::{Change, Seen, Source};
use crate::store::{Published, Store};

/// So many problems are logged; a thousand lines help nobody.
const MAX_LOGGED: usize = 50;
/// A problem quotes what somebody wrote.
const MAX_LINE_BYTES: usize = 2048;

/// Why the control plane cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReloadError {
    #[error("the certificate authority: {0}")]
    Authority(#[from] AuthorityError),
    #[error("the control plane's own certificate: {0}")]
    OwnCertificate(#[from] OwnCertificateError),
    #[error("a change of the configuration was not finished: {0}")]
    Unfinished(#[from] JoinError),
}

/// Where the certificate authority comes from.
#[derive(Clone, Debug)]
pub(crate) enum AuthorityFiles {
    /// Made and kept here.
    Own(PathBuf),
    /// Given.
    Given { cert: PathBuf, key: PathBuf },
}

impl AuthorityFiles {
    fn open(&self, trust_domain: &TrustDomain) -> Result<CertificateAuthority, AuthorityError> {
        match self {
            Self::Own(dir) => {
                CertificateAuthority::load_or_create(dir, trust_domain, SystemTime::now())
            }
            Self::Given { cert, key } => CertificateAuthority::from_files(cert, key, trust_domain),
        }
    }
}

/// Who says where the certificate authority comes from.
#[derive(Clone, Debug)]
pub(crate) enum Authorities {
    /// Files.
    Files(AuthorityFiles),
    /// A Secret, which another task keeps, once it knows of which trust domain.
    Secret(watch::Sender<Option<TrustDomain>>),
}

impl Authorities {
    /// Has `authority` be that of a trust domain; waits until there is one.
    async fn open(
        &self,
        trust_domain: TrustDomain,
        authority: &SharedAuthority,
    ) -> Result<(), ReloadError> {
        match self {
            Self::Files(files) => {
                let files = files.clone();
                let opened = spawn_blocking(move || files.open(&trust_domain)).await??;
                authority.replace(opened);
            }
            Self::Secret(known) => {
                known.send_replace(Some(trust_domain));
                // It is held by `authority` for as long as this waits.
                let _ = authority.follow().wait_for(Option::is_some).await;
            }
        }
        Ok(())
    }
}

/// See the module.
pub(crate) struct Reloader {
    pub(crate) authorities: Authorities,
    pub(crate) authority: SharedAuthority,
    pub(crate) store: Arc<Store>,
    pub(crate) metrics: Metrics,
    pub(crate) readiness: watch::Sender<Readiness>,
    /// Takes its place once there is an authority.
    pub(crate) own_certificate: Option<OwnCertificate>,
    /// When that is to be renewed, for the task that does it.
    pub(crate) keeper: mpsc::Sender<(OwnCertificate, SystemTime)>,
}

impl Reloader {
    /// Applies every change for ever, those of the authority too: what was seen last then means the same,
    /// but for whom to trust.
    ///
    /// # Errors
    /// There is a mesh, but no authority for it.
    pub(crate) async fn run(mut self, mut source: Source) -> Result<(), ReloadError> {
        let mut authority = self.authority.follow();
        let mut last: Option<Arc<Seen>> = None;
        loop {
            // Waits on while the authority changes, since it may have noticed something already.
            let next = source.next();
            tokio::pin!(next);
            let Change { noticed, seen } = loop {
                tokio::select! {
                    change = &mut next => break change?,
                    Ok(()) = authority.changed() => {
                        if let Some(seen) = &last {
                            self.take(seen, Instant::now(), &mut authority).await?;
                        }
                    }
                }
            };
            let seen = Arc::new(seen);
            self.take(&seen, noticed, &mut authority).await?;
            last = Some(seen);
        }
    }

    async fn take(
        &mut self,
        seen: &Arc<Seen>,
        noticed: Instant,
        authority: &mut Replacements,
    ) -> Result<(), ReloadError> {
        let mesh = match judge(seen, authority).await? {
            // The first good mesh says of which trust domain the authority is; then the mesh can say
            // whom to trust.
            Ok(mesh) if self.authority.current().is_none() => {
                self.found(&mesh).await?;
                judge(seen, authority).await?
            }
            judged => judged,
        };
        match mesh {
            Ok(mesh) => self.apply(Arc::new(mesh), noticed, seen.len()).await?,
            Err(problems) => self.refuse(&problems),
        }
        seen.settle();
        Ok(())
    }

    async fn found(&self, mesh: &Mesh) -> Result<(), ReloadError> {
        let trust_domain = mesh.settings().trust_domain.clone();
        if self.store.mesh().is_none() {
            let waiting = "waiting for the certificate authority".to_owned();
            self.readiness.send_replace(Readiness::NotReady(waiting));
        }
        self.authorities
            .open(trust_domain.clone(), &self.authority)
            .await?;
        tracing::info!(%trust_domain, "the certificate authority is ready");
        Ok(())
    }

    async fn apply(
        &mut self,
        mesh: Arc<Mesh>,
        noticed: Instant,
        seen: usize,
    ) -> Result<(), ReloadError> {
        let (workloads, services) = (mesh.workloads().len(), mesh.destinations().len());
        let warnings = mesh.warnings().to_vec();
        let store = Arc::clone(&self.store);
        let before = store.version();
        let Published { version, changed } =
            spawn_blocking(move || store.publish(mesh, noticed)).await?;
        // Once for each version: a file that is written again says nothing new.
        if version != before {
            for warning in warnings.iter().take(MAX_LOGGED) {
                tracing::warn!("{}", one_line(&warning.to_string(), MAX_LINE_BYTES));
            }
        }
        if let Some(mut own) = self.own_certificate.take() {
            let renew_at = own.publish()?;
            // Only at the end of the process is nobody there to take it.
            let _ = self.keeper.send((own, renew_at)).await;
        }
        self.readiness.send_replace(Readiness::Ready);
        // A withdrawal may have come after it.
        let newest = gauge_value(self.store.version());
        self.metrics.resource_version.set(newest);
        self.metrics.config.valid.set(1);
        self.metrics.config.problems.set(0);
        self.metrics
            .config
            .last_success
            .set(unix_seconds(SystemTime::now()));
        self.reloaded("applied");
        if version == before && self.own_certificate.is_none() && changed == 0 {
            tracing::debug!(
                version,
                seen,
                "the configuration was applied, and changes nothing"
            );
            return Ok(());
        }
        tracing::info!(
            version,
            changed,
            seen,
            workloads,
            services,
            warnings = warnings.len(),
            "the configuration was applied"
        );
        Ok(())
    }

    /// The last good mesh stays.
    fn refuse(&self, problems: &[Problem]) {
        for problem in problems.iter().take(MAX_LOGGED) {
            tracing::error!("{}", one_line(&problem.to_string(), MAX_LINE_BYTES));
        }
        let kept = match self.store.mesh() {
            Some(_) => "the last good one stays",
            None => "nothing is served yet",
        };
        tracing::error!(
            problems = problems.len(),
            version = self.store.version(),
            "the configuration was refused; {kept}"
        );
        if self.store.mesh().is_none() {
            let first = problems.first().map(ToString::to_string);
            self.readiness.send_replace(Readiness::NotReady(format!(
                "no good configuration yet, {} problem(s): {}",
                problems.len(),
                one_line(&first.unwrap_or_default(), MAX_LINE_BYTES)
            )));
        }
        self.metrics.config.valid.set(0);
        self.metrics
            .config
            .problems
            .set(i64::try_from(problems.len()).unwrap_or(i64::MAX));
        self.reloaded("refused");
    }

    fn reloaded(&self, result: &str) {
        self.metrics
            .config
            .reloads
            .with_label_values(&[result])
            .inc();
    }
}

/// What `seen` means to who trusts the newest authority.
async fn judge(
    seen: &Arc<Seen>,
    authority: &mut Replacements,
) -> Result<Result<Mesh, Vec<Problem>>, JoinError> {
    let seen = Arc::clone(seen);
    let newest = authority.borrow_and_update().clone();
    let trust = newest.map(|authority| authority.trust_bundle());
    spawn_blocking(move || seen.judge(trust.as_ref())).await
}
