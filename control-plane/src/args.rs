//! The command line, shared by `outrider-control-plane` and `outrider control-plane`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::ValueEnum;

/// What a control plane is started with.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The directory of YAML that describes the mesh; it is watched
    #[arg(long, value_name = "DIR")]
    pub config_dir: PathBuf,

    /// Where the certificate authority and the token key are kept [default: CONFIG_DIR/.outrider]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// A certificate authority of your own (PEM), instead of one made in the state directory
    #[arg(long, value_name = "FILE", requires = "ca_key")]
    pub ca_cert: Option<PathBuf>,

    /// The key of that certificate authority (PEM)
    #[arg(long, value_name = "FILE", requires = "ca_cert")]
    pub ca_key: Option<PathBuf>,

    /// The address that sidecars connect to (TLS, gRPC); port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value_t = loopback(15012))]
    pub listen: SocketAddr,

    /// The address of /live, /ready and /metrics (plain HTTP)
    #[arg(long, value_name = "ADDRESS", default_value_t = loopback(15014))]
    pub admin: SocketAddr,

    /// How log lines are written
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// What is logged: error, warn, info, debug, trace, or a filter such as `info,outrider_control_plane=debug`
    #[arg(
        long,
        value_name = "FILTER",
        env = "OUTRIDER_LOG",
        default_value = "info"
    )]
    pub log_level: String,
}

impl Args {
    /// The arguments of a control plane for one directory, everything else at its default.
    pub fn for_directory(config_dir: impl Into<PathBuf>) -> Self {
        Self {
            config_dir: config_dir.into(),
            state_dir: None,
            ca_cert: None,
            ca_key: None,
            listen: loopback(15012),
            admin: loopback(15014),
            log_format: LogFormat::Text,
            log_level: "info".to_owned(),
        }
    }

    /// Where state is kept.
    pub fn state_dir(&self) -> PathBuf {
        self.state_dir
            .clone()
            .unwrap_or_else(|| self.config_dir.join(".outrider"))
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One readable line each.
    Text,
    /// One JSON object each.
    Json,
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}
