//! SPIFFE IDs and trust domains: the one strict parser of the mesh.
//!
//! Outrider accepts one form only, `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`, and of it
//! only one spelling: two IDs are the same workload exactly if their bytes are the same. Nothing is
//! normalised; whatever could be read in two ways is refused, with a cause of its own.
//!
//! Source: SPIFFE-ID §2 (trust domain §2.1, path §2.2, length §2.3); names as Kubernetes has them
//! (RFC 1123 labels and subdomains).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

const SCHEME: &str = "spiffe://";
/// SPIFFE-ID §2.3: implementations must support, and need not exceed, 2048 bytes.
const MAX_ID_LEN: usize = 2048;
/// SPIFFE-ID §2.3: the trust domain is limited as the host of a URI is (RFC 3986 §3.2.2).
const MAX_TRUST_DOMAIN_LEN: usize = 255;
/// RFC 1123 §2.1, RFC 1035 §2.3.4.
const MAX_LABEL_LEN: usize = 63;
/// RFC 1035 §2.3.4 less the root, as Kubernetes has it.
const MAX_SUBDOMAIN_LEN: usize = 253;

/// Why a text is not a SPIFFE ID, or not a trust domain; one variant for each cause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    /// Over 2048 bytes.
    #[error("SPIFFE ID of {0} bytes: expected at most {MAX_ID_LEN}")]
    TooLong(usize),
    /// Not `spiffe://`, in lower case.
    #[error("not a SPIFFE ID: expected it to begin with {SCHEME}")]
    Scheme,
    /// A letter outside ASCII, as in an internationalized name.
    #[error("SPIFFE ID with the character {0:?}: expected ASCII")]
    NonAscii(char),
    /// NUL, a line break, a space or another control character.
    #[error("SPIFFE ID with the control character {0:#04x}: expected printable ASCII")]
    Control(u8),
    /// `%`, which could spell any other character.
    #[error("SPIFFE ID with percent-encoding: expected its characters as they are")]
    PercentEncoding,
    /// `?`.
    #[error("SPIFFE ID with a query: expected none")]
    Query,
    /// `#`.
    #[error("SPIFFE ID with a fragment: expected none")]
    Fragment,
    /// `user@` before the trust domain.
    #[error("SPIFFE ID with userinfo: expected a trust domain alone after {SCHEME}")]
    UserInfo,
    /// `:port` after the trust domain.
    #[error("SPIFFE ID with a port: expected a trust domain alone after {SCHEME}")]
    Port,
    /// A capital letter; comparison is by bytes, and Kubernetes knows no capitals either.
    #[error("SPIFFE ID with the capital {0:?}: expected lower case")]
    Uppercase(char),
    /// Nothing where the trust domain should be.
    #[error("empty trust domain: expected a name such as mesh.example")]
    TrustDomainEmpty,
    /// Over 255 bytes.
    #[error("trust domain of {0} bytes: expected at most {MAX_TRUST_DOMAIN_LEN}")]
    TrustDomainTooLong(usize),
    /// A character that trust domains do not have.
    #[error("trust domain with the character {0:?}: expected a-z, 0-9, '.', '-' and '_'")]
    TrustDomainCharacter(char),
    /// `//`, or a slash at the end.
    #[error("SPIFFE ID with an empty path segment: expected no double and no trailing slash")]
    EmptySegment,
    /// `.` or `..`.
    #[error("SPIFFE ID with a relative path segment: expected no '.' and no '..'")]
    RelativeSegment,
    /// A path of another form.
    #[error("SPIFFE ID with another path: expected /ns/<namespace>/sa/<service account>")]
    Path,
    /// The namespace is not a DNS label.
    #[error(
        "namespace {0:?} in a SPIFFE ID: expected a DNS label (1 to 63 of a-z, 0-9 and '-', a letter or digit at both ends)"
    )]
    Namespace(String),
    /// The service account is not a DNS subdomain.
    #[error(
        "service account {0:?} in a SPIFFE ID: expected a DNS subdomain (at most 253 of a-z, 0-9, '-' and '.', a letter or digit at both ends of each part)"
    )]
    ServiceAccount(String),
}

/// The name of a mesh: lower case `[a-z0-9._-]`, 1 to 255 bytes (SPIFFE-ID §2.1).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The trust domain's own SPIFFE ID, `spiffe://<trust domain>`, which its authorities carry
    /// (X.509-SVID §3).
    pub(crate) fn uri(&self) -> String {
        format!("{SCHEME}{self}")
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        check_trust_domain(text)?;
        Ok(Self(text.into()))
    }
}

impl AsRef<str> for TrustDomain {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustDomain({})", self.0)
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = SpiffeIdError;

    fn try_from(text: String) -> Result<Self, SpiffeIdError> {
        text.parse()
    }
}

impl From<TrustDomain> for String {
    fn from(domain: TrustDomain) -> Self {
        domain.0.as_ref().into()
    }
}

/// The identity of a workload: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
///
/// Cloning costs a reference count. Equality, order and hash are those of the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    text: Arc<str>,
    // The parts of `text`: the trust domain ends before the first offset, the namespace before the second.
    trust_domain_end: u16,
    namespace_end: u16,
}

