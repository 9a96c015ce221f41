//! The command line, shared by `outrider-control-plane` and `outrider control-plane`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use outrider_api::duration;
use outrider_certs::spiffe::TrustDomain;
use rustls::pki_types::ServerName;

use crate::server::tls::NAMESPACE;

/// What a control plane is started with.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The directory of YAML that describes the mesh; it is watched
    #[arg(long, value_name = "DIR", required_unless_present = "kubernetes")]
    pub config_dir: Option<PathBuf>,

    /// The mesh is what the Kubernetes API server says: in a pod, its own cluster; else that of the
    /// kubeconfig
    #[arg(long, conflicts_with_all = ["config_dir", "state_dir"])]
    pub kubernetes: bool,

    /// What is said of a control plane on Kubernetes.
    #[command(flatten)]
    pub cluster: KubernetesArgs,

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
    /// [default: 127.0.0.1:15012, on Kubernetes 0.0.0.0:15012]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,

    /// The address of /live, /ready and /metrics (plain HTTP)
    /// [default: 127.0.0.1:15014, on Kubernetes 0.0.0.0:15014]
    #[arg(long, value_name = "ADDRESS")]
    pub admin: Option<SocketAddr>,

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

/// What a control plane on Kubernetes is started with.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "On Kubernetes")]
pub struct KubernetesArgs {
    /// The namespace of the control plane itself: of its MeshConfig, its Lease and its Secret
    #[arg(
        long,
        value_name = "NAMESPACE",
        env = "POD_NAMESPACE",
        default_value = NAMESPACE
    )]
    pub namespace: String,

    /// Which of the replicas this is; no two may have one name [default: the host's name]
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pub replica: Option<String>,

    /// The Secret of the certificate authority, made if there is none
    #[arg(long, value_name = "NAME", default_value = "outrider-ca")]
    pub ca_secret: String,

    /// Somebody else (cert-manager) makes and renews that Secret: it is read and never written
    #[arg(long, conflicts_with = "config_dir")]
    pub ca_secret_managed_elsewhere: bool,

    /// How long an authority lives that is made, at least three times as long as certificates and 90
    /// minutes; the next one is made when two thirds of it are over
    #[arg(long, value_name = "DURATION", default_value = "8760h", value_parser = duration::parse)]
    pub ca_lifetime: Duration,

    /// How long the next authority is trusted before it signs: as long as kubelets take to bring a
    /// changed ConfigMap to the pods
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = duration::parse)]
    pub ca_settle: Duration,

    /// How long sidecars and replicas that do not trust the next authority hold it up
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration::parse)]
    pub ca_patience: Duration,

    /// Whose identities these are, where no MeshConfig says it
    #[arg(long, value_name = "DOMAIN", conflicts_with = "config_dir")]
    pub trust_domain: Option<TrustDomain>,

    /// The image of the sidecars that pods get [default: outrider-proxy in this version]
    #[arg(long, value_name = "IMAGE", conflicts_with = "config_dir")]
    pub proxy_image: Option<String>,

    /// The address of the admission webhooks (HTTPS)
    #[arg(long, value_name = "ADDRESS", default_value_t = everywhere(15017))]
    pub webhook: SocketAddr,

    /// Further names by which the API server calls the webhooks, DNS names or addresses
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = server_name, requires = "kubernetes")]
    pub webhook_name: Vec<ServerName<'static>>,

    /// When nodes get that image [default: as Kubernetes decides]
    #[arg(long, value_name = "POLICY", value_parser = ["Always", "IfNotPresent", "Never"], requires = "kubernetes")]
    pub proxy_image_pull_policy: Option<String>,

    /// Where sidecars find the control plane [default: its Service]
    #[arg(long, value_name = "HOST:PORT", requires = "kubernetes")]
    pub control_plane_address: Option<String>,

    /// Take a pod's token from any address, not only from the pod's own: for networks that translate
    /// the addresses of pods on their way here
    #[arg(long, conflicts_with = "config_dir")]
    pub translated_addresses: bool,
}

