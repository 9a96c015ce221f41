//! What sidecars need to introduce themselves: the trust bundle and one bootstrap token each,
//! written beside the certificate authority and minted again before they expire.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt as _, chown};
use std::path::Path;
use std::time::{Duration, SystemTime};

use outrider_api::sidecar;
use outrider_certs::authority::CertificateAuthority;
use outrider_certs::file::write_atomic;
use outrider_certs::token::TokenIssuer;
use thiserror::Error;

use super::plan::Plan;

/// How long a token is good for.
const LIFETIME: Duration = Duration::from_secs(3600);
/// How often tokens are minted again.
pub(super) const RENEWAL: Duration = Duration::from_secs(LIFETIME.as_secs() / 2);

/// Why the sidecars have no credentials.
#[derive(Debug, Error)]
pub enum CredentialsError {
    /// A file or folder.
    #[error("cannot write {0}: {1}")]
    Write(std::path::PathBuf, io::Error),
    /// The certificate authority.
    #[error("the certificate authority in {0}: {1}")]
    Authority(std::path::PathBuf, String),
    /// The key that signs tokens.
    #[error("the token key in {0}: {1}")]
    TokenKey(std::path::PathBuf, String),
}

/// Makes or loads the certificate authority, and writes its trust bundle for the sidecars.
pub(super) fn write_trust_bundle(plan: &Plan) -> Result<(), CredentialsError> {
    let directory = &plan.state_dir;
    private_folder(directory).map_err(|error| CredentialsError::Write(directory.clone(), error))?;
    let authority =
        CertificateAuthority::load_or_create(directory, &plan.trust_domain, SystemTime::now())
            .map_err(|error| CredentialsError::Authority(directory.clone(), error.to_string()))?;
    let file = plan.trust_bundle_file();
    write_atomic(&file, authority.trust_bundle().to_pem().as_bytes(), 0o644)
        .map_err(|error| CredentialsError::Write(file.clone(), error))
}

/// Mints a token for every Workload.
pub(super) fn write_tokens(plan: &Plan) -> Result<(), CredentialsError> {
    let key_error = |error: &dyn std::fmt::Display| {
        CredentialsError::TokenKey(plan.state_dir.clone(), error.to_string())
    };
    let issuer = TokenIssuer::load_or_create(&plan.state_dir).map_err(|error| key_error(&error))?;
    let folder = plan.token_folder();
    let mode = match plan.network {
        None => private_folder(&folder).map(|()| 0o600),
        Some(_) => sidecars_folder(&folder).map(|()| 0o640),
    };
    let mode = mode.map_err(|error| CredentialsError::Write(folder.clone(), error))?;
    for workload in &plan.workloads {
        let token = issuer
            .mint(&workload.id, LIFETIME, SystemTime::now())
            .map_err(|error| key_error(&error))?;
        let file = plan.token_file(workload);
        write_atomic(&file, token.as_bytes(), mode)
            .map_err(|error| CredentialsError::Write(file.clone(), error))?;
    }
    Ok(())
}

/// Creates a folder that only its owner may look into.
fn private_folder(folder: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Creates a folder in which the sidecars, whose user is not ours, may read, and nobody else: what is
/// created in it is of their group.
fn sidecars_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    chown(folder, None, Some(sidecar::UID))?;
    fs::set_permissions(folder, Permissions::from_mode(0o2750))
}
