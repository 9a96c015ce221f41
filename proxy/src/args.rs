//! The sidecar's command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use outrider_api::sidecar::{INBOUND_PORT, OUTBOUND_PORT};
use outrider_certs::spiffe::TrustDomain;

use crate::intercept::Mode;
use crate::logging::LogFormat;

/// The Outrider sidecar: rides beside one workload, carries its traffic over mutual TLS and
/// enforces who may call it.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example:
  outrider-proxy --control-plane 127.0.0.1:15012 --trust-domain shop.example \\
    --trust-bundle ca.crt --token-file order-1.jwt --workload shop/order-1")]
pub struct Args {
    /// The control plane's gRPC address
    #[arg(
        long,
        env = "OUTRIDER_CONTROL_PLANE",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:15012"
    )]
    pub control_plane: String,
    /// The trust domain of the mesh
    #[arg(
        long,
        env = "OUTRIDER_TRUST_DOMAIN",
        value_name = "DOMAIN",
        default_value = "cluster.local"
    )]
    pub trust_domain: TrustDomain,
    /// The trust anchors to know the control plane by (PEM)
    #[arg(long, env = "OUTRIDER_TRUST_BUNDLE", value_name = "FILE")]
    pub trust_bundle: PathBuf,
    /// The bootstrap token; read again for each certificate
    #[arg(long, env = "OUTRIDER_TOKEN_FILE", value_name = "FILE")]
    pub token_file: PathBuf,
    /// The workload that this sidecar rides beside
    #[arg(long, env = "OUTRIDER_WORKLOAD", value_name = "NAMESPACE/NAME")]
    pub workload: WorkloadName,
    /// Where /config answers: on loopback
    #[arg(long, env = "OUTRIDER_ADMIN", value_name = "ADDRESS", default_value = "127.0.0.1:15000", value_parser = loopback)]
    pub admin: SocketAddr,
    /// Where /metrics, /ready and /live answer
    #[arg(
        long,
        env = "OUTRIDER_TELEMETRY",
        value_name = "ADDRESS",
        default_value = "0.0.0.0:15020"
    )]
    pub telemetry: SocketAddr,
    /// Carry what the app does without its knowledge, where `outrider-proxy init` redirects it
    #[arg(long, env = "OUTRIDER_INTERCEPT", value_name = "MODE", value_enum)]
    pub intercept: Option<Mode>,
    /// Where intercepted connections of the app arrive
    #[arg(long, env = "OUTRIDER_OUTBOUND_PORT", value_name = "PORT", default_value_t = OUTBOUND_PORT)]
    pub outbound_port: u16,
    /// Where intercepted connections to the app arrive
    #[arg(long, env = "OUTRIDER_INBOUND_PORT", value_name = "PORT", default_value_t = INBOUND_PORT)]
    pub inbound_port: u16,
    /// Where this sidecar takes the ports of the one that it replaces, and gives its own to the next
    /// (a Unix socket, made with mode 0600)
    #[arg(long, env = "OUTRIDER_HANDOVER", value_name = "PATH")]
    pub handover: Option<PathBuf>,
    /// How long what is open may take to finish when the sidecar ends [default: as the mesh says]
    #[arg(long, env = "OUTRIDER_DRAIN_TIMEOUT", value_name = "DURATION", value_parser = duration)]
    pub drain_timeout: Option<Duration>,
    /// Become this user, once started as root, and give up every capability but the one that
    /// `--intercept tproxy` takes
    #[arg(long, env = "OUTRIDER_USER", value_name = "UID", value_parser = clap::value_parser!(u32).range(1..i64::from(u32::MAX)))]
    pub user: Option<u32>,
    /// End when so many other containers of the pod have run and none does any more; they are seen only
    /// where the pod shares its process namespace
    #[arg(long, env = "OUTRIDER_END_WITH", value_name = "CONTAINERS", value_parser = clap::value_parser!(u16).range(1..))]
    pub end_with: Option<u16>,
    /// Threads that carry traffic
    #[arg(long, env = "OUTRIDER_WORKERS", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub workers: u16,
    /// How log lines are written
    #[arg(long, env = "OUTRIDER_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// What is logged: a level, or a filter such as `info,outrider_proxy=debug`
    #[arg(
        long,
        env = "OUTRIDER_LOG",
        value_name = "FILTER",
        default_value = "info"
    )]
    pub log_level: String,
}

/// `NAMESPACE/NAME` of a Workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadName {
    pub namespace: String,
    pub name: String,
}

impl FromStr for WorkloadName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name))
                if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
            {
                Ok(Self {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                })
            }
            _ => Err("expected NAMESPACE/NAME, for instance shop/order-1".to_owned()),
        }
    }
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    outrider_api::duration::parse(text).map_err(|error| error.to_string())
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| "expected ADDRESS:PORT, for instance 127.0.0.1:15000")?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err("the admin address must be on loopback: it shows what the sidecar knows to whoever asks".to_owned())
    }
}
