//! Bootstrap tokens: how a workload outside Kubernetes shows who it is before it has a certificate.
//!
//! A token is a JWT (RFC 7519) signed with ES256 by a key that only the control plane holds (`token.key`).
//! It names one identity and one audience and ends; whoever holds it gets a certificate for that identity
//! and no other. The algorithm is fixed here and never taken from the token (RFC 8725 §3.1).

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::file::{self, SecretError};
use crate::key::{KeyError, PrivateKey};
use crate::spiffe::{SpiffeId, SpiffeIdError};

/// The audience of a bootstrap token: a token for any other service is refused.
pub const AUDIENCE: &str = "outrider-control-plane";

/// The longest token that is looked at, in bytes; ours have about 400.
pub const MAX_TOKEN_LEN: usize = 8 * 1024;

const KEY_FILE: &str = "token.key";
const KEY_MODE: u32 = 0o600;
/// How far `nbf` lies in the past, for verifiers whose clocks are behind.
const BACK_DATED: Duration = Duration::from_secs(5 * 60);

/// Why there is no issuer, or no token from it.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// The file system refuses.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The key's file.
        path: PathBuf,
        /// What it says.
        #[source]
        cause: io::Error,
    },
    /// Others than the owner may read the key.
    #[error("{}: mode {mode:04o}, expected 0600 (run chmod 600)", path.display())]
    KeyMode {
        /// The key's file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not a P-256 key.
    #[error("{}: {cause}", path.display())]
    Key {
        /// The key's file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        cause: KeyError,
    },
    /// No key could be made.
    #[error(transparent)]
    Generate(KeyError),
    /// Tokens count in seconds since 1970.
    #[error(
        "token lifetime of {0:?}: expected at least one second and an end that can be expressed"
    )]
    Lifetime(Duration),
    /// The signature failed.
    #[error("cannot sign a token: {0}")]
    Sign(#[source] jsonwebtoken::errors::Error),
}

/// Why a token was refused; one variant for each cause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Over [`MAX_TOKEN_LEN`].
    #[error("token of {0} bytes: expected at most {MAX_TOKEN_LEN}")]
    TooLong(usize),
    /// Not three parts of base64url.
    #[error("malformed token: expected a JWT, three parts of base64url with dots between")]
    Malformed,
    /// The header is not that of a JWT.
    #[error("token with a malformed header: expected a JSON object with \"alg\"")]
    Header,
    /// Signed, or not signed, in another way.
    #[error("token with the algorithm {0:?}: expected ES256")]
    Algorithm(String),
    /// Demands the understanding of extensions (RFC 7515 §4.1.11).
    #[error("token with critical header extensions: expected none")]
    Critical,
    /// Not signed by this control plane's key.
    #[error("token with a bad signature: expected one by this control plane's token key")]
    Signature,
    /// The claims are not what they should be.
    #[error(
        "token with malformed claims: expected aud, exp, nbf and sub, each once and of its type"
    )]
    Claims,
    /// A claim is missing.
    #[error("token without the claim {0:?}: expected aud, exp, nbf and sub")]
    MissingClaim(&'static str),
    /// For another service.
    #[error("token for another audience: expected {AUDIENCE}")]
    Audience,
    /// Its time is over.
    #[error("expired token: expected one that is valid now")]
    Expired,
    /// Its time has not come.
    #[error("token that is not yet valid: expected one that is valid now (are the clocks right?)")]
    NotYetValid,
    /// The subject is not a workload.
    #[error("token with a subject that is not a workload: {0}")]
    Subject(#[source] SpiffeIdError),
}

impl TokenError {
    /// A bounded name for metrics and logs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::TooLong(_) => "token_too_long",
            Self::Malformed => "token_malformed",
            Self::Header => "token_header",
            Self::Algorithm(_) => "token_algorithm",
            Self::Critical => "token_critical",
            Self::Signature => "token_signature",
            Self::Claims => "token_claims",
            Self::MissingClaim(_) => "token_missing_claim",
            Self::Audience => "token_audience",
            Self::Expired => "token_expired",
            Self::NotYetValid => "token_not_yet_valid",
            Self::Subject(_) => "token_subject",
        }
    }
}

