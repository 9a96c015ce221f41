//! Whom one sidecar was told to trust, and what of it it has acknowledged. Pure.

use std::collections::VecDeque;
use std::sync::Arc;

use outrider_certs::bundle::TrustBundle;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Trust {
    /// Each with the first version that said so, oldest first; neighbours differ, so that there are as
    /// many as the authority was replaced while the sidecar said nothing.
    told: VecDeque<(u64, Arc<TrustBundle>)>,
}

impl Trust {
    pub(super) fn sent(&mut self, version: u64, bundle: &TrustBundle) {
        let newest = self.told.back();
        if newest.is_none_or(|(_, newest)| **newest != *bundle) {
            self.told.push_back((version, Arc::new(bundle.clone())));
        }
    }

    /// Whom the sidecar trusts, now that it goes by `version` of its workload; `None`: no news.
    pub(super) fn acknowledged(&mut self, version: u64) -> Option<Arc<TrustBundle>> {
        let mut known = None;
        while let Some((said, bundle)) = self.told.front()
            && *said <= version
        {
            known = Some(Arc::clone(bundle));
            // The newest stays: what is the same is not told again.
            if self.told.len() == 1 {
                break;
            }
            self.told.pop_front();
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use outrider_certs::authority::NewAuthority;
    use outrider_certs::spiffe::TrustDomain;

    use super::*;

    fn bundle() -> TrustBundle {
        let domain: TrustDomain = "shop.example".parse().unwrap();
        let lifetime = Duration::from_secs(60);
        let new = NewAuthority::generate(&domain, lifetime, SystemTime::now()).unwrap();
        TrustBundle::from_pem(domain, new.certificate.as_bytes()).unwrap()
    }

    #[test]
    fn what_is_acknowledged_is_what_was_told_by_then() {
        let (old, new) = (bundle(), bundle());
        let both = old.union(&new).unwrap();
        let mut trust = Trust::default();
        assert_eq!(trust.acknowledged(1), None);
        trust.sent(3, &old);
        trust.sent(4, &old);
        trust.sent(6, &both);
        trust.sent(7, &new);
        assert_eq!(trust.acknowledged(2), None);
        assert_eq!(trust.acknowledged(4).as_deref(), Some(&old));
        // One that was rejected, or whose answer is still to come, is not trusted.
        assert_eq!(trust.acknowledged(5), None);
        assert_eq!(trust.acknowledged(6).as_deref(), Some(&both));
        assert_eq!(trust.acknowledged(9).as_deref(), Some(&new));
        trust.sent(10, &new);
        assert_eq!(trust.acknowledged(10).as_deref(), Some(&new));
    }
}
