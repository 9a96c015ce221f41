//! The authorities that are trusted, and how long they last.

use std::time::SystemTime;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use rustls_pki_types::CertificateDer;

use super::finding::Finding;
use crate::certs::authorities::{self, Authority, Life};
use crate::certs::time;
use crate::kubernetes::access::Cluster;
use crate::kubernetes::names::{SYSTEM, TRUST_BUNDLE, TRUST_BUNDLE_KEY};

const CHECK: &str = "authority";
/// Less is not enough to replace it in peace, seconds. Of one that lives for a short time, a sixth of that: it
/// is replaced when a third is left.
const SOON: i64 = 30 * 86_400;

/// What was learnt of them.
#[derive(Default)]
pub(super) struct Authorities {
    /// Those of the trust bundle.
    pub(super) certificates: Vec<CertificateDer<'static>>,
    pub(super) findings: Vec<Finding>,
}

/// Reads the trust bundle.
pub(super) async fn authorities(cluster: &Cluster) -> Authorities {
    let bundles: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), SYSTEM);
    let bundle = match bundles.get_opt(TRUST_BUNDLE).await {
        Ok(bundle) => bundle,
        Err(error) => {
            return Authorities {
                findings: vec![Finding::unknown(CHECK, cluster.failed(error))],
                ..Authorities::default()
            };
        }
    };
    let text = bundle.and_then(|bundle| bundle.data?.remove(TRUST_BUNDLE_KEY));
    of(text.as_deref(), time::unix(SystemTime::now()))
}

fn of(text: Option<&str>, now: i64) -> Authorities {
    let broken = |what: String| Authorities {
        findings: vec![Finding::error(
            CHECK,
            format_args!(
                "the ConfigMap {SYSTEM}/{TRUST_BUNDLE} {what}: no sidecar knows whom to trust"
            ),
            format_args!(
                "the leader among the control planes writes it: kubectl -n {SYSTEM} logs deployment/outrider-control-plane"
            ),
        )],
        ..Authorities::default()
    };
    let Some(text) = text else {
        return broken("is not there".to_owned());
    };
    let read = authorities::read(text.as_bytes(), now);
    match read.and_then(|read| Ok((read, authorities::certificates(text.as_bytes())?))) {
        Err(error) => broken(format!("cannot be read ({error})")),
        Ok((read, certificates)) => Authorities {
            findings: read.iter().map(judge).collect(),
            certificates,
        },
    }
}

fn judge(authority: &Authority) -> Finding {
    let Authority {
        subject,
        serial,
        not_before,
        not_after,
        seconds_left,
    } = authority;
    let life = Life {
        not_before: *not_before,
        not_after: *not_after,
    };
    let message = format!("{subject}, serial {serial}: {}", time::left(*seconds_left));
    let rotate = "outrider certs rotate (or renew the Secret where cert-manager keeps it)";
    match *seconds_left {
        ..=0 => Finding::error(CHECK, message, rotate),
        left if left < SOON.min(life.whole() / 6) => Finding::warning(CHECK, message, rotate),
        _ => Finding::ok(CHECK, message),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn an_authority_that_ends_soon_is_a_warning() {
        let day = 86_400;
        let of = |lives: i64, seconds_left| {
            judge(&Authority {
                subject: "CN=outrider".to_owned(),
                serial: "01".to_owned(),
                not_before: 0,
                not_after: lives,
                seconds_left,
            })
        };
        assert_eq!(of(365 * day, SOON).level, Level::Ok);
        assert_eq!(of(365 * day, 5 * day).level, Level::Warning);
        assert_eq!(of(365 * day, -1).level, Level::Error);
        let message = of(365 * day, 5 * day).message;
        assert_eq!(message, "CN=outrider, serial 01: 5d");
        // One of a month is replaced by itself ten days before its end.
        assert_eq!(of(30 * day, 10 * day).level, Level::Ok);
        assert_eq!(of(30 * day, 4 * day).level, Level::Warning);
    }

    #[test]
    fn without_a_bundle_nobody_is_trusted() {
        for text in [None, Some(""), Some("nonsense")] {
            let findings = of(text, 0).findings;
            assert_eq!(findings.len(), 1);
            assert_eq!(findings[0].level, Level::Error, "{text:?}");
        }
    }
}
