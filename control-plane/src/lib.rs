//! The control plane: says to every sidecar who it is, whom it may reach and who may reach it.
//!
//! A change goes one way through it:
//!
//! 1. [`source`] reads a directory of YAML, or `kubernetes` what an API server holds, and notices when
//!    it changes;
//! 2. [`index`] folds the objects into a [`index::Mesh`], or says what is wrong with them, line by line;
//! 3. `reload` applies a mesh whole, or keeps the last good one;
//! 4. `store` gives every changed workload and destination a new version, and nothing else;
//! 5. `discovery` sends those that a sidecar follows, and hears what it made of them.
//!
//! Beside it, `identity` issues certificates for bootstrap tokens, `server` owns the sidecars' port
//! (TLS, HTTP/2), `admin` the port for health and metrics. On Kubernetes [`inject`] makes sidecars part of
//! pods, and `webhook` has it do so when pods are created. [`run()`] puts it all together.

mod admin;
mod args;
mod discovery;
mod identity;
pub mod index;
pub mod inject;
mod kubernetes;
mod logging;
mod metrics;
mod reload;
mod run;
mod server;
pub mod source;
mod store;
mod version;
pub mod webhook;

pub use args::{Args, KubernetesArgs, LogFormat};
pub use kubernetes::{ReadError, Reading, read};
pub use run::{ControlPlane, run};
pub use server::tls::control_plane_id;
