//! The Outrider sidecar.
//!
//! [`run`] starts one thread for everything that is not traffic ([`control`], [`telemetry`]), and
//! workers for the traffic ([`worker`]). A worker's connections come from [`listen`] and go through
//! [`outbound`] (from the app to other sidecars) or [`inbound`] (from other sidecars to the app).

pub mod ahead;
pub mod containers;
pub mod control;
pub mod departure;
pub mod descriptors;
pub mod detect;
pub mod first;
pub mod handover;
pub mod http;
pub mod inbound;
pub mod init;
pub mod intercept;
pub mod listen;
pub mod listeners;
pub mod logging;
pub mod outbound;
pub mod refusal;
pub mod strangers;
pub mod telemetry;
mod through;
pub mod tls;
pub mod traffic;
pub mod tunnel;
pub mod turns;
mod user;
pub mod wait;
pub mod worker;

mod args;
mod sidecar;

pub use args::Args;
pub use sidecar::run;
