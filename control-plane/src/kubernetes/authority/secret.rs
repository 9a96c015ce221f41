//! The Secret of the authority: what it says, and what each step of a rotation changes in it. Pure.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use outrider_certs::authority::{AuthorityError, CertificateAuthority, NewAuthority};
use outrider_certs::bundle::{BundleError, TrustBundle};
use outrider_certs::spiffe::TrustDomain;
use serde_json::{Map, Value, json};

use super::rotation::Stage;

/// The authority that signs.
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
/// Everyone who is trusted, the one that signs among them.
const BUNDLE: &str = "trust-bundle.pem";
/// The one that will sign.
const NEXT_CERTIFICATE: &str = "next.crt";
const NEXT_KEY: &str = "next.key";
/// Those that have signed, and are to be forgotten.
const PREVIOUS: &str = "previous.crt";

/// Ask for a rotation: any value that is new.
pub(super) const ROTATE: &str = "outrider.mesh/rotate";
/// The value that was asked with last.
const ROTATED: &str = "outrider.mesh/rotated";
/// When the stage of the rotation began (RFC 3339).
const SINCE: &str = "outrider.mesh/rotation-since";
/// The longest lifetime of a certificate that may not have ended yet, in seconds.
const LONGEST: &str = "outrider.mesh/longest-lifetime";

pub(super) type Data = BTreeMap<String, ByteString>;

/// Where cert-manager puts the authority above, which peers trust.
const ABOVE: &str = "ca.crt";

/// Why a Secret is not an authority's.
#[derive(Debug, thiserror::Error)]
pub(super) enum SecretError {
    #[error("no {0}: expected PEM")]
    Missing(&'static str),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("{key}: {cause}")]
    Bundle {
        key: &'static str,
        #[source]
        cause: BundleError,
    },
}

/// A Secret, and of which trust domain it must be.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    pub(super) secret: &'a Secret,
    pub(super) domain: &'a TrustDomain,
}

impl Reader<'_> {
    /// The authority that signs, and trusts everyone who is to be trusted.
    pub(super) fn authority(&self) -> Result<CertificateAuthority, SecretError> {
        let signer = self.signer(CERTIFICATE, KEY)?;
        match self.bundle(BUNDLE)? {
            Some(others) => Ok(signer.trusting(&others)?),
            None => Ok(signer),
        }
    }

    /// The authority of a Secret that somebody else keeps: alone, with the authority above it as what peers
    /// trust, where there is one.
    pub(super) fn given(&self) -> Result<CertificateAuthority, SecretError> {
        let of = |name| self.text(name).ok_or(SecretError::Missing(name));
        let mut chain = of(CERTIFICATE)?.to_vec();
        if let (Some(own), Some(above)) = (self.bundle(CERTIFICATE)?, self.bundle(ABOVE)?)
            && !own.includes(&above)
        {
            chain.push(b'\n');
            chain.extend_from_slice(of(ABOVE)?);
        }
        let authority = CertificateAuthority::from_pem(
            (&self.path(CERTIFICATE), &chain),
            (&self.path(KEY), of(KEY)?),
            self.domain,
        )?;
        Ok(authority)
    }

    /// Whom to trust before the next one signs; `None`: there is no next one.
    pub(super) fn next(&self) -> Result<Option<TrustBundle>, SecretError> {
        if self.stage() != Stage::Trusting {
            return Ok(None);
        }
        let next = self.signer(NEXT_CERTIFICATE, NEXT_KEY)?;
        Ok(Some(next.trust_bundle()))
    }

    pub(super) fn stage(&self) -> Stage {
        if self.text(NEXT_CERTIFICATE).is_some() && self.text(NEXT_KEY).is_some() {
            Stage::Trusting
        } else if self.text(PREVIOUS).is_some() {
            Stage::Forgetting
        } else {
            Stage::Steady
        }
    }

    pub(super) fn since(&self) -> Option<SystemTime> {
        let time: Timestamp = self.annotation(SINCE)?.parse().ok()?;
        Some(time.into())
    }

    pub(super) fn asked(&self) -> Option<&str> {
        self.annotation(ROTATE)
    }

    pub(super) fn answered(&self) -> Option<&str> {
        self.annotation(ROTATED)
    }

    /// The longest lifetime that was written down.
    pub(super) fn longest(&self) -> Option<Duration> {
        let seconds = self.annotation(LONGEST)?.parse().ok()?;
        Some(Duration::from_secs(seconds))
    }

    fn signer(
        &self,
        certificate: &'static str,
        key: &'static str,
    ) -> Result<CertificateAuthority, SecretError> {
        let of = |name| self.text(name).ok_or(SecretError::Missing(name));
        let certificate = (self.path(certificate), of(certificate)?);
        let key = (self.path(key), of(key)?);
        let authority = CertificateAuthority::from_pem(
            (&certificate.0, certificate.1),
            (&key.0, key.1),
            self.domain,
        )?;
        Ok(authority)
    }

    fn bundle(&self, key: &'static str) -> Result<Option<TrustBundle>, SecretError> {
        let parse = |text| TrustBundle::from_pem(self.domain.clone(), text);
        let parsed = self.text(key).map(parse).transpose();
        parsed.map_err(|cause| SecretError::Bundle { key, cause })
    }

    /// Absent or empty is one thing.
    fn text(&self, key: &str) -> Option<&[u8]> {
        let bytes = &self.secret.data.as_ref()?.get(key)?.0;
        (!bytes.is_empty()).then_some(bytes)
    }

    fn annotation(&self, key: &str) -> Option<&str> {
        let annotations = self.secret.metadata.annotations.as_ref()?;
        annotations.get(key).map(String::as_str)
    }

    /// For messages.
    fn path(&self, key: &str) -> PathBuf {
        let name = self.secret.metadata.name.as_deref().unwrap_or_default();
        PathBuf::from(format!("secret {name}")).join(key)
    }
}