/// Mints tokens with the key in `token.key`.
#[derive(Debug)]
pub struct TokenIssuer {
    key: PrivateKey,
}

#[derive(Serialize)]
struct MintedClaims<'a> {
    aud: &'a str,
    sub: &'a str,
    iat: u64,
    nbf: u64,
    exp: u64,
}

impl TokenIssuer {
    /// The issuer whose key is in `directory` (made if it is not there), with a new key (mode 0600) if
    /// there is none.
    ///
    /// # Errors
    /// [`IssuerError`]: the file cannot be read or written, is no P-256 key, or may be read by others.
    pub fn load_or_create(directory: &Path) -> Result<Self, IssuerError> {
        let path = directory.join(KEY_FILE);
        let io_error = |cause| IssuerError::Io {
            path: path.clone(),
            cause,
        };
        file::create_directory(directory).map_err(|cause| IssuerError::Io {
            path: directory.into(),
            cause,
        })?;
        if !path.try_exists().map_err(io_error)? {
            let key = PrivateKey::generate().map_err(IssuerError::Generate)?;
            match file::create_atomic(&path, key.to_pem().as_bytes(), KEY_MODE) {
                Ok(()) => {}
                // Another process was faster; its key counts.
                Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {}
                Err(cause) => return Err(io_error(cause)),
            }
        }
        let secret = file::read_secret(&path).map_err(|error| match error {
            SecretError::Io(cause) => io_error(cause),
            SecretError::Mode(mode) => IssuerError::KeyMode {
                path: path.clone(),
                mode,
            },
        })?;
        let key = PrivateKey::from_pem(&secret).map_err(|cause| IssuerError::Key {
            path: path.clone(),
            cause,
        })?;
        Ok(Self { key })
    }

    /// A token with which its holder gets certificates for `id`, for `lifetime` from `now` on.
    ///
    /// # Errors
    /// [`IssuerError::Lifetime`], [`IssuerError::Sign`].
    pub fn mint(
        &self,
        id: &SpiffeId,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<String, IssuerError> {
        let now = seconds(now);
        let exp = now
            .checked_add(lifetime.as_secs())
            .filter(|exp| *exp > now)
            .ok_or(IssuerError::Lifetime(lifetime))?;
        let claims = MintedClaims {
            aud: AUDIENCE,
            sub: id.as_str(),
            iat: now,
            nbf: now.saturating_sub(BACK_DATED.as_secs()),
            exp,
        };
        let secret = self.key.to_pkcs8_der();
        let key = EncodingKey::from_ec_der(secret.secret_pkcs8_der());
        jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &key)
            .map_err(IssuerError::Sign)
    }

    /// What checks this issuer's tokens; it holds the public key only.
    pub fn verifier(&self) -> TokenVerifier {
        TokenVerifier {
            key: DecodingKey::from_ec_der(self.key.public_point()),
        }
    }
}

/// Checks tokens.
#[derive(Debug, Clone)]
pub struct TokenVerifier {
    key: DecodingKey,
}

#[derive(Deserialize)]
struct TokenHeader {
    alg: String,
    #[serde(default)]
    crit: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct Claims {
    aud: Option<Audience>,
    exp: Option<u64>,
    nbf: Option<u64>,
    sub: Option<String>,
}

/// RFC 7519 §4.1.3: one or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    fn is_ours(&self) -> bool {
        match self {
            Self::One(one) => one == AUDIENCE,
            Self::Many(many) => many.iter().any(|one| one == AUDIENCE),
        }
    }
}

