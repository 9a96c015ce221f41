//! Which cluster, and with whose rights. Owns how the kubeconfig is found, what its mistakes are
//! called, and what to do about each.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::time::Duration;

use kube::Client;
use kube::client::AuthError;
use kube::config::{Config, KubeConfigOptions, Kubeconfig, KubeconfigError};
use thiserror::Error;

use super::forbidden::Forbidden;
use crate::args::ClusterArgs;

/// Whoever has not answered a connection by then does not.
const CONNECT: Duration = Duration::from_secs(10);
/// The longest silence in an answer.
const READ: Duration = Duration::from_secs(60);

/// Why the cluster cannot be asked, or did not answer what was asked.
#[derive(Debug, Error)]
pub(crate) enum ClusterError {
    #[error(
        "no kubeconfig: there is no ~/.kube/config, and KUBECONFIG is not set; name one with --kubeconfig \
         (for a mesh that `outrider up` runs on this machine, name its directory instead)"
    )]
    NoKubeconfig,
    #[error("the kubeconfig {file} cannot be read: {error}")]
    KubeconfigFile { file: String, error: std::io::Error },
    #[error("the kubeconfig has no current context: say --context; there are {there}")]
    NoContext { there: String },
    #[error("--context {wanted}: the kubeconfig has no such context; there are {there}")]
    UnknownContext { wanted: String, there: String },
    #[error("the kubeconfig cannot be used: {0}")]
    Kubeconfig(KubeconfigError),
    #[error("the kubeconfig cannot be used: {0}")]
    Config(kube::Error),
    #[error(
        "the credentials of the kubeconfig cannot be had: {0}; does `kubectl get namespaces` work?"
    )]
    Credentials(String),
    #[error(
        "{server} does not know these credentials ({message}): they have expired, or are another cluster's; \
         log in again, and see whether `kubectl auth whoami` works"
    )]
    Unauthorized { server: String, message: String },
    #[error("{0}; {remedy}", remedy = .0.remedy())]
    Forbidden(Box<Forbidden>),
    #[error("{server} cannot be reached: {cause}; is it the right context, and the cluster up?")]
    Unreachable { server: String, cause: String },
    #[error("not found: {0}")]
    NotFound(String),
    #[error("{server} answered {code}: {message}")]
    Answer {
        server: String,
        code: u16,
        message: String,
    },
    #[error("{server}: {cause}")]
    Unexpected { server: String, cause: String },
}

/// A cluster that can be asked.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) client: Client,
    /// The API server's URL.
    pub(crate) server: String,
    /// That of the context.
    pub(crate) namespace: String,
}

impl Cluster {
    /// Reads the kubeconfig; nothing is asked yet.
    pub(crate) async fn connect(args: &ClusterArgs) -> Result<Self, ClusterError> {
        let mut config = config(args).await?;
        config.connect_timeout = Some(CONNECT);
        config.read_timeout = Some(READ);
        let server = config.cluster_url.to_string();
        let namespace = config.default_namespace.clone();
        let client = Client::try_from(config).map_err(|error| match error {
            kube::Error::Auth(error) => ClusterError::Credentials(said(&error)),
            error => ClusterError::Config(error),
        })?;
        Ok(Self {
            client,
            server: server.trim_end_matches('/').to_owned(),
            namespace,
        })
    }

    /// What an error of the client means.
    pub(crate) fn failed(&self, error: kube::Error) -> ClusterError {
        let server = self.server.clone();
        match error {
            kube::Error::Api(status) => match status.code {
                401 => ClusterError::Unauthorized {
                    server,
                    message: status.message,
                },
                403 => match Forbidden::parse(&status.message) {
                    Some(forbidden) => ClusterError::Forbidden(Box::new(forbidden)),
                    None => ClusterError::Answer {
                        server,
                        code: 403,
                        message: status.message,
                    },
                },
                404 => ClusterError::NotFound(status.message),
                code => ClusterError::Answer {
                    server,
                    code,
                    message: status.message,
                },
            },
            kube::Error::Auth(error) => ClusterError::Credentials(said(&error)),
            kube::Error::Service(error) => match error.downcast_ref::<AuthError>() {
                Some(error) => ClusterError::Credentials(said(error)),
                None => ClusterError::Unreachable {
                    server,
                    cause: innermost(error.as_ref()),
                },
            },
            kube::Error::HyperError(error) => ClusterError::Unreachable {
                server,
                cause: innermost(&error),
            },
            error => ClusterError::Unexpected {
                server,
                cause: error.to_string(),
            },
        }
    }
}

