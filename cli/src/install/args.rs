//! What can be typed after `outrider install` and `outrider uninstall`.

use clap::{Args, ValueEnum};
use outrider_certs::spiffe::TrustDomain;

use super::settings::{Authority, Profile, PullPolicy, Settings};
use crate::args::ClusterArgs;

/// `outrider install`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  outrider install | kubectl apply -f -
  outrider install --profile ha --image-registry registry.example/mesh | kubectl apply -f -
  outrider install --ca-secret mesh-ca | kubectl apply -f -      the authority is cert-manager's
  outrider install --crds only | kubectl apply -f -              before an upgrade with Helm

It prints and applies nothing: read it, keep it in Git, change it with kustomize.")]
pub struct InstallArgs {
    /// One replica of the control plane, or three that keep serving while nodes go
    #[arg(long, value_enum, value_name = "PROFILE", default_value_t)]
    pub profile: Profile,
    /// Where the images are, such as registry.example/mesh; without it, the nodes have them
    #[arg(long, value_name = "REGISTRY", value_parser = registry)]
    pub image_registry: Option<String>,
    /// The version of the images
    #[arg(long, value_name = "TAG", default_value = env!("CARGO_PKG_VERSION"), value_parser = tag)]
    pub image_tag: String,
    /// When nodes pull the control plane's image
    #[arg(long, value_enum, value_name = "POLICY", default_value_t)]
    pub image_pull_policy: PullPolicy,
    /// A Secret of outrider-system with which the control plane's image is pulled; may be given many times
    #[arg(long, value_name = "NAME")]
    pub image_pull_secret: Vec<String>,
    /// Whose identities these are; the same for as long as the mesh lives [default: cluster.local]
    #[arg(long, value_name = "DOMAIN")]
    pub trust_domain: Option<TrustDomain>,
    /// The Secret of outrider-system in which cert-manager keeps the certificate authority (tls.crt,
    /// tls.key); without it, the control plane makes one
    #[arg(long, value_name = "NAME", value_parser = secret)]
    pub ca_secret: Option<String>,
    /// Allow connections to the control plane's ports only (a NetworkPolicy)
    #[arg(long)]
    pub network_policy: bool,
    /// Take a pod's token from any address: where the network translates the addresses of pods
    #[arg(long)]
    pub translated_addresses: bool,
    /// Whether to print the CustomResourceDefinitions
    #[arg(long, value_enum, value_name = "WHICH", default_value_t)]
    pub crds: Crds,
}

impl InstallArgs {
    /// What they ask for.
    #[must_use]
    pub fn settings(&self) -> Settings {
        Settings {
            profile: self.profile,
            registry: self.image_registry.clone(),
            tag: self.image_tag.clone(),
            pull_policy: self.image_pull_policy,
            pull_secrets: self.image_pull_secret.clone(),
            trust_domain: self.trust_domain.clone(),
            authority: match &self.ca_secret {
                Some(secret) => Authority::Elsewhere(secret.clone()),
                None => Authority::Own,
            },
            network_policy: self.network_policy,
            translated_addresses: self.translated_addresses,
        }
    }
}

/// Whether CustomResourceDefinitions are printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Crds {
    /// With everything else
    #[default]
    Include,
    /// Everything but them
    None,
    /// Nothing but them
    Only,
}

/// `outrider uninstall`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  outrider uninstall | kubectl delete --ignore-not-found -f -
  outrider uninstall --offline                     without asking the cluster

Every policy goes with it. Restart the pods that have a sidecar afterwards: it names them.")]
pub struct UninstallArgs {
    /// Ask no cluster: what the mesh has made in the namespaces of apps is not printed then
    #[arg(long, conflicts_with_all = ["context", "kubeconfig"])]
    pub offline: bool,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// What stands before the name of an image: a host, a port, folders.
fn registry(text: &str) -> Result<String, String> {
    let is_part = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-:".contains(&b))
    };
    if text.split('/').all(is_part) {
        return Ok(text.to_owned());
    }
    Err("expected a host and folders, such as registry.example:5000/mesh".to_owned())
}

/// As the OCI distribution specification has it.
fn tag(text: &str) -> Result<String, String> {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let good = text.len() <= 128
        && text.bytes().next().is_some_and(is_word)
        && text.bytes().all(|b| is_word(b) || b"._-".contains(&b));
    if good {
        return Ok(text.to_owned());
    }
    Err("expected a tag, such as 0.1.0".to_owned())
}

fn secret(text: &str) -> Result<String, String> {
    match outrider_api::names::check_subdomain(text) {
        Ok(()) => Ok(text.to_owned()),
        Err(error) => Err(format!("is not the name of a Secret: it {error}")),
    }
}
