//! The webhook's own certificate, as a caller sees it: a TLS handshake through the API server.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::finding::Finding;
use super::replicas;
use crate::certs::authorities;
use crate::kubernetes::access::Cluster;
use crate::kubernetes::forward::Door;
use crate::kubernetes::sidecars::LIMIT;

const CHECK: &str = "webhook-certificate";
/// As the API server calls it.
const NAME: &str = "outrider-control-plane.outrider-system.svc";

/// How long the certificate lasts that is shown there. Whether the API server trusts it, a dry run
/// shows; here nothing is sent, so nobody has to be trusted.
pub(super) async fn look(cluster: &Cluster, door: &Door, now: i64) -> Finding {
    match timeout(LIMIT, shown(cluster, door)).await {
        Ok(Ok(certificate)) => match authorities::not_after(&certificate) {
            Ok(end) => replicas::certificate(
                CHECK,
                &format!("the webhook's certificate of {door}"),
                end - now,
            ),
            Err(error) => Finding::error(CHECK, format_args!("{door}: {error}"), remedy()),
        },
        Ok(Err(error)) => Finding::error(CHECK, format_args!("{door}: {error}"), remedy()),
        Err(_) => Finding::unknown(CHECK, format_args!("{door}: no answer within {LIMIT:?}")),
    }
}

fn remedy() -> &'static str {
    "kubectl -n outrider-system logs deployment/outrider-control-plane says why the webhook does not listen"
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
