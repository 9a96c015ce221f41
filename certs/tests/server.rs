//! Certificates of servers that are known by host names: whom they convince, and whom they do not.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::Arc;
use std::time::SystemTime;

use outrider_certs::authority::{
    AuthorityError, CertificateAuthority, ServerCertificate, ServerCertificateError,
};
use outrider_certs::tls::named_server_config;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig};
use rustls_pki_types::ServerName;
use support::tls::{H2, Mesh, handshake, reason};
use support::{DAY, HOUR};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

const NAME: &str = "outrider-control-plane.outrider-system.svc";

fn names(names: &[&str]) -> Vec<ServerName<'static>> {
    let parse = |name: &&str| ServerName::try_from((*name).to_owned()).unwrap();
    names.iter().map(parse).collect()
}

fn issue(authority: &CertificateAuthority, of: &[&str]) -> ServerCertificate {
    let now = SystemTime::now();
    authority.issue_server(&names(of), DAY, now).unwrap()
}

/// As any client of the web's: it knows the authority and a host name.
fn ordinary(authority: &CertificateAuthority) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for anchor in authority.trust_bundle().anchors() {
        roots.add(anchor.clone()).unwrap();
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

fn connects(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>, name: &str) -> bool {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut server = rustls::ServerConnection::new(Arc::clone(server)).unwrap();
    let mut bytes = Vec::new();
    while client.is_handshaking() || server.is_handshaking() {
        bytes.clear();
        client.write_tls(&mut bytes).unwrap();
        server.read_tls(&mut bytes.as_slice()).unwrap();
        if server.process_new_packets().is_err() {
            return false;
        }
        bytes.clear();
        server.write_tls(&mut bytes).unwrap();
        client.read_tls(&mut bytes.as_slice()).unwrap();
        if client.process_new_packets().is_err() {
            return false;
        }
    }
    true
}

#[test]
fn an_ordinary_client_is_convinced_by_its_names_only() {
    let mesh = Mesh::new();
    let certificate = issue(&mesh.authority, &[NAME, "198.18.0.1", "fd00::1"]);
    let server = named_server_config(&certificate, &[]).unwrap();
    let client = ordinary(&mesh.authority);
    for name in [NAME, "198.18.0.1", "fd00::1"] {
        assert!(connects(&client, &server, name), "{name}");
    }
    for name in ["outrider-control-plane.other.svc", "198.18.0.2"] {
        assert!(!connects(&client, &server, name), "{name}");
    }
    assert!(!connects(&ordinary(&Mesh::new().authority), &server, NAME));
}

#[test]
fn no_sidecar_takes_it_for_an_identity() {
    let mesh = Mesh::new();
    let server = named_server_config(&issue(&mesh.authority, &[NAME]), H2).unwrap();
    let done = handshake(&mesh.client(), &server);
    assert!(done.client_result.is_err());
    assert_eq!(reason(&done.client_result), "bad_identity");
}

#[test]
fn it_says_what_a_server_may_and_no_more() {
    let mesh = Mesh::new();
    let certificate = issue(&mesh.authority, &[NAME, "198.18.0.1"]);
    let (_, parsed) = X509Certificate::from_der(&certificate.chain()[0]).unwrap();
    let san = parsed.subject_alternative_name().unwrap().unwrap();
    let expected = [
        GeneralName::DNSName(NAME),
        GeneralName::IPAddress(&[198, 18, 0, 1]),
    ];
    assert_eq!(san.value.general_names, expected);
    let usage = parsed.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && !usage.client_auth && !usage.any && usage.other.is_empty());
    assert!(!parsed.basic_constraints().unwrap().unwrap().value.ca);
}

#[test]
fn it_is_renewed_as_those_of_workloads_are() {
    let mesh = Mesh::new();
    let now = SystemTime::now();
    let certificate = mesh
        .authority
        .issue_server(&names(&[NAME]), HOUR, now)
        .unwrap();
    let svid = mesh
        .authority
        .issue_svid(mesh.order.id(), HOUR, now)
        .unwrap();
    let seconds = |time: SystemTime| {
        time.duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs()
    };
    assert_eq!(seconds(certificate.not_after()), seconds(svid.not_after()));
    for jitter in [0.0, 0.5, 1.0] {
        assert_eq!(certificate.renew_at(jitter), svid.renew_at(jitter));
    }
}

#[test]
fn a_server_has_a_name_and_an_authority_that_is_valid() {
    let mesh = Mesh::new();
    let issue = |of: &[&str], now| mesh.authority.issue_server(&names(of), DAY, now);
    let now = SystemTime::now();
    assert!(matches!(
        issue(&[], now),
        Err(ServerCertificateError::NoName)
    ));
    let later = mesh.authority.not_after();
    assert!(matches!(
        issue(&[NAME], later),
        Err(ServerCertificateError::Authority(AuthorityError::Expired))
    ));
}