impl SpiffeId {
    /// The identity of a Kubernetes service account, or of what stands in for one.
    ///
    /// # Errors
    /// [`SpiffeIdError::Namespace`], [`SpiffeIdError::ServiceAccount`]: not names that Kubernetes would take.
    pub fn workload(
        trust_domain: &TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, SpiffeIdError> {
        // The names are checked before they are joined: a '/' in one must not become part of the path.
        check_namespace(namespace)?;
        check_service_account(service_account)?;
        format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}").parse()
    }

    /// The whole ID.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain(self.trust_domain_str().into())
    }

    /// The trust domain, without a copy.
    pub fn trust_domain_str(&self) -> &str {
        self.part(SCHEME.len(), usize::from(self.trust_domain_end))
    }

    /// The namespace, a DNS label.
    pub fn namespace(&self) -> &str {
        let start = usize::from(self.trust_domain_end) + "/ns/".len();
        self.part(start, usize::from(self.namespace_end))
    }

    /// The service account, a DNS subdomain.
    pub fn service_account(&self) -> &str {
        let start = usize::from(self.namespace_end) + "/sa/".len();
        self.part(start, self.text.len())
    }

    fn part(&self, start: usize, end: usize) -> &str {
        self.text.get(start..end).unwrap_or_default()
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        if text.len() > MAX_ID_LEN {
            return Err(SpiffeIdError::TooLong(text.len()));
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
        check_characters(rest)?;
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        check_authority(authority)?;
        let (namespace, service_account) = split_path(path)?;
        check_namespace(namespace)?;
        check_service_account(service_account)?;

        let trust_domain_end = SCHEME.len() + authority.len();
        let namespace_end = trust_domain_end + "/ns/".len() + namespace.len();
        let offset = |at: usize| u16::try_from(at).map_err(|_| SpiffeIdError::TooLong(text.len()));
        Ok(Self {
            text: text.into(),
            trust_domain_end: offset(trust_domain_end)?,
            namespace_end: offset(namespace_end)?,
        })
    }
}

impl AsRef<str> for SpiffeId {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpiffeId({})", self.text)
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = SpiffeIdError;

    fn try_from(text: String) -> Result<Self, SpiffeIdError> {
        text.parse()
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.text.as_ref().into()
    }
}

/// Refuses the characters that no part of an ID may have, each with its own cause.
fn check_characters(text: &str) -> Result<(), SpiffeIdError> {
    for character in text.chars() {
        match character {
            '%' => return Err(SpiffeIdError::PercentEncoding),
            '?' => return Err(SpiffeIdError::Query),
            '#' => return Err(SpiffeIdError::Fragment),
            'A'..='Z' => return Err(SpiffeIdError::Uppercase(character)),
            '\0'..=' ' | '\x7f' => return Err(SpiffeIdError::Control(character as u8)),
            _ if !character.is_ascii() => return Err(SpiffeIdError::NonAscii(character)),
            _ => {}
        }
    }
    Ok(())
}

fn check_authority(authority: &str) -> Result<(), SpiffeIdError> {
    if authority.contains('@') {
        return Err(SpiffeIdError::UserInfo);
    }
    if authority.contains(':') {
        return Err(SpiffeIdError::Port);
    }
    check_trust_domain(authority)
}

fn check_trust_domain(text: &str) -> Result<(), SpiffeIdError> {
    if text.is_empty() {
        return Err(SpiffeIdError::TrustDomainEmpty);
    }
    if text.len() > MAX_TRUST_DOMAIN_LEN {
        return Err(SpiffeIdError::TrustDomainTooLong(text.len()));
    }
    let foreign = |c: &char| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_');
    match text.chars().find(foreign) {
        Some(character) => Err(SpiffeIdError::TrustDomainCharacter(character)),
        None => Ok(()),
    }
}

/// Namespace and service account of `/ns/<namespace>/sa/<service account>`.
fn split_path(path: &str) -> Result<(&str, &str), SpiffeIdError> {
    let Some(segments) = path.strip_prefix('/') else {
        return Err(SpiffeIdError::Path);
    };
    for segment in segments.split('/') {
        match segment {
            "" => return Err(SpiffeIdError::EmptySegment),
            "." | ".." => return Err(SpiffeIdError::RelativeSegment),
            _ => {}
        }
    }
    let mut parts = segments.split('/');
    match (
        parts.next(),
        parts.next(),
        parts.next(),
        parts.next(),
        parts.next(),
    ) {
        (Some("ns"), Some(namespace), Some("sa"), Some(service_account), None) => {
            Ok((namespace, service_account))
        }
        _ => Err(SpiffeIdError::Path),
    }
}

fn check_namespace(text: &str) -> Result<(), SpiffeIdError> {
    if text.len() <= MAX_LABEL_LEN && is_name_part(text) {
        return Ok(());
    }
    Err(SpiffeIdError::Namespace(excerpt(text)))
}

fn check_service_account(text: &str) -> Result<(), SpiffeIdError> {
    // Kubernetes limits a subdomain as a whole, not its parts.
    if text.len() <= MAX_SUBDOMAIN_LEN && text.split('.').all(is_name_part) {
        return Ok(());
    }
    Err(SpiffeIdError::ServiceAccount(excerpt(text)))
}

/// `[a-z0-9]([-a-z0-9]*[a-z0-9])?`
fn is_name_part(text: &str) -> bool {
    let inner = |b: &u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
    !text.is_empty()
        && text.as_bytes().iter().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Error messages go to logs: what a stranger sent is cut to a length that does no harm there.
fn excerpt(text: &str) -> String {
    text.chars().take(MAX_LABEL_LEN + 1).collect()
}
