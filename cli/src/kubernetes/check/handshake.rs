//! The certificates of a control plane, as callers see them: a TLS handshake through the API server.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::finding::Finding;
use crate::certs::authorities::Life;
use crate::certs::time;
use crate::kubernetes::access::Cluster;
use crate::kubernetes::forward::Door;
use crate::kubernetes::sidecars::LIMIT;

const LOG: &str = "kubectl -n outrider-system logs deployment/outrider-control-plane";
/// As callers call it.
const NAME: &str = "outrider-control-plane.outrider-system.svc";

/// How long the certificate lasts that is shown there; `whose` is it, for people. Whether it is trusted,
/// other checks show; here nothing is sent, so nobody has to be trusted.
pub(super) async fn look(
    cluster: &Cluster,
    door: &Door,
    check: &'static str,
    whose: &str,
    now: i64,
) -> Finding {
    let shown = match timeout(LIMIT, shown(cluster, door)).await {
        Ok(shown) => shown.and_then(|certificate| Life::of(&certificate)),
        Err(_) => {
            return Finding::unknown(check, format_args!("{door}: no answer within {LIMIT:?}"));
        }
    };
    match shown {
        Ok(life) => judge(check, whose, life, now),
        Err(error) => Finding::error(
            check,
            format_args!("{door}: {error}"),
            format_args!("{LOG} says why it does not listen"),
        ),
    }
}

/// How long a certificate lasts that is renewed by itself.
fn judge(check: &'static str, whose: &str, life: Life, now: i64) -> Finding {
    let message = format!("{whose}: {}", time::left(life.left(now)));
    let remedy = format!("it should have been renewed long ago: {LOG}");
    match life.left(now) {
        ..=0 => Finding::error(check, message, remedy),
        _ if ends_soon(life, now) => Finding::warning(check, message, remedy),
        _ => Finding::ok(check, message),
    }
}

/// Whether a certificate should have been renewed long ago: that is done with half of its life left at
/// the latest, however short or long it is.
pub(super) fn ends_soon(life: Life, now: i64) -> bool {
    life.left(now) < life.whole() / 3
}

async fn shown(cluster: &Cluster, door: &Door) -> Result<CertificateDer<'static>, String> {
    let (stream, _forwarder) = door
        .open(cluster)
        .await
        .map_err(|error| error.to_string())?;
    let seen = Arc::new(Seen::new());
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&seen) as Arc<dyn ServerCertVerifier>)
        .with_no_client_auth();
    let name = ServerName::try_from(NAME).map_err(|error| error.to_string())?;
    let connected = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await;
    match (seen.take(), connected) {
        (Some(certificate), _) => Ok(certificate),
        (None, Err(error)) => Err(format!("no TLS is spoken there: {error}")),
        (None, Ok(_)) => Err("no certificate is shown there".to_owned()),
    }
}

/// Keeps what is shown.
#[derive(Debug)]
struct Seen {
    certificate: Mutex<Option<CertificateDer<'static>>>,
    provider: CryptoProvider,
}

impl Seen {
    fn new() -> Self {
        Self {
            certificate: Mutex::default(),
            provider: aws_lc_rs::default_provider(),
        }
    }

    fn take(&self) -> Option<CertificateDer<'static>> {
        let mut certificate = self
            .certificate
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        certificate.take()
    }
}

impl ServerCertVerifier for Seen {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut certificate = self
            .certificate
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *certificate = Some(shown.clone().into_owned());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    /// Back-dated as the mesh's are: by a quarter, and by five minutes at most.
    fn fresh(lifetime: i64) -> Life {
        Life {
            not_before: -(lifetime / 4).min(300),
            not_after: lifetime,
        }
    }

    #[test]
    fn a_certificate_is_judged_by_its_own_life() {
        for lifetime in [10, 900, 3600, 86_400, 365 * 86_400] {
            let life = fresh(lifetime);
            let level = |now| judge("replica-certificate", "a's", life, now).level;
            let renewed = life.not_before + life.whole() / 2;
            assert_eq!(level(0), Level::Ok, "{lifetime}");
            assert_eq!(
                level(renewed),
                Level::Ok,
                "{lifetime}: it is renewed by then"
            );
            assert_eq!(level(lifetime * 3 / 4), Level::Warning, "{lifetime}");
            assert_eq!(level(lifetime), Level::Error, "{lifetime}");
        }
    }

    #[test]
    fn what_is_wrong_comes_with_where_to_look() {
        let finding = judge("replica-certificate", "a's", fresh(3600), 3000);
        assert_eq!(finding.message, "a's: 10m");
        let remedy = finding.remedy.unwrap();
        assert_eq!(
            remedy,
            format!("it should have been renewed long ago: {LOG}")
        );
    }
}
