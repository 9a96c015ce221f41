use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use outrider_certs::authority::NewAuthority;
use outrider_certs::bundle::TrustBundle;
use outrider_certs::spiffe::TrustDomain;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::{Instant, timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::identity::SharedAuthority;
use crate::metrics::Metrics;

const NAME: &str = "outrider-control-plane.outrider-system.svc";
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// A time of day that goes with the runtime's, which is paused, and can be set.
#[derive(Clone)]
struct Clock {
    start: (SystemTime, Instant),
    /// In seconds.
    ahead: Arc<AtomicU64>,
}

impl Clock {
    fn new() -> Self {
        Self {
            start: (SystemTime::now(), Instant::now()),
            ahead: Arc::default(),
        }
    }

    fn now(&self) -> SystemTime {
        let ahead = Duration::from_secs(self.ahead.load(Ordering::SeqCst));
        self.start.0 + self.start.1.elapsed() + ahead
    }

    fn set_ahead(&self, by: Duration) {
        self.ahead.store(by.as_secs(), Ordering::SeqCst);
    }
}

/// A keeper at work.
struct Kept {
    clock: Clock,
    authority: SharedAuthority,
    serving: watch::Receiver<Option<Arc<ServerConfig>>>,
    metrics: WebhookMetrics,
}

impl Kept {
    /// Without an authority yet.
    fn start() -> Self {
        let clock = Clock::new();
        let authority = SharedAuthority::new();
        let (serving, published) = watch::channel(None);
        let metrics = Metrics::new().unwrap().webhook;
        let of_keeper = clock.clone();
        let keeper = Keeper {
            authority: authority.follow(),
            names: vec![ServerName::try_from(NAME).unwrap()],
            serving,
            metrics: metrics.clone(),
            clock: Box::new(move || of_keeper.now()),
        };
        tokio::spawn(keeper.keep());
        Self {
            clock,
            authority,
            serving: published,
            metrics,
        }
    }

    /// The next configuration that is published, and how long that took.
    async fn next(&mut self) -> (Arc<ServerConfig>, Duration) {
        let begin = Instant::now();
        timeout(24 * HOUR, self.serving.changed())
            .await
            .expect("a certificate within a day")
            .unwrap();
        let config = self.serving.borrow_and_update().clone();
        (config.unwrap(), begin.elapsed())
    }

    /// Of the metric.
    fn ends(&self) -> SystemTime {
        let seconds = self.metrics.certificate_expiry.get();
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.try_into().unwrap())
    }
}

fn authority(lifetime: Duration, now: SystemTime) -> CertificateAuthority {
    let domain: TrustDomain = "cluster.local".parse().unwrap();
    let made = NewAuthority::generate(&domain, lifetime, now).unwrap();
    let path = Path::new("the test's");
    let (certificate, key) = (made.certificate.as_bytes(), made.key.as_bytes());
    CertificateAuthority::from_pem((path, certificate), (path, key), &domain).unwrap()
}

/// The certificate that a client sees at `now` who trusts `bundle`; an error where it does not take it.
async fn shake_hands(
    config: &Arc<ServerConfig>,
    bundle: &TrustBundle,
    now: SystemTime,
) -> io::Result<CertificateDer<'static>> {
    let name = ServerName::try_from(NAME).unwrap();
    let (near, far) = tokio::io::duplex(16 * 1024);
    let (connected, accepted) = tokio::join!(
        TlsConnector::from(client(bundle, now)).connect(name, near),
        TlsAcceptor::from(Arc::clone(config)).accept(far),
    );
    let connected = connected?;
    accepted?;
    let chain = connected.get_ref().1.peer_certificates().unwrap();
    Ok(chain[0].clone().into_owned())
}