async fn config(args: &ClusterArgs) -> Result<Config, ClusterError> {
    let found = match &args.kubeconfig {
        Some(file) => Kubeconfig::read_from(file),
        None => Kubeconfig::read(),
    };
    let kubeconfig = match found {
        Ok(kubeconfig) => kubeconfig,
        Err(error) => {
            // In a pod there is a ServiceAccount instead, unless somebody asked for a kubeconfig.
            let asked = args.kubeconfig.is_some() || args.context.is_some();
            return match Config::incluster() {
                Ok(config) if !asked => Ok(config),
                Ok(_) | Err(_) => Err(unread(error)),
            };
        }
    };
    let names: BTreeSet<String> = kubeconfig
        .contexts
        .iter()
        .map(|context| context.name.clone())
        .collect();
    let options = KubeConfigOptions {
        context: args.context.clone(),
        ..KubeConfigOptions::default()
    };
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
    config.map_err(|error| unusable(error, &names))
}

fn unread(error: KubeconfigError) -> ClusterError {
    let by_default = std::env::var_os("KUBECONFIG").is_none_or(|files| files.is_empty());
    match error {
        KubeconfigError::FindPath => ClusterError::NoKubeconfig,
        KubeconfigError::ReadConfig(error, file)
            if error.kind() == ErrorKind::NotFound
                && by_default
                && file.ends_with(".kube/config") =>
        {
            ClusterError::NoKubeconfig
        }
        KubeconfigError::ReadConfig(error, file) => ClusterError::KubeconfigFile {
            file: file.display().to_string(),
            error,
        },
        error => ClusterError::Kubeconfig(error),
    }
}

fn unusable(error: KubeconfigError, names: &BTreeSet<String>) -> ClusterError {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let there = match names.as_slice() {
        [] => "none".to_owned(),
        names => names.join(", "),
    };
    match error {
        KubeconfigError::CurrentContextNotSet => ClusterError::NoContext { there },
        KubeconfigError::LoadContext(wanted) if wanted.is_empty() => {
            ClusterError::NoContext { there }
        }
        KubeconfigError::LoadContext(wanted) => ClusterError::UnknownContext { wanted, there },
        error => ClusterError::Kubeconfig(error),
    }
}

/// A program that logs in says why it cannot on its standard error, which belongs on one line here.
fn said(error: &AuthError) -> String {
    match error {
        AuthError::AuthExecRun { cmd, status, out } => {
            let said = String::from_utf8_lossy(&out.stderr);
            let last = said.lines().rev().find(|line| !line.trim().is_empty());
            match last {
                Some(last) => format!("{cmd}: {}", last.trim()),
                None => format!("{cmd} ended with {status}"),
            }
        }
        error => error.to_string(),
    }
}

/// What it comes down to: "connection refused", a certificate that has expired.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    const KUBECONFIG: &str = "
apiVersion: v1
kind: Config
current-context: one
clusters:
- {name: c, cluster: {server: 'https://127.0.0.1:1'}}
contexts:
- {name: one, context: {cluster: c, user: u, namespace: shop}}
- {name: two, context: {cluster: c, user: u}}
users:
- {name: u, user: {token: t}}
";

    async fn connect(text: &str, context: Option<&str>) -> Result<Cluster, ClusterError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        std::fs::write(&file, text).unwrap();
        let args = ClusterArgs {
            context: context.map(str::to_owned),
            kubeconfig: Some(file),
        };
        Cluster::connect(&args).await
    }

    #[tokio::test]
    async fn a_context_says_cluster_and_namespace() {
        let cluster = connect(KUBECONFIG, None).await.unwrap();
        assert_eq!(cluster.server, "https://127.0.0.1:1");
        assert_eq!(cluster.namespace, "shop");
        let cluster = connect(KUBECONFIG, Some("two")).await.unwrap();
        assert_eq!(cluster.namespace, "default");
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_kubeconfig_is_said() {
        let said = |result: Result<Cluster, ClusterError>| result.err().unwrap().to_string();
        assert_eq!(
            said(connect(KUBECONFIG, Some("three")).await),
            "--context three: the kubeconfig has no such context; there are one, two"
        );
        let without = KUBECONFIG.replace("current-context: one", "");
        assert_eq!(
            said(connect(&without, None).await),
            "the kubeconfig has no current context: say --context; there are one, two"
        );
        let args = ClusterArgs {
            context: None,
            kubeconfig: Some(PathBuf::from("/nonexistent/config")),
        };
        let error = said(Cluster::connect(&args).await);
        assert!(
            error.starts_with("the kubeconfig /nonexistent/config cannot be read: "),
            "{error}"
        );
    }

    #[tokio::test]
    async fn who_does_not_answer_is_unreachable() {
        let cluster = connect(KUBECONFIG, None).await.unwrap();
        let error = cluster.client.apiserver_version().await.unwrap_err();
        let error = cluster.failed(error).to_string();
        assert!(
            error.starts_with("https://127.0.0.1:1 cannot be reached: ")
                && error.contains("refused"),
            "{error}"
        );
    }
}
