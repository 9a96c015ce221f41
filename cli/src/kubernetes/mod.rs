//! A mesh on a cluster, seen through its API server, with the rights of the user's kubeconfig.
//!
//! - [`access`]: which cluster, and what its refusals mean ([`forbidden`]).
//! - [`forward`]: a request to a port of a pod; [`many`]: to many of them.
//! - [`pods`]: which pods have a sidecar, and which should.
//! - [`mesh`]: its policy, as the control plane reads it.
//! - [`sidecars`]: what the sidecars measured.
//! - [`check`]: whether all is well.
//!
//! Only `certs rotate` changes anything.

pub(crate) mod access;
pub(crate) mod check;
mod forbidden;
pub(crate) mod forward;
pub(crate) mod many;
pub(crate) mod mesh;
pub(crate) mod names;
pub(crate) mod pods;
pub(crate) mod sidecars;