/// Where the mesh is described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// By files.
    Directory {
        config_dir: PathBuf,
        /// Where state is kept.
        state_dir: PathBuf,
    },
    /// By the objects of a cluster.
    Kubernetes,
}

impl Args {
    /// The arguments of a control plane for one directory, everything else at its default.
    pub fn for_directory(config_dir: impl Into<PathBuf>) -> Self {
        Self {
            config_dir: Some(config_dir.into()),
            kubernetes: false,
            cluster: KubernetesArgs::default(),
            state_dir: None,
            ca_cert: None,
            ca_key: None,
            listen: None,
            admin: None,
            log_format: LogFormat::Text,
            log_level: "info".to_owned(),
        }
    }

    /// The arguments of a control plane on Kubernetes, everything else at its default.
    pub fn for_kubernetes() -> Self {
        Self {
            config_dir: None,
            kubernetes: true,
            ..Self::for_directory("")
        }
    }

    /// The one of both that was asked for.
    pub(crate) fn mode(&self) -> Mode {
        let state_dir = || self.state_dir.clone();
        match &self.config_dir {
            Some(config_dir) if !self.kubernetes => Mode::Directory {
                config_dir: config_dir.clone(),
                state_dir: state_dir().unwrap_or_else(|| config_dir.join(".outrider")),
            },
            _ => Mode::Kubernetes,
        }
    }

    /// Where sidecars connect to.
    pub(crate) fn listen(&self) -> SocketAddr {
        self.listen.unwrap_or_else(|| self.default_address(15012))
    }

    /// Where health and metrics are.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin.unwrap_or_else(|| self.default_address(15014))
    }

    fn default_address(&self, port: u16) -> SocketAddr {
        if self.kubernetes {
            everywhere(port)
        } else {
            SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
        }
    }
}

impl Default for KubernetesArgs {
    fn default() -> Self {
        Self {
            namespace: NAMESPACE.to_owned(),
            replica: None,
            ca_secret: "outrider-ca".to_owned(),
            ca_secret_managed_elsewhere: false,
            ca_lifetime: Duration::from_secs(8760 * 3600),
            ca_settle: Duration::from_secs(2 * 60),
            ca_patience: Duration::from_secs(3600),
            trust_domain: None,
            proxy_image: None,
            webhook: everywhere(15017),
            webhook_name: Vec::new(),
            proxy_image_pull_policy: None,
            control_plane_address: None,
            translated_addresses: false,
        }
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

fn server_name(text: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(text.to_owned())
        .map_err(|_| "expected a DNS name or an address, for instance 192.0.2.1".to_owned())
}

fn everywhere(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn parse(args: &str) -> Result<Args, clap::error::ErrorKind> {
        let words = ["control-plane"].into_iter().chain(args.split_whitespace());
        let command = Command::try_parse_from(words).map_err(|error| error.kind())?;
        Ok(command.args)
    }

    #[test]
    fn exactly_one_of_directory_and_kubernetes() {
        use clap::error::ErrorKind::{ArgumentConflict, MissingRequiredArgument};

        let files = parse("--config-dir mesh").unwrap();
        assert_eq!(files.listen().to_string(), "127.0.0.1:15012");
        let expected = Mode::Directory {
            config_dir: "mesh".into(),
            state_dir: "mesh/.outrider".into(),
        };
        assert_eq!(files.mode(), expected);

        let cluster = parse("--kubernetes --translated-addresses").unwrap();
        assert_eq!(cluster.mode(), Mode::Kubernetes);
        assert_eq!(cluster.listen().to_string(), "0.0.0.0:15012");
        assert_eq!(cluster.admin().to_string(), "0.0.0.0:15014");

        assert_eq!(parse("").unwrap_err(), MissingRequiredArgument);
        for both in ["--config-dir mesh", "--state-dir state"] {
            let error = parse(&format!("--kubernetes {both}")).unwrap_err();
            assert_eq!(error, ArgumentConflict, "{both}");
        }
        let error = parse("--config-dir mesh --ca-secret-managed-elsewhere").unwrap_err();
        assert_eq!(error, ArgumentConflict);
    }
}
