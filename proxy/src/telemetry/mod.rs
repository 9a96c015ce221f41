//! What can be seen of the sidecar: metrics, the access log, health.

mod any_certificate;
mod app_probe;
pub mod edge;
pub mod exchange;
pub mod metrics;
pub mod names;
pub mod retries;
pub mod series;
pub mod server;
pub mod traffic;
