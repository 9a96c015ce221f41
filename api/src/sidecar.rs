//! What is agreed about every sidecar: its ports, its user, and how much it may ask.

use std::time::Duration;

/// The longest that callers may take to learn that a sidecar goes.
const WITHDRAWAL: Duration = Duration::from_secs(5);

/// How long a sidecar that is to end waits until nobody calls it, before it begins to drain: half of the
/// drain timeout, and 5 s at most.
pub fn withdrawal_limit(drain_timeout: Duration) -> Duration {
    WITHDRAWAL.min(drain_timeout / 2)
}

/// The user that a sidecar runs as where connections are intercepted: its own pass.
pub const UID: u32 = 2102;
/// The default of its admin port, on loopback.
pub const ADMIN_PORT: u16 = 15000;
/// Intercepted connections of the app.
pub const OUTBOUND_PORT: u16 = 15001;
/// Intercepted connections to the app.
pub const INBOUND_PORT: u16 = 15006;
/// The default of the port for peers.
pub const MESH_PORT: u16 = 15008;
/// The default of its metrics and health.
pub const TELEMETRY_PORT: u16 = 15020;
/// There it answers when its app may end, since nobody calls it any more.
pub const HOLD_PATH: &str = "/hold";
/// A sidecar may follow so many destinations, and as many addresses; with one more its stream ends.
pub const SUBSCRIPTIONS_MAX: usize = 4096;
/// What may be excluded from interception, of all kinds together: each is a rule, and the rules are sent
/// to the kernel as one message that must fit into a socket's buffer.
pub const EXCLUSIONS_MAX: usize = 256;
