//! What can be typed: every command with its options and examples.

mod cluster;

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use outrider_certs::spiffe::SpiffeId;

pub use self::cluster::{
    CertsArgs, CertsCommand, CertsListArgs, CheckClusterArgs, ClusterArgs, RotateArgs, ScopeArgs,
    StatArgs,
};
use crate::install::{InstallArgs, UninstallArgs};
use crate::output::Format;

/// A service mesh: a sidecar beside each service, and a small control plane
#[derive(Debug, Parser)]
#[command(
    name = "outrider",
    version,
    after_help = "\
Examples:
  outrider demo                          see a mesh at work, on this machine, without root
  outrider up examples/shop/mesh         run the mesh that a directory describes
  outrider stat examples/shop/mesh       see what it measures
  outrider policy check mesh/            find mistakes before they matter
  outrider policy test mesh/ --from shop/order --to shop/billing --path /shop.Billing/Charge"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show a mesh at work: eight scenes, each with what it measured
    Demo(DemoArgs),
    /// Run the mesh that a directory describes: control plane, sidecars and apps
    Up(UpArgs),
    /// Check a cluster before and after installing: every finding with what to do about it
    Check(CheckClusterArgs),
    /// Show what the sidecars of a running mesh measure: edges, retries, breakers
    #[command(after_help = "\
Examples:
  outrider stat                                     one second of the context's namespace
  outrider stat -A --context production             of every namespace of another cluster
  outrider stat examples/shop/mesh                  of the mesh that up runs from there
  outrider stat mesh/ --watch --interval 5s         again and again, until Ctrl-C
  outrider stat -A --output json | jq '.services[].endpoints[] | select(.breaker == \"open\")'

Exit status: 0 when a sidecar answers, 1 when none does.")]
    Stat(StatArgs),
    /// Show who calls whom: calls, success and latency of every edge
    #[command(after_help = "\
Examples:
  outrider edges -n shop                            one second of a namespace
  outrider edges -A --watch                         of all of them, again and again, until Ctrl-C
  outrider edges examples/shop/mesh                 of the mesh that up runs from there
  outrider edges -A --output json | jq '.edges[] | select(.mutual_tls | not)'

Exit status: 0 when a sidecar answers, 1 when none does.")]
    Edges(StatArgs),
    /// List the certificates of the sidecars and of the authorities; rotate the authority
    Certs(CertsArgs),
    /// Run a program as a workload of a mesh that runs with `up --netns`
    Exec(ExecArgs),
    /// Check policy, and ask what it would decide
    #[command(
        subcommand,
        after_help = "Examples:\n  outrider policy check mesh/\n  outrider policy test mesh/ --from shop/order --to shop/billing"
    )]
    Policy(PolicyCommand),
    /// Add sidecars to the pods of YAML, as the cluster's webhook does when they are created
    Inject(crate::inject::InjectArgs),
    /// Say what holds for calls to a Service, and who said so: authorization, routes, settings
    #[command(after_help = "\
Examples:
  outrider explain --to shop/billing     of the cluster
  outrider explain mesh/ --to shop/billing
  outrider explain mesh/ --from shop/order --to shop/billing:80 --path /shop.Billing/Charge
  outrider explain mesh/ --to shop/billing --output json

Exit status: 0, or 2 when the question cannot be answered.")]
    Explain(TestArgs),
    /// Print what the mesh is made of on Kubernetes, for kubectl apply
    Install(InstallArgs),
    /// Print what to delete, for kubectl delete
    Uninstall(UninstallArgs),
    /// Mint a bootstrap token for a sidecar that you start yourself
    Token(TokenArgs),
    /// Print a completion script for a shell
    #[command(after_help = "\
Examples:
  outrider completions bash > /etc/bash_completion.d/outrider
  outrider completions zsh > \"${fpath[1]}/_outrider\"
  outrider completions fish > ~/.config/fish/completions/outrider.fish")]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Run one sidecar
    #[command(after_help = "\
Examples:
  outrider proxy --workload shop/order-1 --trust-domain shop.example \\
    --trust-bundle mesh/.outrider/trust-bundle.pem --token-file order-1.jwt")]
    Proxy(outrider_proxy::Args),
    /// Program the network namespace that this runs in for a sidecar
    #[command(hide = true)]
    ProxyInit(outrider_proxy::init::InitArgs),
    /// Run the control plane
    #[command(after_help = "\
