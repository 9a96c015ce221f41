//! One trial before an authority is used: would a peer accept what it issues?

use std::path::Path;
use std::time::SystemTime;

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::aws_lc_rs;
use rustls::server::ParsedCertificate;
use rustls_pki_types::UnixTime;

use super::{AuthorityError, CertificateAuthority, StoreError};
use crate::csr::VerifiedRequest;
use crate::key::PrivateKey;
use crate::spiffe::SpiffeId;
use crate::svid::SvidError;

/// Issues a certificate and verifies it as a peer would. An authority from files can be unusable in ways
/// that no list of checks foresees; better to hear of it now than from every handshake.
pub(super) fn probe(authority: &CertificateAuthority, path: &Path) -> Result<(), AuthorityError> {
    let unusable = |cause| StoreError::Unusable {
        path: path.into(),
        cause,
    };
    let (now, end) = (authority.not_before, authority.not_after);
    let lifetime = end.duration_since(now).unwrap_or_default();
    let id = SpiffeId::workload(authority.bundle.trust_domain(), "outrider-system", "probe")?;
    let request = PrivateKey::generate()?.signing_request()?;
    let request = VerifiedRequest::try_from(request.as_slice())?;
    let issued = authority.issue(&request, &id, lifetime, now)?;
    let (leaf, above) = issued
        .chain
        .split_first()
        .ok_or(AuthorityError::Svid(SvidError::EmptyChain))?;
    let roots = authority.bundle.root_store().map_err(unusable)?;
    let since_epoch = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_err(|_| AuthorityError::Time(now))?;
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
    ParsedCertificate::try_from(leaf)
        .and_then(|leaf| {
            verify_server_cert_signed_by_trust_anchor(
                &leaf,
                &roots,
                above,
                UnixTime::since_unix_epoch(since_epoch),
                algorithms.all,
            )
        })
        .map_err(unusable)?;
    Ok(())
}
