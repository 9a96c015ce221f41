//! What can be typed about a cluster: which one, which part of it, and the commands that are only
//! for clusters.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::interval;
use crate::output::Format;

/// Which cluster, and as whom.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Cluster")]
pub struct ClusterArgs {
    /// The context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "CONTEXT")]
    pub context: Option<String>,
    /// The kubeconfig [default: $KUBECONFIG, or ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

/// Which namespaces of it.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Cluster")]
pub struct ScopeArgs {
    /// Only the sidecars of this namespace [default: the context's]
    #[arg(short, long, value_name = "NAMESPACE", conflicts_with = "directory")]
    pub namespace: Option<String>,
    /// The sidecars of all namespaces
    #[arg(
        short = 'A',
        long,
        conflicts_with = "namespace",
        conflicts_with = "directory"
    )]
    pub all_namespaces: bool,
}

/// `outrider stat` and `outrider edges`
#[derive(Debug, Args)]
pub struct StatArgs {
    /// The directory of YAML that a mesh on this machine runs from; without it, the cluster
    #[arg(value_name = "DIR", conflicts_with_all = ["context", "kubeconfig"])]
    pub directory: Option<PathBuf>,
    /// How long is measured, such as 500ms
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    pub interval: Duration,
    /// Measure again and again, until Ctrl-C
    #[arg(long)]
    pub watch: bool,
    /// How it is printed; with --watch, json is one document a line
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub output: Format,
    /// Which part of the cluster.
    #[command(flatten)]
    pub scope: ScopeArgs,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// `outrider check`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outrider check --pre                   before installing: may I, and can this cluster?
  outrider check                         after: control plane, webhooks, certificates, clocks, sidecars
  outrider check --proxy -n shop         ask every sidecar of a namespace, too
  outrider check --output json | jq '.findings[] | select(.level == \"error\")'

It changes nothing: what it tries to make is a dry run of the API server.
Exit status: 0, or 1 when there is an error; a warning is none.")]
pub struct CheckClusterArgs {
    /// Only what must hold before installing
    #[arg(long, conflicts_with = "proxy")]
    pub pre: bool,
    /// Ask each sidecar, too: its certificate, its clock, whether it is ready
    #[arg(long)]
    pub proxy: bool,
    /// Only the pods of this namespace [default: those of all]
    #[arg(short, long, value_name = "NAMESPACE", conflicts_with = "pre")]
    pub namespace: Option<String>,
    /// How the findings are printed
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub output: Format,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// `outrider certs`
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  outrider certs -A                      every sidecar's certificate, and the authorities
  outrider certs examples/shop/mesh      those of a mesh that up runs on this machine
  outrider certs -n shop --output json | jq '.certificates[] | select(.secondsLeft < 3600)'
  outrider certs rotate                  have a new authority sign from now on

Exit status: 0, or 1 when a sidecar does not answer or a certificate has expired."
)]
pub struct CertsArgs {
    /// What else to do.
    #[command(subcommand)]
    pub command: Option<CertsCommand>,
    /// What is listed.
    #[command(flatten)]
    pub list: CertsListArgs,
}

/// `outrider certs`, without a command
#[derive(Debug, Args)]
pub struct CertsListArgs {
    /// The directory of YAML that a mesh on this machine runs from; without it, the cluster
    #[arg(value_name = "DIR", conflicts_with_all = ["context", "kubeconfig"])]
    pub directory: Option<PathBuf>,
    /// Where that mesh keeps its state [default: DIR/.outrider]
    #[arg(long, value_name = "DIR", requires = "directory")]
    pub state_dir: Option<PathBuf>,
    /// How they are printed
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub output: Format,
    /// Which part of the cluster.
    #[command(flatten)]
    pub scope: ScopeArgs,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// `outrider certs …`
#[derive(Debug, Subcommand)]
pub enum CertsCommand {
    /// Have the control plane make a new authority, and sign with it once everybody trusts it
    #[command(after_help = "\
Examples:
  outrider certs rotate
  outrider certs rotate --wait 30m       and wait until the new authority is the only one
  kubectl outrider certs rotate --context production

No connection breaks: the new authority is trusted before it signs, and the old one as long as
certificates of it are valid.")]
    Rotate(RotateArgs),
}

/// `outrider certs rotate`
#[derive(Debug, Args)]
pub struct RotateArgs {
    /// Wait until the old authority is trusted no more, for as long as this at most
    #[arg(long, value_name = "DURATION", value_parser = super::duration)]
    pub wait: Option<Duration>,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}
