//! `outrider inject`: what the webhook does to pods, done to YAML, for those who keep in git what their
//! cluster runs.

mod documents;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use outrider_api::annotations::SidecarKind;
use outrider_certs::spiffe::TrustDomain;
use outrider_control_plane::index::DEFAULT_TRUST_DOMAIN;
use outrider_control_plane::inject::Settings;
use outrider_control_plane::inject::template::Report;

use crate::output;
use crate::{REFUSED, UNUSABLE};
use documents::DocumentError;

/// Standard input, as `kubectl` names it.
const STANDARD_INPUT: &str = "-";

/// `outrider inject`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outrider inject -f deployment.yaml | kubectl apply -f -
  helm template shop | outrider inject -f - > shop.yaml
  outrider inject -f order.yaml -f billing.yaml --trust-domain shop.example --image registry.example/outrider-proxy:1.0

Pods, Deployments, ReplicaSets, StatefulSets, DaemonSets, Jobs, CronJobs, PodTemplates, ReplicationControllers and
Lists of them get sidecars, but for those that opt out; every other document passes as it is. A document that
changes is written anew, without its comments. The webhook leaves alone what has a sidecar.
Exit status: 0 done, 1 a pod cannot have a sidecar as it is written, 2 the YAML cannot be read.")]
pub struct InjectArgs {
    /// The file; - is standard input; may be given many times
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// The namespace of objects that name none
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    pub namespace: String,
    /// The trust domain of the mesh
    #[arg(long, value_name = "DOMAIN", default_value = DEFAULT_TRUST_DOMAIN)]
    pub trust_domain: TrustDomain,
    /// The image of the sidecar [default: that of this version]
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// When nodes get that image: Always, IfNotPresent or Never [default: as Kubernetes decides]
    #[arg(long, value_name = "POLICY", value_parser = ["Always", "IfNotPresent", "Never"])]
    pub image_pull_policy: Option<String>,
    /// Where the mesh is installed
    #[arg(long, value_name = "NAMESPACE", default_value = "outrider-system")]
    pub mesh_namespace: String,
    /// Where sidecars find the control plane [default: its Service in the mesh's namespace]
    #[arg(long, value_name = "HOST:PORT")]
    pub control_plane: Option<String>,
    /// How the sidecar is part of the pod, where the pod does not say: classic before Kubernetes 1.29
    #[arg(long, value_name = "KIND", value_enum, default_value_t)]
    pub sidecar: Kind,
}

/// How a sidecar is part of its pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// An init container that is restarted always
    #[default]
    Native,
    /// A container like the app's
    Classic,
}

impl From<Kind> for SidecarKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Native => Self::Native,
            Kind::Classic => Self::Classic,
        }
    }
}

impl InjectArgs {
    fn settings(&self) -> Settings {
        let image = self.image.clone();
        let control_plane = self.control_plane.clone();
        Settings {
            image: image.unwrap_or_else(|| Settings::default_image(None)),
            image_pull_policy: self.image_pull_policy.clone(),
            control_plane: control_plane
                .unwrap_or_else(|| Settings::default_control_plane(&self.mesh_namespace)),
            trust_domain: self.trust_domain.clone(),
            namespace: self.mesh_namespace.clone(),
            sidecar: self.sidecar.into(),
        }
    }
}

/// Writes nothing unless all of it is good.
pub(crate) fn run(args: &InjectArgs) -> anyhow::Result<ExitCode> {
    let settings = args.settings();
    let mut report = Report::default();
    let mut written = String::new();
    for file in &args.files {
        let text = read(file)?;
        match documents::inject(&text, &args.namespace, &settings, &mut report) {
            Ok(done) => append(&mut written, &done),
            Err(error) => {
                output::note(format_args!("outrider: {}: {error}", file.display()));
                return Ok(ExitCode::from(match error {
                    DocumentError::Refused(_) => REFUSED,
                    DocumentError::Yaml { .. } | DocumentError::Write(_) => UNUSABLE,
                }));
            }
        }
    }
    output::text(&written);
    for (object, warning) in &report.warnings {
        output::note(format_args!("warning: {object}: {warning}"));
    }
    Ok(ExitCode::SUCCESS)
}

fn read(file: &Path) -> anyhow::Result<String> {
    if file.as_os_str() == STANDARD_INPUT {
        let mut text = String::new();
        let read = std::io::stdin().lock().read_to_string(&mut text);
        read.context("cannot read standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

/// Files are one stream of documents.
fn append(written: &mut String, text: &str) {
    if !written.is_empty() {
        if !written.ends_with('\n') {
            written.push('\n');
        }
        if !text.starts_with("---") {
            written.push_str("---\n");
        }
    }
    written.push_str(text);
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn parse(args: &[&str]) -> InjectArgs {
        let words = [&["outrider", "inject"], args].concat();
        match Cli::try_parse_from(words).unwrap().command {
            Command::Inject(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_a_word_it_is_what_is_installed_without_a_word() {
        let settings = parse(&["-f", "-"]).settings();
        assert_eq!(
            settings.image,
            concat!("outrider-proxy:", env!("CARGO_PKG_VERSION"))
        );
        assert_eq!(
            settings.control_plane,
            "outrider-control-plane.outrider-system.svc:15012"
        );
        assert_eq!(settings.trust_domain.to_string(), "cluster.local");
        assert_eq!(settings.sidecar, SidecarKind::Native);
        let settings = parse(&[
            "-f",
            "-",
            "--mesh-namespace",
            "mesh",
            "--sidecar",
            "classic",
        ])
        .settings();
        assert_eq!(
            settings.control_plane,
            "outrider-control-plane.mesh.svc:15012"
        );
        assert_eq!(settings.sidecar, SidecarKind::Classic);
    }

    #[test]
    fn files_become_one_stream() {
        let mut written = String::new();
        for text in ["a: 1", "b: 2\n", "---\nc: 3\n"] {
            append(&mut written, text);
        }
        assert_eq!(written, "a: 1\n---\nb: 2\n---\nc: 3\n");
    }
}
