//! The TLS configurations that a worker connects with: one for each peer identity, made once for
//! each generation of our certificate.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use outrider_certs::spiffe::SpiffeId;
use outrider_certs::tls;
use rustls::ClientConfig;
use tokio::sync::watch;

use crate::control::Credentials;
use crate::refusal::Refusal;

/// Belongs to one worker.
#[derive(Debug)]
pub struct ClientTls {
    credentials: watch::Receiver<Option<Arc<Credentials>>>,
    configs: RefCell<Configs>,
}

#[derive(Debug, Default)]
struct Configs {
    generation: u64,
    by_peer: HashMap<SpiffeId, Arc<ClientConfig>>,
}

impl ClientTls {
    pub fn new(credentials: watch::Receiver<Option<Arc<Credentials>>>) -> Self {
        Self {
            credentials,
            configs: RefCell::default(),
        }
    }

    /// Of the certificate in use; `None` without one.
    pub fn generation(&self) -> Option<u64> {
        self.credentials
            .borrow()
            .as_ref()
            .map(|credentials| credentials.generation)
    }

    /// The configuration that accepts exactly `peer`, and the generation it belongs to.
    pub fn config(&self, peer: &SpiffeId) -> Result<(Arc<ClientConfig>, u64), Refusal> {
        let credentials = self.credentials.borrow().clone().ok_or(Refusal::NoPolicy)?;
        let mut configs = self.configs.borrow_mut();
        if configs.generation != credentials.generation {
            *configs = Configs {
                generation: credentials.generation,
                by_peer: HashMap::new(),
            };
        }
        if let Some(config) = configs.by_peer.get(peer) {
            return Ok((Arc::clone(config), credentials.generation));
        }
        let config =
            tls::client_config(Some(&credentials.svid), &credentials.bundle, peer, &[b"h2"])
                .map_err(|error| {
                    tracing::error!(%error, %peer, "no TLS configuration for a peer");
                    Refusal::TlsHandshakeFailed
                })?;
        configs.by_peer.insert(peer.clone(), Arc::clone(&config));
        Ok((config, credentials.generation))
    }
}