Examples:
  outrider control-plane --config-dir mesh/
  outrider control-plane --config-dir mesh/ --ca-cert ca.crt --ca-key ca.key --log-format json")]
    ControlPlane(outrider_control_plane::Args),
    /// Run one service of the example shop
    #[command(hide = true)]
    Shop(outrider_shop::ShopArgs),
    /// Run a program that ends when its supervisor does
    #[command(hide = true)]
    Supervised(SupervisedArgs),
}

/// `outrider demo`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outrider demo                          live, in the terminal; q ends it
  outrider demo --check                  no terminal: a line for each claim; exit 1 when one does not hold
  outrider demo --check --output json    the same for programs
  sudo outrider demo --netns             every workload in a network namespace, and no app knows of a mesh")]
pub struct DemoArgs {
    /// Give every workload a network namespace, and intercept what its app sends; needs root
    #[arg(long)]
    pub netns: bool,
    /// Prove every claim and exit: a line for each, with the figure that was measured
    #[arg(long)]
    pub check: bool,
    /// How long to go on after the last scene, such as 30s; without it, until q or Ctrl-C
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Orders per second that the traffic generator places
    #[arg(long, value_name = "RATE", default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..=2000))]
    pub rate: u32,
    /// How --check prints its claims
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub output: Format,
}

/// `outrider up`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outrider up examples/shop/mesh
  outrider up mesh/ --control-plane-port 25012 --state-dir /var/lib/outrider
  sudo outrider up examples/shop/netns --netns

Edit the files while it runs: a change takes effect within a second, whole or not at all.
Ctrl-C drains everything; a second one kills it.")]
pub struct UpArgs {
    /// The directory of YAML
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Give every Workload a network namespace with addresses and names, and intercept what its app
    /// sends and gets, so that the app need not know of the mesh; needs root and iproute2
    #[arg(long)]
    pub netns: bool,
    /// Where keys, tokens and the trust bundle are kept [default: DIR/.outrider]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Where the control plane serves the sidecars: on loopback, or on the bridge of --netns
    #[arg(long, value_name = "PORT", default_value_t = 15012)]
    pub control_plane_port: u16,
    /// The control plane's health and metrics, on loopback
    #[arg(long, value_name = "PORT", default_value_t = 15014)]
    pub control_plane_admin_port: u16,
    /// How the table of what listens where is printed
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub output: Format,
}

/// `outrider exec`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo outrider exec examples/shop/netns shopper-1 -- curl -s http://order/orders
  sudo outrider exec mesh/ shop/order-1 -- sh

The program runs in the workload's network namespace, as the user that its app runs as; its exit
status is that of this command.")]
pub struct ExecArgs {
    /// The directory of YAML that the mesh runs from
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Which Workload: NAME, or NAMESPACE/NAME
    #[arg(value_name = "WORKLOAD")]
    pub workload: String,
    /// Where the mesh keeps its state [default: DIR/.outrider]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// `outrider policy …`
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Check a directory: every mistake with its file, line, column and field
    #[command(after_help = "\
Examples:
  outrider policy check mesh/
  outrider policy check mesh/ --output json
  outrider policy check mesh/ --deny-warnings

A warning is about what is applied but does less than it says: a route to a Service that does not
exist, for instance.
Exit status: 0 when it is good, 1 when there are problems.")]
    Check(CheckArgs),
    /// Ask whether a call would be allowed, and by which rule
    #[command(after_help = "\
Examples:
  outrider policy test --from shop/order --to shop/user --path /users/ada      of the cluster
  outrider policy test mesh/ --from shop/order --to shop/user --method GET --path /users/ada
  outrider policy test mesh/ --from shop/notification --to shop/billing:80 --path /shop.Billing/Charge
  outrider policy test mesh/ --plaintext --to shop/billing-1:8080 --path /healthz
  outrider policy test mesh/ --from spiffe://shop.example/ns/shop/sa/order --to shop/billing-1:18300 --output json

To a port that is declared as gRPC the call is a gRPC one. Without --method and --path the call is
an opaque TCP connection.
Exit status: 0 allowed by every selected workload, 1 refused by one, 2 the question cannot be answered.")]
    Test(Box<TestArgs>),
}

