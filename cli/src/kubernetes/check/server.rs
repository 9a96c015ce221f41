//! The API server: whether it answers, which version it is, its clock, and what this cluster can do.

use std::time::SystemTime;

use http::Request;
use http_body_util::BodyExt as _;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::version::Info;
use kube::client::Body;
use kube::{Api, ResourceExt as _};

use super::clock::{self, Skew};
use super::finding::Finding;
use crate::kubernetes::access::{Cluster, ClusterError};
use crate::kubernetes::forward;

/// The oldest minor version of Kubernetes 1 that is supported: what tokens say of pods, and what CRDs
/// can express, is asked of it.
const OLDEST: u32 = 27;
/// From here on init containers with `restartPolicy: Always` are on by default.
const NATIVE: u32 = 29;
/// Where the Gateway API's CRDs say which release they are of.
const BUNDLE_VERSION: &str = "gateway.networking.k8s.io/bundle-version";
/// The routes that the mesh reads.
const ROUTES: [&str; 3] = ["httproutes", "grpcroutes", "tcproutes"];

/// What was learnt of the API server.
pub(super) struct Server {
    pub(super) minor: Option<u32>,
    /// Of its clock.
    pub(super) skew: Option<Skew>,
    pub(super) findings: Vec<Finding>,
}

/// Asks it for its version.
///
/// # Errors
/// It cannot be reached, or does not know these credentials: nothing else can be asked.
pub(super) async fn look(cluster: &Cluster) -> Result<Server, ClusterError> {
    let failed = |error| cluster.failed(error);
    let unexpected = |error: String| ClusterError::Unexpected {
        server: cluster.server.clone(),
        cause: error,
    };
    let request = Request::get("/version").body(Body::empty());
    let request = request.map_err(|error| unexpected(error.to_string()))?;
    let asked = SystemTime::now();
    let answer = cluster.client.send(request).await.map_err(failed)?;
    let answered = SystemTime::now();
    let (head, body) = answer.into_parts();
    let body = body.collect().await.map_err(failed)?.to_bytes();
    if head.status == http::StatusCode::UNAUTHORIZED {
        return Err(ClusterError::Unauthorized {
            server: cluster.server.clone(),
            message: "Unauthorized".to_owned(),
        });
    }
    let info: Info = serde_json::from_slice(&body)
        .map_err(|error| unexpected(format!("/version answers {}: {error}", head.status)))?;
    let minor = minor(&info.minor);
    let date = forward::date(&head.headers);
    let skew = date.map(|theirs| clock::skew(theirs, asked, answered));
    let mut findings = vec![version(&cluster.server, &info.git_version, minor)];
    findings.extend(skew.map(|skew| clock::judge("the API server", skew)));
    Ok(Server {
        minor,
        skew,
        findings,
    })
}

/// "36+" is 36.
fn minor(text: &str) -> Option<u32> {
    text.trim_end_matches('+').parse().ok()
}

fn version(server: &str, version: &str, minor: Option<u32>) -> Finding {
    const CHECK: &str = "kubernetes-version";
    match minor {
        Some(minor) if minor < OLDEST => Finding::error(
            CHECK,
            format_args!(
                "{server} is Kubernetes {version}; the oldest that is supported is 1.{OLDEST}"
            ),
            "upgrade the cluster",
        ),
        Some(_) => Finding::ok(CHECK, format_args!("{server} is Kubernetes {version}")),
        None => Finding::warning(
            CHECK,
            format_args!("{server} says {version}, which is no version that is known"),
            format_args!("see that it is Kubernetes 1.{OLDEST} or newer"),
        ),
    }
}

/// Which kind of sidecar pods will have.
pub(super) fn sidecars(minor: Option<u32>) -> Finding {
    const CHECK: &str = "native-sidecars";
    match minor {
        Some(minor) if minor < NATIVE => Finding::warning(
            CHECK,
            format_args!(
                "this cluster has none (they came with 1.{NATIVE}): pods get a classic sidecar, and a Job's pod ends \
                 only with restartPolicy: Never"
            ),
            "upgrade the cluster, if Jobs are to be of the mesh",
        ),
        Some(_) | None => Finding::ok(CHECK, "init containers that keep running are supported"),
    }
}

/// Whether routes of the Gateway API can be written here.
pub(super) async fn gateway_api(cluster: &Cluster) -> Vec<Finding> {
    const CHECK: &str = "gateway-api";
    let crds: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    let (mut there, mut absent) = (Vec::new(), Vec::new());
    for route in ROUTES {
        let name = format!("{route}.gateway.networking.k8s.io");
        match crds.get_opt(&name).await {
            Ok(Some(crd)) => there.push((route, crd.annotations().get(BUNDLE_VERSION).cloned())),
            Ok(None) => absent.push(route),
            Err(error) => return vec![Finding::unknown(CHECK, cluster.failed(error))],
        }
    }
    vec![routes(&there, &absent)]
}