/// The first contents.
pub(super) fn first(new: &NewAuthority) -> Data {
    [
        (CERTIFICATE, &new.certificate),
        (KEY, &new.key),
        (BUNDLE, &new.certificate),
    ]
    .map(|(key, text)| (key.to_owned(), ByteString(text.clone().into_bytes())))
    .into()
}

/// What to change in a Secret, and of which version: a JSON merge patch.
#[derive(Debug)]
pub(super) struct Change {
    data: Map<String, Value>,
    annotations: Map<String, Value>,
}

impl Change {
    /// The first step: everybody trusts `next`.
    pub(super) fn begin(
        reader: &Reader<'_>,
        next: &NewAuthority,
        now: SystemTime,
    ) -> Result<Self, SecretError> {
        let new = TrustBundle::from_pem(reader.domain.clone(), next.certificate.as_bytes());
        let trust = reader.authority()?.trust_bundle();
        let both = new.and_then(|new| trust.union(&new));
        let both = both.map_err(|cause| SecretError::Bundle { key: BUNDLE, cause })?;
        let mut change = Self::dated(now);
        change.set(NEXT_CERTIFICATE, next.certificate.as_bytes());
        change.set(NEXT_KEY, next.key.as_bytes());
        change.set(BUNDLE, both.to_pem().as_bytes());
        if let Some(asked) = reader.asked() {
            change.annotations.insert(ROTATED.to_owned(), json!(asked));
        }
        Ok(change)
    }

    /// The second: the next one signs.
    pub(super) fn switch(reader: &Reader<'_>, now: SystemTime) -> Result<Self, SecretError> {
        let trust = reader.authority()?.trust_bundle();
        let own = reader.signer(CERTIFICATE, KEY)?.trust_bundle();
        let before = match reader.bundle(PREVIOUS)? {
            Some(earlier) => own.union(&earlier),
            None => Ok(own),
        };
        let before = before.map_err(|cause| SecretError::Bundle {
            key: PREVIOUS,
            cause,
        })?;
        let of = |name| reader.text(name).ok_or(SecretError::Missing(name));
        let mut change = Self::dated(now);
        change.set(CERTIFICATE, of(NEXT_CERTIFICATE)?);
        change.set(KEY, of(NEXT_KEY)?);
        change.set(BUNDLE, trust.to_pem().as_bytes());
        change.set(PREVIOUS, before.to_pem().as_bytes());
        change.remove(NEXT_CERTIFICATE);
        change.remove(NEXT_KEY);
        Ok(change)
    }

