//! Whom to know the control plane by: those it named last, or those in the file, which whoever mounts it
//! may have replaced since.

use std::path::PathBuf;

use outrider_certs::bundle::TrustBundle;
use outrider_certs::spiffe::TrustDomain;

/// The file of trust anchors.
#[derive(Clone, Debug)]
pub struct AnchorFile {
    pub path: PathBuf,
    pub trust_domain: TrustDomain,
}

impl AnchorFile {
    /// By whom to know it in the attempt of that number, counted from 0: by turns those that it `told`, and
    /// those in the file now. Its authority may have been rotated while this sidecar could not reach it.
    pub fn choose(&self, told: &TrustBundle, attempt: u32) -> TrustBundle {
        if attempt.is_multiple_of(2) {
            return told.clone();
        }
        let text = std::fs::read(&self.path).map_err(|error| error.to_string());
        let bundle = text.and_then(|text| {
            let parsed = TrustBundle::from_pem(self.trust_domain.clone(), &text);
            parsed.map_err(|error| error.to_string())
        });
        bundle.unwrap_or_else(|error| {
            tracing::warn!(error, path = %self.path.display(), "the trust bundle cannot be used");
            told.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use outrider_certs::authority::NewAuthority;

    use super::*;

    fn bundle(domain: &TrustDomain) -> TrustBundle {
        let lifetime = Duration::from_secs(60);
        let new = NewAuthority::generate(domain, lifetime, SystemTime::now()).unwrap();
        TrustBundle::from_pem(domain.clone(), new.certificate.as_bytes()).unwrap()
    }

    #[test]
    fn the_file_is_read_again_for_every_other_attempt() {
        let directory = tempfile::tempdir().unwrap();
        let domain: TrustDomain = "shop.example".parse().unwrap();
        let file = AnchorFile {
            path: directory.path().join("trust-bundle.pem"),
            trust_domain: domain.clone(),
        };
        let (told, replaced) = (bundle(&domain), bundle(&domain));
        assert_eq!(file.choose(&told, 1), told, "there is no file");
        for written in [&told, &replaced] {
            std::fs::write(&file.path, written.to_pem()).unwrap();
            assert_eq!(file.choose(&told, 0), told);
            assert_eq!(file.choose(&told, 1), *written);
            assert_eq!(file.choose(&told, 2), told);
        }
        std::fs::write(&file.path, "half of it").unwrap();
        assert_eq!(file.choose(&told, 1), told);
    }
}
