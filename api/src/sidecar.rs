//! What is agreed about every sidecar: its ports, its user, and how much it may ask.

use std::fmt;
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

/// There, with the port after it, it answers whether its app listens.
const TCP_PROBE: &str = "/probe/tcp/";
/// There, with the port and the target of the request after it, it asks its app over TLS.
const HTTPS_PROBE: &str = "/probe/https/";

/// What a kubelet asks of an app by way of the sidecar's telemetry port, since it cannot ask the app: the
/// sidecar accepts what is intercepted whether the app listens or not, and has no TLS for who has no
/// identity. Injection writes such probes, the source reads them, and the sidecar answers them. Displays
/// the target of the request there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppProbe<'a> {
    /// Whether it listens on a port.
    Tcp { port: u16 },
    /// What it answers over TLS. The target is path and query, and begins with `/`.
    Https { port: u16, target: &'a str },
}

impl fmt::Display for AppProbe<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { port } => write!(f, "{TCP_PROBE}{port}"),
            Self::Https { port, target } => write!(f, "{HTTPS_PROBE}{port}{target}"),
        }
    }
}

impl<'a> AppProbe<'a> {
    /// Of the target of a request to the telemetry port; `None`: that asks something else.
    #[must_use]
    pub fn read(target: &'a str) -> Option<Self> {
        if let Some(rest) = target.strip_prefix(HTTPS_PROBE) {
            let (port, target) = rest.split_at(rest.find('/')?);
            let port = port.parse().ok()?;
            return Some(Self::Https { port, target });
        }
        let rest = target.strip_prefix(TCP_PROBE)?;
        let port = rest.split('?').next()?.parse().ok()?;
        Some(Self::Tcp { port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_of_an_app_is_read_as_it_is_written() {
        let https = |target| AppProbe::Https { port: 8443, target };
        for (probe, text) in [
            (AppProbe::Tcp { port: 5432 }, "/probe/tcp/5432"),
            (https("/"), "/probe/https/8443/"),
            (
                https("/live?full=1&at=/x"),
                "/probe/https/8443/live?full=1&at=/x",
            ),
            (https("//twice"), "/probe/https/8443//twice"),
        ] {
            assert_eq!(probe.to_string(), text);
            assert_eq!(AppProbe::read(text), Some(probe));
        }
        for other in [
            "/ready",
            "/probe/tcp/",
            "/probe/tcp/65536",
            "/probe/tcp/80/x",
            "/probe/https/8443",
            "/probe/https//live",
            "/probe/https/8443?/",
        ] {
            assert_eq!(AppProbe::read(other), None, "{other}");
        }
    }
}
