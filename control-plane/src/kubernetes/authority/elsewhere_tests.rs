use k8s_openapi::ByteString;
use outrider_certs::authority::NewAuthority;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use super::*;
use crate::admin::Trusted;
use crate::discovery::Fleet;
use crate::identity::SharedAuthority;
use crate::kubernetes::Context;
use crate::kubernetes::authority::Kept;
use crate::kubernetes::authority::replicas::Replicas;
use crate::kubernetes::authority::rotation::Timing;
use crate::metrics::Metrics;
use crate::store::Store;
use crate::version::VersionCounter;

fn domain() -> TrustDomain {
    "shop.example".parse().unwrap()
}

/// One that no sidecar has heard of anything from, and whose API server answers nobody.
fn keeper() -> Keeper {
    let metrics = Metrics::new().unwrap();
    let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
    let context = Context {
        client: kube::Client::try_from(config).unwrap(),
        namespace: "outrider-system".to_owned(),
        trust_domain: None,
        metrics: metrics.clone(),
    };
    let authority = SharedAuthority::new();
    let own = Trusted {
        authority: authority.clone(),
        fleet: Fleet::new(metrics),
    };
    Keeper {
        kept: Kept::Elsewhere,
        context: context.clone(),
        name: "mesh-ca".to_owned(),
        authority,
        domain: tokio::sync::watch::channel(None).1,
        store: Store::new(VersionCounter::in_memory(std::time::SystemTime::now())),
        leads: tokio::sync::watch::channel(false).1,
        replicas: Replicas {
            context,
            own,
            port: 1,
        },
        lifetime: DAY,
        timing: Timing {
            settle: Duration::from_secs(120),
            patience: Duration::from_secs(3600),
        },
    }
}

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

fn root(name: &str) -> Issuer {
    CertifiedIssuer::self_signed(params(name), KeyPair::generate().unwrap()).unwrap()
}

/// As cert-manager writes it: an issuer of its own below `root`.
fn below(root: &Issuer) -> Secret {
    let issuer = CertifiedIssuer::signed_by(params("mesh"), KeyPair::generate().unwrap(), root);
    let issuer = issuer.unwrap();
    secret(&issuer.pem(), &issuer.key().serialize_pem(), &root.pem())
}

fn secret(certificate: &str, key: &str, above: &str) -> Secret {
    let data = [
        ("tls.crt", certificate),
        ("tls.key", key),
        ("ca.crt", above),
    ];
    let data = data.map(|(key, text)| (key.to_owned(), ByteString(text.as_bytes().to_vec())));
    Secret {
        data: Some(data.into()),
        ..Secret::default()
    }
}

fn given(secret: &Secret) -> CertificateAuthority {
    let domain = domain();
    let reader = Reader {
        secret,
        domain: &domain,
    };
    reader.given().unwrap()
}

/// Signs with `secret`.
fn signing(keeper: &Keeper, secret: &Secret) -> Elsewhere {
    keeper.authority.replace(given(secret));
    Elsewhere {
        signs: Some(secret.clone()),
        ..Elsewhere::default()
    }
}

fn trusts(keeper: &Keeper, root: &Issuer) -> bool {
    let root = TrustBundle::from_pem(domain(), root.pem().as_bytes()).unwrap();
    let current = keeper.authority.current().unwrap();
    current.trust_bundle().includes(&root)
}

async fn take(elsewhere: &mut Elsewhere, keeper: &Keeper, secret: &Secret) {
    elsewhere.take(keeper, secret, &domain()).await.unwrap();
}

#[tokio::test]
async fn what_is_below_a_root_that_is_pending_waits_as_the_first_below_it() {
    let (keeper, old, new) = (keeper(), root("old"), root("new"));
    let signs = below(&old);
    let mut elsewhere = signing(&keeper, &signs);
    take(&mut elsewhere, &keeper, &below(&new)).await;
    let since = elsewhere.pending.as_ref().unwrap().since;
    assert!(trusts(&keeper, &new));

    // It is written again, with another key.
    let again = below(&new);
    take(&mut elsewhere, &keeper, &again).await;
    assert_eq!(elsewhere.signs.as_ref(), Some(&signs));
    let pending = elsewhere.pending.as_ref().unwrap();
    assert_eq!((&pending.secret, pending.since), (&again, since));
    assert!(trusts(&keeper, &new) && trusts(&keeper, &old));

    // Another root has to wait for itself.
    let third = root("third");
    let last = below(&third);
    take(&mut elsewhere, &keeper, &last).await;
    assert_eq!(elsewhere.signs.as_ref(), Some(&signs));
    let pending = elsewhere.pending.as_ref().unwrap();
    assert!(pending.secret == last && pending.since > since);
    assert!(trusts(&keeper, &third));
    // Of the second nothing is pending any more: it is as new as it was.
    take(&mut elsewhere, &keeper, &again).await;
    assert_eq!(elsewhere.signs.as_ref(), Some(&signs));
}

#[tokio::test]
async fn what_is_below_a_root_that_everybody_trusts_signs_at_once() {
    let (keeper, old, new) = (keeper(), root("old"), root("new"));
    let mut elsewhere = signing(&keeper, &below(&old));
    let renewed = below(&old);
    take(&mut elsewhere, &keeper, &renewed).await;
    assert_eq!(elsewhere.signs.as_ref(), Some(&renewed));
    assert!(elsewhere.pending.is_none() && elsewhere.forgetting.is_none());

    // Also while another is pending, which is then forgotten.
    take(&mut elsewhere, &keeper, &below(&new)).await;
    assert!(elsewhere.pending.is_some());
    let back = below(&old);
    take(&mut elsewhere, &keeper, &back).await;
    assert_eq!(elsewhere.signs.as_ref(), Some(&back));
    assert!(elsewhere.pending.is_none() && elsewhere.forgetting.is_some());
    assert!(trusts(&keeper, &old) && trusts(&keeper, &new));
    elsewhere.forget(&keeper, &domain()).unwrap();
    assert!(trusts(&keeper, &old) && !trusts(&keeper, &new));
}

#[tokio::test]
async fn one_that_signs_itself_is_a_root() {
    let made = || NewAuthority::generate(&domain(), DAY, std::time::SystemTime::now()).unwrap();
    let own = |made: &NewAuthority| secret(&made.certificate, &made.key, &made.certificate);
    let (keeper, first, second) = (keeper(), own(&made()), own(&made()));
    let mut elsewhere = signing(&keeper, &first);
    take(&mut elsewhere, &keeper, &second).await;
    assert_eq!(elsewhere.signs, Some(first));
    assert_eq!(elsewhere.pending.unwrap().secret, second);
}