    /// The third: nobody trusts the previous ones. `lifetime` is that of certificates from now on.
    pub(super) fn forget(reader: &Reader<'_>, lifetime: Duration) -> Result<Self, SecretError> {
        let trust = reader.authority()?.trust_bundle();
        let own = reader.signer(CERTIFICATE, KEY)?.trust_bundle();
        let remaining = match reader.bundle(PREVIOUS)? {
            Some(previous) => {
                let kept = trust.anchors().iter().filter(|anchor| {
                    own.anchors().contains(anchor) || !previous.anchors().contains(anchor)
                });
                TrustBundle::new(reader.domain.clone(), kept.cloned().collect())
            }
            None => Ok(trust),
        };
        let remaining = remaining.map_err(|cause| SecretError::Bundle { key: BUNDLE, cause })?;
        let mut change = Self::empty();
        change.set(BUNDLE, remaining.to_pem().as_bytes());
        change.remove(PREVIOUS);
        change.annotations.insert(SINCE.to_owned(), Value::Null);
        change.note_lifetime(lifetime);
        Ok(change)
    }

    /// The stage begins now.
    pub(super) fn dated(now: SystemTime) -> Self {
        let mut change = Self::empty();
        // What cannot be expressed is unknown, and written down again.
        if let Ok(now) = Timestamp::try_from(now) {
            change
                .annotations
                .insert(SINCE.to_owned(), json!(now.to_string()));
        }
        change
    }

    /// Certificates live so long from now on.
    pub(super) fn lifetime(lifetime: Duration) -> Self {
        let mut change = Self::empty();
        change.note_lifetime(lifetime);
        change
    }

    /// The patch of what `secret` is; if it is another by now, the API server refuses it.
    pub(super) fn patch(self, secret: &Secret) -> Value {
        json!({
            "metadata": {
                "resourceVersion": secret.metadata.resource_version,
                "annotations": self.annotations,
            },
            "data": self.data,
        })
    }

    fn empty() -> Self {
        Self {
            data: Map::new(),
            annotations: Map::new(),
        }
    }

    fn note_lifetime(&mut self, lifetime: Duration) {
        let seconds = lifetime.as_secs().to_string();
        self.annotations.insert(LONGEST.to_owned(), json!(seconds));
    }

    fn set(&mut self, key: &str, bytes: &[u8]) {
        self.data
            .insert(key.to_owned(), json!(ByteString(bytes.to_vec())));
    }