fn routes(there: &[(&str, Option<String>)], absent: &[&str]) -> Finding {
    const CHECK: &str = "gateway-api";
    let version = there.iter().find_map(|(_, version)| version.as_deref());
    let names: Vec<&str> = there.iter().map(|(name, _)| *name).collect();
    match (there, absent) {
        ([], _) => Finding::ok(
            CHECK,
            "its CRDs are not installed: the mesh works without, and without routes",
        ),
        (_, []) => Finding::ok(
            CHECK,
            format_args!(
                "{} of {}",
                names.join(", "),
                version.unwrap_or("an unknown release")
            ),
        ),
        (_, absent) => Finding::ok(
            CHECK,
            format_args!(
                "{} of {}; not installed: {}",
                names.join(", "),
                version.unwrap_or("an unknown release"),
                absent.join(", ")
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use k8s_openapi::jiff::{Timestamp, fmt::rfc2822};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::super::finding::Level;
    use super::*;
    use crate::args::ClusterArgs;

    /// What is found of a server whose clock is so many seconds ahead of this one's.
    async fn with_clock(ahead: i64) -> Vec<Finding> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answering = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            let now = Timestamp::now().as_second() + ahead;
            let date = Timestamp::from_second(now).unwrap();
            let date = rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&date);
            let body = r#"{"major": "1", "minor": "36", "gitVersion": "v1.36.3", "gitCommit": "",
                "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "", "platform": ""}"#;
            let answer = format!(
                "HTTP/1.1 200 OK\r\nDate: {}\r\nContent-Length: {}\r\n\r\n{body}",
                date.unwrap(),
                body.len()
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = folder.path().join("config");
        let config = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: a\n\
             clusters: [{{name: a, cluster: {{server: 'http://{address}'}}}}]\n\
             contexts: [{{name: a, context: {{cluster: a, user: a}}}}]\nusers: [{{name: a, user: {{}}}}]\n"
        );
        std::fs::write(&kubeconfig, config).unwrap();
        let args = ClusterArgs {
            context: None,
            kubeconfig: Some(kubeconfig),
        };
        let cluster = Cluster::connect(&args).await.unwrap();
        let found = tokio::time::timeout(Duration::from_secs(20), look(&cluster)).await;
        answering.await.unwrap();
        found.unwrap().unwrap().findings
    }

    #[tokio::test]
    async fn a_clock_that_is_wrong_is_told_by_the_answers_date() {
        for (ahead, level, message) in [
            (0, Level::Ok, "the clock of the API server is right"),
            (-30, Level::Warning, "s behind this machine's"),
            (600, Level::Error, "s ahead of this machine's"),
        ] {
            let findings = with_clock(ahead).await;
            let clock = findings.iter().find(|finding| finding.check == "clock");
            let clock = clock.unwrap();
            assert_eq!(clock.level, level, "{clock:?}");
            assert!(clock.message.ends_with(message), "{clock:?}");
            let remedy = clock.remedy.as_deref();
            let says = remedy.is_some_and(|remedy| remedy.contains("NTP (`timedatectl`"));
            assert_eq!(says, level != Level::Ok, "{clock:?}");
        }
    }

    #[test]
    fn old_clusters_are_told_from_others() {
        assert_eq!(minor("36"), Some(36));
        assert_eq!(minor("27+"), Some(27));
        assert_eq!(minor("x"), None);
        let level = |minor| version("https://a", "v1", minor).level;
        assert_eq!(level(Some(OLDEST)), Level::Ok);
        assert_eq!(level(Some(OLDEST - 1)), Level::Error);
        assert_eq!(level(None), Level::Warning);
        assert_eq!(sidecars(Some(NATIVE - 1)).level, Level::Warning);
        assert_eq!(sidecars(Some(NATIVE)).level, Level::Ok);
    }

    #[test]
    fn routes_may_be_absent() {
        let v = || Some("v1.4.0".to_owned());
        assert!(routes(&[], &ROUTES).message.contains("works without"));
        let some = routes(&[("httproutes", v())], &["grpcroutes", "tcproutes"]);
        assert_eq!(
            some.message,
            "httproutes of v1.4.0; not installed: grpcroutes, tcproutes"
        );
        assert_eq!(some.level, Level::Ok);
    }
}