impl TokenVerifier {
    /// The identity that a token vouches for at the time `now`.
    ///
    /// # Errors
    /// [`TokenError`]. There is no leeway: tokens are minted back-dated.
    pub fn verify(&self, token: &str, now: SystemTime) -> Result<SpiffeId, TokenError> {
        if token.len() > MAX_TOKEN_LEN {
            return Err(TokenError::TooLong(token.len()));
        }
        check_header(token)?;
        let claims = self.signed_claims(token)?;

        let audience = claims.aud.ok_or(TokenError::MissingClaim("aud"))?;
        let exp = claims.exp.ok_or(TokenError::MissingClaim("exp"))?;
        let nbf = claims.nbf.ok_or(TokenError::MissingClaim("nbf"))?;
        let subject = claims.sub.ok_or(TokenError::MissingClaim("sub"))?;
        if !audience.is_ours() {
            return Err(TokenError::Audience);
        }
        let now = seconds(now);
        // RFC 7519 §4.1.4: on or after `exp` it is not accepted; §4.1.5: not before `nbf`.
        if now >= exp {
            return Err(TokenError::Expired);
        }
        if now < nbf {
            return Err(TokenError::NotYetValid);
        }
        subject.parse().map_err(TokenError::Subject)
    }

    fn signed_claims(&self, token: &str) -> Result<Claims, TokenError> {
        // Only the signature is left to the library: it would read the clock itself, and allow leeway.
        let mut validation = Validation::new(Algorithm::ES256);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        let decoded = jsonwebtoken::decode::<Claims>(token, &self.key, &validation);
        match decoded {
            Ok(decoded) => Ok(decoded.claims),
            Err(error) => Err(match error.kind() {
                ErrorKind::Json(_) | ErrorKind::Utf8(_) => TokenError::Claims,
                ErrorKind::InvalidToken | ErrorKind::Base64(_) => TokenError::Malformed,
                // Whatever else the library says, the signature was not shown to be good.
                _ => TokenError::Signature,
            }),
        }
    }
}

/// What a token of somebody else's says of itself. Nothing of it is proven: good to refuse by, and to say why
/// a token was refused, never to accept one.
#[derive(Debug)]
pub struct Unverified {
    claims: Claims,
}

impl Unverified {
    /// Reads a JWT of any algorithm.
    ///
    /// # Errors
    /// [`TokenError`]: too long, not three parts, or claims that cannot be read.
    pub fn parse(token: &str) -> Result<Self, TokenError> {
        if token.len() > MAX_TOKEN_LEN {
            return Err(TokenError::TooLong(token.len()));
        }
        let mut parts = token.split('.');
        let (Some(_), Some(claims), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Malformed);
        };
        let claims = URL_SAFE_NO_PAD
            .decode(claims)
            .map_err(|_| TokenError::Malformed)?;
        let claims = serde_json::from_slice(&claims).map_err(|_| TokenError::Claims)?;
        Ok(Self { claims })
    }

    /// Whether it says that it is for [`AUDIENCE`].
    pub fn is_for_us(&self) -> bool {
        self.claims.aud.as_ref().is_some_and(Audience::is_ours)
    }

    /// Whether it says that its time is over.
    pub fn has_expired(&self, now: SystemTime) -> bool {
        self.claims.exp.is_some_and(|exp| seconds(now) >= exp)
    }
}

/// Reads the header ourselves, for an error that says which algorithm it was.
fn check_header(token: &str) -> Result<(), TokenError> {
    let mut parts = token.split('.');
    let (Some(header), Some(_), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(TokenError::Malformed);
    };
    let header = URL_SAFE_NO_PAD
        .decode(header)
        .map_err(|_| TokenError::Malformed)?;
    let header: TokenHeader = serde_json::from_slice(&header).map_err(|_| TokenError::Header)?;
    if header.alg != "ES256" {
        return Err(TokenError::Algorithm(header.alg.chars().take(32).collect()));
    }
    if header.crit.is_some() {
        return Err(TokenError::Critical);
    }
    Ok(())
}

/// Whole seconds since 1970 (RFC 7519 §2, NumericDate); times before it count as its beginning.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
