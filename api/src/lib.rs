//! What the processes of Outrider say to each other, what users write, and the one evaluator.
//!
//! | module | owns |
//! |---|---|
//! | [`proto`] | the wire between sidecar and control plane, generated |
//! | [`kinds`] | what users write, as Rust types |
//! | [`annotations`] | what a pod says about its sidecar |
//! | [`crd`] | the kinds as CustomResourceDefinitions |
//! | [`manifest`] | YAML to kinds, every problem with its file, line, column and field |
//! | [`names`] | names of Services, and how callers spell them |
//! | [`duration`] | durations as the Gateway API writes them |
//! | [`model`] | what the wire means: validated and immutable |
//! | [`authorization`] | who may call what: [`authorization::PolicySet::authorize`] |
//! | [`sidecar`] | what is agreed about every sidecar: ports, user, bounds |
//! | [`routing`] | where a request goes, and what its filters make of it |
//!
//! [`kinds`], [`annotations`], [`crd`] and [`manifest`] are there with the feature `manifest`, which
//! sidecars do without.
//!
//! No sockets, no clocks and no files: text and messages in, values out.

#[cfg(feature = "manifest")]
pub mod annotations;
pub mod authorization;
#[cfg(feature = "manifest")]
pub mod crd;
pub mod duration;
#[cfg(feature = "manifest")]
pub mod kinds;
#[cfg(feature = "manifest")]
pub mod manifest;
pub mod model;
pub mod names;
pub mod routing;
pub mod sidecar;

/// The wire protocol, generated from `proto/outrider.proto`.
#[allow(clippy::all, missing_docs, unreachable_pub)]
pub mod proto {
    tonic::include_proto!("outrider.v1");
}