fn client(bundle: &TrustBundle, now: SystemTime) -> Arc<ClientConfig> {
    #[derive(Debug)]
    struct At(UnixTime);
    impl TimeProvider for At {
        fn current_time(&self) -> Option<UnixTime> {
            Some(self.0)
        }
    }
    let mut roots = RootCertStore::empty();
    for anchor in bundle.anchors() {
        roots.add(anchor.clone()).unwrap();
    }
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let at = Arc::new(At(UnixTime::since_unix_epoch(now)));
    let config = ClientConfig::builder_with_details(Arc::new(default_provider()), at)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

#[tokio::test(start_paused = true)]
async fn it_is_renewed_between_a_third_and_a_half_of_its_life() {
    let mut kept = Kept::start();
    let issuer = authority(YEAR, kept.clock.now());
    let bundle = issuer.trust_bundle();
    kept.authority.replace(issuer);
    let (mut config, waited) = kept.next().await;
    assert!(waited < SECOND, "{waited:?}");
    for _ in 0..4 {
        let (issued, ends) = (kept.clock.now(), kept.ends());
        let lifetime = ends.duration_since(issued).unwrap();
        assert!(lifetime <= LIFETIME && lifetime > LIFETIME - 2 * SECOND);
        let before = shake_hands(&config, &bundle, issued).await.unwrap();

        let (renewed, lived) = kept.next().await;
        // It is back-dated by five minutes.
        let back_dated = Duration::from_secs(300);
        let (third, half) = (LIFETIME / 3 - back_dated, LIFETIME / 2);
        assert!(lived > third && lived < half, "{lived:?}");
        assert!(kept.ends() > ends);
        // Whoever connects at that moment meets a good one, whichever it is.
        let now = kept.clock.now();
        assert_eq!(shake_hands(&config, &bundle, now).await.unwrap(), before);
        let after = shake_hands(&renewed, &bundle, now).await.unwrap();
        assert_ne!(after, before);
        // Not so much later.
        let late = ends + SECOND;
        assert!(shake_hands(&config, &bundle, late).await.is_err());
        assert_eq!(shake_hands(&renewed, &bundle, late).await.unwrap(), after);
        config = renewed;
    }
}

#[tokio::test(start_paused = true)]
async fn another_authority_signs_another_at_once() {
    let mut kept = Kept::start();
    let (old, new) = (
        authority(YEAR, kept.clock.now()),
        authority(YEAR, kept.clock.now()),
    );
    let (trusts_old, trusts_new) = (old.trust_bundle(), new.trust_bundle());
    let new = new.trusting(&trusts_old).unwrap();
    let trusts_both = new.trust_bundle();
    kept.authority.replace(old);
    let (config, _) = kept.next().await;
    let now = kept.clock.now();
    let before = shake_hands(&config, &trusts_old, now).await.unwrap();
    assert!(shake_hands(&config, &trusts_new, now).await.is_err());

    sleep(HOUR).await;
    kept.authority.replace(new);
    let (renewed, waited) = kept.next().await;
    assert!(waited < SECOND, "{waited:?}");
    let now = kept.clock.now();
    // A connection that has taken the old one, and the API server that trusts both already.
    assert_eq!(
        shake_hands(&config, &trusts_both, now).await.unwrap(),
        before
    );
    let after = shake_hands(&renewed, &trusts_both, now).await.unwrap();
    assert_ne!(after, before);
    assert_eq!(
        shake_hands(&renewed, &trusts_new, now).await.unwrap(),
        after
    );
    assert!(shake_hands(&renewed, &trusts_old, now).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_has_ended_is_followed_by_the_next_at_once() {
    let mut kept = Kept::start();
    let ended = authority(HOUR, kept.clock.now() - 2 * HOUR);
    kept.authority.replace(ended);
    // So long that it is tried as seldom as it ever is.
    sleep(HOUR).await;
    assert!(kept.serving.borrow().is_none());
    for _ in 0..4 {
        let issuer = authority(YEAR, kept.clock.now());
        let bundle = issuer.trust_bundle();
        kept.authority.replace(issuer);
        let (config, waited) = kept.next().await;
        assert!(waited < SECOND, "{waited:?}");
        let now = kept.clock.now();
        shake_hands(&config, &bundle, now).await.unwrap();
        // Another that is of no use leaves what is served.
        let ended = authority(HOUR, kept.clock.now() - 2 * HOUR);
        kept.authority.replace(ended);
        sleep(HOUR).await;
        assert!(!kept.serving.has_changed().unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_is_noticed_within_a_minute() {
    let mut kept = Kept::start();
    let issuer = authority(YEAR, kept.clock.now());
    let bundle = issuer.trust_bundle();
    kept.authority.replace(issuer);
    let (config, _) = kept.next().await;
    // It has ended by then.
    kept.clock.set_ahead(2 * LIFETIME);
    assert!(
        shake_hands(&config, &bundle, kept.clock.now())
            .await
            .is_err()
    );
    let (renewed, waited) = kept.next().await;
    assert!(waited <= LOOK + SECOND, "{waited:?}");
    let now = kept.clock.now();
    shake_hands(&renewed, &bundle, now).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_last_authority_is_used_when_no_other_can_come() {
    let mut kept = Kept::start();
    let issuer = authority(YEAR, kept.clock.now());
    let bundle = issuer.trust_bundle();
    kept.authority.replace(issuer);
    let (config, _) = kept.next().await;
    kept.authority = SharedAuthority::new();
    let (renewed, lived) = kept.next().await;
    assert!(lived > LIFETIME / 4 && lived < LIFETIME / 2, "{lived:?}");
    let now = kept.clock.now();
    let before = shake_hands(&config, &bundle, now).await.unwrap();
    assert_ne!(shake_hands(&renewed, &bundle, now).await.unwrap(), before);
}
