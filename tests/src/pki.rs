//! What must be refused: certificates, signing requests and tokens that the mesh's own key signed,
//! or another, with something wrong in them. The tests may read the key of the mesh they started.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::manifest::{TRUST_DOMAIN, spiffe_id};

/// What a token is for.
pub const AUDIENCE: &str = "outrider-control-plane";

/// A certificate authority whose key the test holds.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Authority {
    /// The one of a mesh, from its state.
    pub fn of_mesh(state: &Path) -> Result<Self> {
        let certificate = fs::read_to_string(state.join("ca.crt"))?;
        let key = KeyPair::from_pem(&fs::read_to_string(state.join("ca.key"))?)?;
        Ok(Self {
            issuer: Issuer::from_ca_cert_pem(&certificate, key)?,
            certificate,
        })
    }

    /// One that nobody trusts.
    pub fn stranger() -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "a stranger's authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self {
            issuer: Issuer::new(params, key),
            certificate,
        })
    }

    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// PEM.
    pub fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Writes `NAME.crt` (with the authority's own after it) and `NAME.key`.
    pub fn issue(&self, leaf: &Leaf, folder: &Path, name: &str) -> Result<Identity> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.not_before = leaf.not_before;
        params.not_after = leaf.not_after;
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if leaf.authority {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        params.subject_alt_names = leaf.names.clone();
        if let Some(name) = &leaf.common_name {
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, name);
        }
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        let identity = Identity {
            certificate: folder.join(format!("{name}.crt")),
            key: folder.join(format!("{name}.key")),
        };
        fs::write(&identity.certificate, certificate)?;
        fs::write(&identity.key, key.serialize_pem())?;
        Ok(identity)
    }
}

/// A certificate and its key, as files.
#[derive(Debug, Clone)]
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// What a certificate says.
#[derive(Debug, Clone)]
pub struct Leaf {
    names: Vec<SanType>,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    authority: bool,
    common_name: Option<String>,
}

impl Leaf {
    /// As the control plane would make one.
    pub fn of(account: &str) -> Result<Self> {
        Self::uris(&[&spiffe_id(account)])
    }

    /// With these URIs as its names.
    pub fn uris(uris: &[&str]) -> Result<Self> {
        let names = uris
            .iter()
            .map(|uri| Ok(SanType::URI((*uri).try_into()?)))
            .collect::<Result<_>>()?;
        let now = OffsetDateTime::now_utc();
        let hour = time::Duration::HOUR;
        Ok(Self {
            names,
            not_before: now - hour,
            not_after: now + hour,
            authority: false,
            common_name: None,
        })
    }

    pub fn dns(mut self, name: &str) -> Result<Self> {
        self.names.push(SanType::DnsName(name.try_into()?));
        Ok(self)
    }

    pub fn address(mut self, address: IpAddr) -> Self {
        self.names.push(SanType::IpAddress(address));
        self
    }

    /// For those who know no other names.
    pub fn common_name(mut self, name: &str) -> Self {
        self.common_name = Some(name.into());
        self
    }

    pub fn expired(mut self) -> Self {
        self.not_after = OffsetDateTime::now_utc() - time::Duration::MINUTE;
        self
    }

    /// It began an hour ago.
    pub fn ends_in(mut self, left: Duration) -> Self {
        self.not_after = OffsetDateTime::now_utc() + left;
        self
    }

    pub fn not_yet_valid(mut self) -> Self {
        self.not_before = OffsetDateTime::now_utc() + time::Duration::minutes(30);
        self
    }

    /// `CA:true`.
    pub fn authority(mut self) -> Self {
        self.authority = true;
        self
    }
}

/// A PKCS #10 request (DER) that asks for these URIs, for `CA:true` too if `authority`.
pub fn signing_request(uris: &[&str], authority: bool) -> Result<Vec<u8>> {
    let mut params = CertificateParams::default();
    for uri in uris {
        params
            .subject_alt_names
            .push(SanType::URI((*uri).try_into()?));
    }
    if authority {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    let key = KeyPair::generate()?;
    Ok(params.serialize_request(&key)?.der().to_vec())
}

/// The claims of a good token, to be changed.
pub fn claims(account: &str) -> Value {
    let now = seconds();
    json!({
        "sub": spiffe_id(account),
        "aud": AUDIENCE,
        "iat": now,
        "nbf": now,
        "exp": now + 600,
        "iss": TRUST_DOMAIN,
    })
}

/// Now, in seconds.
pub fn seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs()
}

/// Signs claims with the key of a mesh's tokens, as its control plane would.
pub fn sign_token(state: &Path, claims: &Value) -> Result<String> {
    let key = PrivateKeyDer::from_pem_file(state.join("token.key")).context("token.key")?;
    sign_token_with(key.secret_der(), claims)
}

/// Signs claims with a key that was made just now.
pub fn sign_token_with_another_key(claims: &Value) -> Result<String> {
    let key = KeyPair::generate()?;
    sign_token_with(
        PrivatePkcs8KeyDer::from(key.serialize_der()).secret_pkcs8_der(),
        claims,
    )
}

fn sign_token_with(key: &[u8], claims: &Value) -> Result<String> {
    let header = Header::new(Algorithm::ES256);
    Ok(jsonwebtoken::encode(
        &header,
        claims,
        &EncodingKey::from_ec_der(key),
    )?)
}

/// A token with `alg: none` and no signature.
pub fn unsigned_token(claims: &Value) -> Result<String> {
    // {"alg":"none","typ":"JWT"}
    const HEADER: &str = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
    let signed = sign_token_with_another_key(claims)?;
    let payload = signed.split('.').nth(1).context("three parts")?;
    Ok(format!("{HEADER}.{payload}."))
}

/// A token signed with HMAC, under the bytes of the public half of the mesh's key as the secret.
pub fn hmac_token(state: &Path, claims: &Value) -> Result<String> {
    let key = KeyPair::from_pem(&fs::read_to_string(state.join("token.key"))?)?;
    let secret = EncodingKey::from_secret(key.public_key_pem().as_bytes());
    Ok(jsonwebtoken::encode(
        &Header::new(Algorithm::HS256),
        claims,
        &secret,
    )?)
}