/// `outrider policy check`
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The directory of YAML
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Take a warning as a problem
    #[arg(long)]
    pub deny_warnings: bool,
    /// How the problems are printed
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub output: Format,
}

/// `outrider policy test` and `outrider explain`
#[derive(Debug, Args)]
pub struct TestArgs {
    /// The directory of YAML; without it, what is in the cluster
    #[arg(value_name = "DIR", conflicts_with_all = ["context", "kubeconfig"])]
    pub directory: Option<PathBuf>,
    /// Who calls: NAMESPACE/SERVICEACCOUNT or a SPIFFE ID; without it, someone without an identity
    #[arg(long, value_name = "WHO")]
    pub from: Option<String>,
    /// In plaintext, past the mesh: as someone without an identity, to what the Workload takes so
    #[arg(long, conflicts_with = "from")]
    pub plaintext: bool,
    /// Whom: NAMESPACE/SERVICE[:PORT]; for policy test NAMESPACE/WORKLOAD[:PORT] too, with the app's own port
    #[arg(long, value_name = "WHOM")]
    pub to: String,
    /// HTTP method; without it GET, or POST for gRPC
    #[arg(long, value_name = "METHOD")]
    pub method: Option<String>,
    /// HTTP path, or /PACKAGE.SERVICE/METHOD for gRPC; / when only --method is given
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,
    /// Host header; the Service's name when it is not given
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    /// A request header; may be given many times
    #[arg(long, value_name = "NAME:VALUE")]
    pub header: Vec<String>,
    /// The address that the call comes from
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub source_ip: IpAddr,
    /// How the answer is printed
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub output: Format,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// `outrider token`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outrider token --dir mesh/ --workload shop/order-1 > order-1.jwt
  outrider token --state-dir /var/lib/outrider --spiffe spiffe://shop.example/ns/shop/sa/order

Whoever holds a token can get a certificate for its identity until it expires: keep it secret.")]
pub struct TokenArgs {
    /// The directory of YAML that describes the mesh
    #[arg(long = "dir", value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Where the control plane keeps token.key [default: DIR/.outrider]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// The Workload that the token is for
    #[arg(
        long,
        value_name = "NAMESPACE/NAME",
        conflicts_with = "spiffe",
        requires = "directory"
    )]
    pub workload: Option<String>,
    /// The identity that the token is for
    #[arg(long, value_name = "SPIFFE ID", required_unless_present = "workload")]
    pub spiffe: Option<SpiffeId>,
    /// How long the token is good for, such as 10m
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    pub lifetime: Duration,
}

