//! SPIFFE identity, keys, the certificate authority, trust bundles and TLS configurations. No network.
//!
//! A certificate's way through the crate: a workload makes a [`key::PrivateKey`] and a signing request;
//! the control plane checks the request ([`csr::VerifiedRequest`]) and the caller's bootstrap token
//! ([`token::TokenVerifier`]), and its [`authority::CertificateAuthority`] issues a certificate for the
//! token's identity; the workload keeps key and chain as an [`svid::Svid`], and [`tls`] turns it, with the
//! [`bundle::TrustBundle`], into finished rustls configurations.
//!
//! Everything here is synchronous. The clock and the jitter are arguments wherever a decision depends on
//! them, except inside rustls, which asks the system for the time of a handshake.

pub mod authority;
pub mod bundle;
pub mod csr;
pub mod file;
pub mod key;
mod leaf;
mod pem;
pub mod spiffe;
pub mod svid;
pub mod tls;
pub mod token;

pub use leaf::LeafError;
pub use rustls_pki_types::CertificateDer;
