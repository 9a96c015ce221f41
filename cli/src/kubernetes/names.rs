//! What things of the mesh are called on a cluster.

/// Where the control plane is.
pub(crate) const SYSTEM: &str = "outrider-system";
/// Its Deployment, Service and Lease.
pub(crate) const CONTROL_PLANE: &str = "outrider-control-plane";
/// The Secret of the authority.
pub(crate) const CA_SECRET: &str = "outrider-ca";
/// The ConfigMap with the authorities that are trusted, in every meshed namespace.
pub(crate) const TRUST_BUNDLE: &str = "outrider-trust-bundle";
/// Its key.
pub(crate) const TRUST_BUNDLE_KEY: &str = "trust-bundle.pem";
/// The MutatingWebhookConfiguration.
pub(crate) const INJECTOR: &str = "outrider-injector";
/// The ValidatingWebhookConfiguration.
pub(crate) const VALIDATOR: &str = "outrider-validator";
/// The sidecar's container.
pub(crate) const SIDECAR: &str = "outrider-proxy";
/// The label of namespaces (`enabled`, `disabled`) and of pods (`true`, `false`).
pub(crate) const INJECT: &str = "outrider.mesh/inject";
/// Of the Secret: a new value has a new authority made.
pub(crate) const ROTATE: &str = "outrider.mesh/rotate";

/// The sidecar's metrics and health.
pub(crate) const TELEMETRY_PORT: u16 = 15020;
/// What it knows; on the pod's loopback.
pub(crate) const ADMIN_PORT: u16 = 15000;
/// Where sidecars find the control plane.
pub(crate) const CONTROL_PLANE_PORT: u16 = 15012;
/// The control plane's metrics and health.
pub(crate) const CONTROL_PLANE_ADMIN_PORT: u16 = 15014;
/// The control plane's webhooks.
pub(crate) const WEBHOOK_PORT: u16 = 15017;