    fn remove(&mut self, key: &str) {
        self.data.insert(key.to_owned(), Value::Null);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn domain() -> TrustDomain {
        "shop.example".parse().unwrap()
    }

    fn made() -> NewAuthority {
        NewAuthority::generate(&domain(), YEAR, SystemTime::now()).unwrap()
    }

    fn bundle(new: &NewAuthority) -> TrustBundle {
        TrustBundle::from_pem(domain(), new.certificate.as_bytes()).unwrap()
    }

    fn secret(data: Data) -> Secret {
        let mut secret = Secret {
            data: Some(data),
            ..Secret::default()
        };
        secret.metadata.name = Some("outrider-ca".to_owned());
        secret.metadata.resource_version = Some("7".to_owned());
        secret
    }

    /// What the API server makes of it (RFC 7396).
    fn applied(secret: &Secret, change: Change) -> Secret {
        fn merge(target: &mut Value, patch: &Value) {
            let Value::Object(patch) = patch else {
                *target = patch.clone();
                return;
            };
            if !target.is_object() {
                *target = json!({});
            }
            for (key, value) in patch {
                if value.is_null() {
                    target.as_object_mut().unwrap().remove(key);
                } else {
                    merge(&mut target[key], value);
                }
            }
        }
        let mut value = serde_json::to_value(secret).unwrap();
        merge(&mut value, &change.patch(secret));
        serde_json::from_value(value).unwrap()
    }

    fn read<'a>(secret: &'a Secret, domain: &'a TrustDomain) -> Reader<'a> {
        Reader { secret, domain }
    }

    #[test]
    fn a_whole_rotation() {
        let (domain, now) = (domain(), SystemTime::now());
        let (old, new) = (made(), made());
        let mut secret = secret(first(&old));
        secret.metadata.annotations = Some([(ROTATE.to_owned(), "now".to_owned())].into());
        assert_eq!(read(&secret, &domain).stage(), Stage::Steady);

        let change = Change::begin(&read(&secret, &domain), &new, now).unwrap();
        let secret = applied(&secret, change);
        let reader = read(&secret, &domain);
        assert_eq!(reader.stage(), Stage::Trusting);
        assert_eq!(reader.answered(), Some("now"));
        assert_eq!(reader.next().unwrap(), Some(bundle(&new)));
        let since = reader.since().unwrap();
        assert!(now.duration_since(since).unwrap_or_default() < Duration::from_secs(1));
        let both = bundle(&old).union(&bundle(&new)).unwrap();
        assert_eq!(reader.authority().unwrap().trust_bundle(), both);

        let change = Change::switch(&reader, now).unwrap();
        let secret = applied(&secret, change);
        let reader = read(&secret, &domain);
        assert_eq!(reader.stage(), Stage::Forgetting);
        assert_eq!(reader.authority().unwrap().trust_bundle(), both);
        let signer = reader.signer(CERTIFICATE, KEY).unwrap().trust_bundle();
        assert_eq!(signer, bundle(&new));
        assert_eq!(reader.next().unwrap(), None);

        let change = Change::forget(&reader, DAY).unwrap();
        let secret = applied(&secret, change);
        let reader = read(&secret, &domain);
        assert_eq!(reader.stage(), Stage::Steady);
        assert_eq!(reader.authority().unwrap().trust_bundle(), bundle(&new));
        assert_eq!((reader.since(), reader.longest()), (None, Some(DAY)));
    }

    #[test]
    fn one_rotation_after_the_other_forgets_all_but_who_signs_and_who_was_added() {
        let (domain, now) = (domain(), SystemTime::now());
        let (one, two, three, added) = (made(), made(), made(), made());
        let mut secret = secret(first(&one));
        let both = bundle(&one).union(&bundle(&added)).unwrap().to_pem();
        let data = secret.data.as_mut().unwrap();
        data.insert(BUNDLE.to_owned(), ByteString(both.into_bytes()));
        for next in [&two, &three] {
            let change = Change::begin(&read(&secret, &domain), next, now).unwrap();
            secret = applied(&secret, change);
            let change = Change::switch(&read(&secret, &domain), now).unwrap();
            secret = applied(&secret, change);
        }
        let trust = read(&secret, &domain).authority().unwrap().trust_bundle();
        assert_eq!(trust.anchors().len(), 4);
        let change = Change::forget(&read(&secret, &domain), DAY).unwrap();
        secret = applied(&secret, change);
        let trust = read(&secret, &domain).authority().unwrap().trust_bundle();
        assert_eq!(trust, bundle(&three).union(&bundle(&added)).unwrap());
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let domain = domain();
        let error = |secret: &Secret| {
            let result = read(secret, &domain).authority();
            result.map(|_| ()).unwrap_err().to_string()
        };
        assert_eq!(error(&secret(Data::new())), "no tls.crt: expected PEM");
        let mut data = first(&made());
        data.insert(BUNDLE.to_owned(), ByteString(b"nothing".to_vec()));
        assert!(error(&secret(data)).starts_with("trust-bundle.pem: "));
        let mut data = first(&made());
        data.insert(KEY.to_owned(), ByteString(made().key.into_bytes()));
        assert!(error(&secret(data)).contains("secret outrider-ca/tls.key"));
        // A half of the next one is none.
        let mut data = first(&made());
        data.insert(NEXT_CERTIFICATE.to_owned(), ByteString(b"x".to_vec()));
        assert_eq!(read(&secret(data), &domain).stage(), Stage::Steady);
    }

    #[test]
    fn the_authority_above_is_what_peers_trust() {
        use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

        let params = |name: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params
        };
        let key = || KeyPair::generate().unwrap();
        let root = CertifiedIssuer::self_signed(params("root"), key()).unwrap();
        let below = CertifiedIssuer::signed_by(params("mesh"), key(), &root).unwrap();
        let domain = domain();
        let trusted = |pem: String| TrustBundle::from_pem(domain.clone(), pem.as_bytes()).unwrap();
        let given = |texts: &[(&str, String)]| {
            let entry = |(key, text): &(&str, String)| {
                ((*key).to_owned(), ByteString(text.clone().into_bytes()))
            };
            let secret = secret(texts.iter().map(entry).collect());
            read(&secret, &domain).given().unwrap().trust_bundle()
        };
        // An issuer under a root, a chain with its root in it, and one that signs itself.
        let under = [
            (CERTIFICATE, below.pem()),
            (KEY, below.key().serialize_pem()),
            (ABOVE, root.pem()),
        ];
        assert_eq!(given(&under), trusted(root.pem()));
        let mut whole = under.clone();
        whole[0].1 += &root.pem();
        assert_eq!(given(&whole), trusted(root.pem()));
        let alone = [
            (CERTIFICATE, root.pem()),
            (KEY, root.key().serialize_pem()),
            (ABOVE, root.pem()),
        ];
        assert_eq!(given(&alone), trusted(root.pem()));
        assert_eq!(given(&alone[..2]), trusted(root.pem()));
    }
}