/// `outrider supervised`
#[derive(Debug, Args)]
pub struct SupervisedArgs {
    /// The supervisor's process; without it the program outlives whoever started it
    #[arg(long, value_name = "PID")]
    pub parent: Option<u32>,
    /// Whom to become, with the group of the same number
    #[arg(long, value_name = "UID")]
    pub user: Option<u32>,
    /// Give up every privilege, and the way to get new ones
    #[arg(long, requires = "user")]
    pub confined: bool,
    /// Keep CAP_NET_ADMIN
    #[arg(long, requires = "user")]
    pub net_admin: bool,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

/// What was typed; ends the process where it cannot be used. Called by kubectl as its plugin, help and
/// usage say so.
pub fn parse() -> Cli {
    let mut command = Cli::command();
    let called = std::env::args_os().next().map(PathBuf::from);
    if called.as_deref().is_some_and(is_kubectl_plugin) {
        command = command.bin_name("kubectl outrider");
    }
    let parsed = Cli::from_arg_matches(&command.get_matches());
    parsed.unwrap_or_else(|error| error.exit())
}

/// kubectl runs `kubectl-outrider` for `kubectl outrider`.
fn is_kubectl_plugin(program: &Path) -> bool {
    program
        .file_name()
        .is_some_and(|name| name == "kubectl-outrider")
}

/// The command line without what is hidden, for completions: `clap_complete` offers that, too.
pub fn shown() -> clap::Command {
    let all = Cli::command();
    clap::Command::new("outrider")
        .version(env!("CARGO_PKG_VERSION"))
        .args(all.get_arguments().cloned())
        .subcommands(
            all.get_subcommands()
                .filter(|command| !command.is_hide_set())
                .cloned(),
        )
}

fn duration(text: &str) -> Result<Duration, String> {
    outrider_api::duration::parse(text).map_err(|error| error.to_string())
}

/// Long enough for a rate to mean something.
fn interval(text: &str) -> Result<Duration, String> {
    const SHORTEST: Duration = Duration::from_millis(100);
    match duration(text)? {
        interval if interval < SHORTEST => Err("expected at least 100ms".to_owned()),
        interval => Ok(interval),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_that_is_shown_has_examples() {
        let command = Cli::command();
        let mut open: Vec<_> = command.get_subcommands().collect();
        while let Some(command) = open.pop() {
            let children: Vec<_> = command.get_subcommands().collect();
            let examples = command
                .get_after_help()
                .is_some_and(|help| help.to_string().contains("Examples:"));
            assert!(
                command.is_hide_set() || examples || !children.is_empty(),
                "{} has no examples",
                command.get_name()
            );
            open.extend(children.into_iter().filter(|_| !command.is_hide_set()));
        }
    }

    #[test]
    fn what_is_hidden_is_not_offered() {
        let names = |command: &clap::Command| -> Vec<String> {
            command
                .get_subcommands()
                .filter(|command| !command.is_hide_set())
                .map(|command| command.get_name().to_owned())
                .collect()
        };
        let shown = shown();
        let offered: Vec<_> = shown.get_subcommands().map(|c| c.get_name()).collect();
        assert_eq!(offered, names(&Cli::command()));
        assert!(offered.contains(&"policy") && !offered.contains(&"supervised"));
        shown.debug_assert();
    }

    #[test]
    fn stat_measures_a_second_of_the_cluster_or_of_a_directory() {
        let parse = |args: &[&str]| {
            let parsed = Cli::try_parse_from([&["outrider", "stat"], args].concat());
            parsed.map(|cli| match cli.command {
                Command::Stat(args) => args,
                other => panic!("{other:?}"),
            })
        };
        let args = parse(&[]).unwrap();
        assert_eq!(args.directory, None);
        assert_eq!(args.interval, Duration::from_secs(1));
        let args = parse(&["mesh", "--interval", "250ms", "--watch"]).unwrap();
        assert_eq!(args.directory, Some(PathBuf::from("mesh")));
        assert!(args.watch && args.interval == Duration::from_millis(250));
        assert!(parse(&["--interval", "0s"]).is_err());
        assert!(parse(&["--interval", "-1s"]).is_err());
        assert!(parse(&["-A", "--context", "production"]).is_ok());
        for of_both in [
            ["mesh", "-A"].as_slice(),
            &["mesh", "-n", "shop"],
            &["mesh", "--context", "production"],
            &["-n", "shop", "-A"],
        ] {
            assert!(parse(of_both).is_err(), "{of_both:?}");
        }
    }

    #[test]
    fn as_a_plugin_of_kubectl_it_says_so() {
        assert!(is_kubectl_plugin(Path::new("/usr/bin/kubectl-outrider")));
        assert!(!is_kubectl_plugin(Path::new("target/release/outrider")));
    }

    #[test]
    fn certs_are_listed_unless_they_are_rotated() {
        let parse = |args: &[&str]| {
            let parsed = Cli::try_parse_from([&["outrider", "certs"], args].concat());
            parsed.map(|cli| match cli.command {
                Command::Certs(args) => args,
                other => panic!("{other:?}"),
            })
        };
        assert!(parse(&["-A"]).unwrap().command.is_none());
        assert!(
            parse(&["rotate", "--wait", "5m"])
                .unwrap()
                .command
                .is_some()
        );
        assert_eq!(
            parse(&["mesh"]).unwrap().list.directory,
            Some(PathBuf::from("mesh"))
        );
    }

    #[test]
    fn a_token_needs_to_know_for_whom() {
        let parse = |args: &[&str]| Cli::try_parse_from([&["outrider", "token"], args].concat());
        assert!(parse(&[]).is_err());
        assert!(parse(&["--workload", "shop/order-1"]).is_err());
        assert!(parse(&["--workload", "shop/order-1", "--dir", "mesh"]).is_ok());
        assert!(parse(&["--spiffe", "spiffe://a/ns/b/sa/c", "--state-dir", "s"]).is_ok());
        assert!(parse(&["--spiffe", "nonsense", "--state-dir", "s"]).is_err());
    }
}
