//! What installing makes: CRDs, the control plane's Deployment, and the Lease that its replicas hold.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::jiff::Timestamp;
use kube::{Api, ResourceExt as _};

use super::finding::Finding;
use crate::kubernetes::access::Cluster;
use crate::kubernetes::names::{CONTROL_PLANE, SYSTEM};
use crate::kubernetes::pods;

const CRDS: &str = "crds";
const DEPLOYMENT: &str = "control-plane";
const VERSION: &str = "version";
const LEASE: &str = "leader";
const INSTALL: &str = "outrider install | kubectl apply -f -";
/// The kinds alone: whatever options the rest was installed with, it stays.
const DEFINE: &str = "outrider install --crds only | kubectl apply --server-side -f -";
/// Of this command.
const OWN_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Where a CRD says which version made it.
const MADE_BY: &str = "outrider.mesh/version";

/// What was learnt of the installation.
pub(super) struct Installed {
    /// Of the control plane's image; none: there is no control plane.
    pub(super) version: Option<String>,
    pub(super) findings: Vec<Finding>,
}

/// Looks at all of it.
pub(super) async fn look(cluster: &Cluster) -> Installed {
    let deployments: Api<Deployment> = Api::namespaced(cluster.client.clone(), SYSTEM);
    let deployment = match deployments.get_opt(CONTROL_PLANE).await {
        Ok(Some(deployment)) => deployment,
        Ok(None) => {
            return Installed {
                version: None,
                findings: vec![Finding::error(
                    DEPLOYMENT,
                    format_args!(
                        "Outrider is not installed: there is no Deployment {SYSTEM}/{CONTROL_PLANE}"
                    ),
                    format_args!("`outrider check --pre` says whether it can be; then {INSTALL}"),
                )],
            };
        }
        Err(error) => {
            return Installed {
                version: None,
                findings: vec![Finding::error(
                    DEPLOYMENT,
                    cluster.failed(error),
                    "check with the rights of an administrator",
                )],
            };
        }
    };
    let version = image_version(&deployment).unwrap_or_default();
    let mut findings = crds(cluster).await;
    findings.push(ready(&deployment));
    findings.push(versions(&version));
    findings.push(lease(cluster).await);
    Installed {
        version: Some(version),
        findings,
    }
}

/// Before installing: whether something is there already.
pub(super) async fn none_yet(cluster: &Cluster) -> Finding {
    let deployments: Api<Deployment> = Api::namespaced(cluster.client.clone(), SYSTEM);
    match deployments.get_opt(CONTROL_PLANE).await {
        Ok(None) => Finding::ok(DEPLOYMENT, "none is installed yet"),
        Ok(Some(deployment)) => Finding::ok(
            DEPLOYMENT,
            format_args!(
                "{} is installed; installing again upgrades it",
                image_version(&deployment).unwrap_or_else(|| "one of no version".to_owned())
            ),
        ),
        Err(error) => Finding::unknown(DEPLOYMENT, cluster.failed(error)),
    }
}

async fn crds(cluster: &Cluster) -> Vec<Finding> {
    let expected = match outrider_api::crd::all() {
        Ok(expected) => expected,
        Err(error) => return vec![Finding::unknown(CRDS, error)],
    };
    let crds: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    let mut findings = Vec::new();
    for definition in &expected {
        match crds.get_opt(&definition.name_any()).await {
            Ok(found) => findings.extend(crd(definition, found.as_ref())),
            Err(error) => return vec![Finding::unknown(CRDS, cluster.failed(error))],
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            CRDS,
            format_args!("all {} are there, and of this version", expected.len()),
        ));
    }
    findings
}

/// What is wrong with one of them.
fn crd(
    expected: &CustomResourceDefinition,
    found: Option<&CustomResourceDefinition>,
) -> Option<Finding> {
    let name = expected.name_any();
    let Some(crd) = found else {
        return Some(Finding::error(
            CRDS,
            format_args!("there is no {name}"),
            DEFINE,
        ));
    };
    let conditions = crd.status.iter().flat_map(|status| &status.conditions);
    let mut conditions = conditions.flatten();
    let established = conditions.any(|one| one.type_ == "Established" && one.status == "True");
    if !established {
        return Some(Finding::error(
            CRDS,
            format_args!("{name} is not established: its names are in conflict with another's"),
            format_args!("kubectl describe crd {name}"),
        ));
    }
    for version in &expected.spec.versions {
        let mut served = crd.spec.versions.iter().filter(|one| one.served);
        let Some(found) = served.find(|found| found.name == version.name) else {
            return Some(Finding::error(
                CRDS,
                format_args!("{name} does not serve {}", version.name),
                DEFINE,
            ));
        };
        if found.schema != version.schema {
            let made_by = crd.annotations().get(MADE_BY).map(String::as_str);
            return Some(Finding::warning(
                CRDS,
                format_args!(
                    "{name} is not as this command ({OWN_VERSION}) makes it, but of {}: fields may be missing, or mean \
                     something else",
                    made_by.unwrap_or("an unknown version")
                ),
                INSTALL,
            ));
        }
    }
    None
}

fn image_version(deployment: &Deployment) -> Option<String> {
    let pod = deployment.spec.as_ref()?.template.spec.as_ref()?;
    let image = pod.containers.first()?.image.as_deref()?;
    Some(
        pods::tag(image)
            .unwrap_or("an image without a tag")
            .to_owned(),
    )
}

fn ready(deployment: &Deployment) -> Finding {
    let wanted = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    let status = deployment.status.clone().unwrap_or_default();
    let ready = status.ready_replicas.unwrap_or(0);
    let updated = status.updated_replicas.unwrap_or(0);
    let observed = status.observed_generation >= deployment.metadata.generation;
    let message = format!("{ready} of {wanted} replicas are ready");
    let look = format!(
        "kubectl -n {SYSTEM} get pods; kubectl -n {SYSTEM} logs deployment/{CONTROL_PLANE}"
    );
    match ready {
        _ if wanted == 0 => Finding::error(
            DEPLOYMENT,
            "it is scaled to 0: no sidecar gets policy or certificates",
            format_args!("kubectl -n {SYSTEM} scale deployment/{CONTROL_PLANE} --replicas=1"),
        ),
        0 => Finding::error(DEPLOYMENT, message, look),
        _ if ready < wanted => Finding::warning(DEPLOYMENT, message, look),
        _ if updated < wanted || !observed => Finding::warning(
            DEPLOYMENT,
            format_args!("{message}, {updated} of them as the Deployment is now"),
            format_args!("kubectl -n {SYSTEM} rollout status deployment/{CONTROL_PLANE}"),
        ),
        _ => Finding::ok(DEPLOYMENT, message),
    }
}

fn versions(control_plane: &str) -> Finding {
    match control_plane {
        OWN_VERSION => Finding::ok(
            VERSION,
            format_args!("control plane and command are {OWN_VERSION}"),
        ),
        other => Finding::warning(
            VERSION,
            format_args!("the control plane is {other}, this command {OWN_VERSION}"),
            "use the command of the control plane's version, or upgrade the control plane",
        ),
    }
}

async fn lease(cluster: &Cluster) -> Finding {
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), SYSTEM);
    match leases.get_opt(CONTROL_PLANE).await {
        Ok(lease) => judge_lease(lease.as_ref(), Timestamp::now()),
        Err(error) => Finding::unknown(LEASE, cluster.failed(error)),
    }
}

/// Whether somebody writes status and rotates the authority.
fn judge_lease(lease: Option<&Lease>, now: Timestamp) -> Finding {
    let remedy =
        format!("kubectl -n {SYSTEM} logs deployment/{CONTROL_PLANE} says why nobody takes it");
    let spec = lease.and_then(|lease| lease.spec.as_ref());
    let holder = spec.and_then(|spec| spec.holder_identity.as_deref());
    let Some((spec, holder)) = spec.zip(holder.filter(|holder| !holder.is_empty())) else {
        return Finding::error(
            LEASE,
            format_args!(
                "nobody holds the Lease {SYSTEM}/{CONTROL_PLANE}: status is not written, no authority rotated"
            ),
            remedy,
        );
    };
    let lasts = i64::from(spec.lease_duration_seconds.unwrap_or(15));
    let renewed = spec.renew_time.as_ref().map(|time| time.0);
    let age = renewed.map(|renewed| now.as_second() - renewed.as_second());
    match age {
        // Twice over: it is renewed by the clock of its holder.
        Some(age) if age <= 2 * lasts => Finding::ok(
            LEASE,
            format_args!("{holder} holds the Lease, renewed {}s ago", age.max(0)),
        ),
        Some(age) => Finding::error(
            LEASE,
            format_args!("{holder} has not renewed the Lease for {age}s, and nobody has taken it"),
            remedy,
        ),
        None => Finding::error(
            LEASE,
            format_args!("{holder} has never renewed the Lease"),
            remedy,
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::finding::Level;
    use super::*;

    fn deployment(wanted: i32, ready: i32, updated: i32) -> Finding {
        let deployment = json!({
            "metadata": {"generation": 2},
            "spec": {"replicas": wanted, "selector": {}, "template": {"spec": {"containers":
                [{"name": "control-plane", "image": "r/outrider-control-plane:0.1.0"}]}}},
            "status": {"readyReplicas": ready, "updatedReplicas": updated, "observedGeneration": 2},
        });
        let deployment: Deployment = serde_json::from_value(deployment).unwrap();
        assert_eq!(image_version(&deployment).as_deref(), Some("0.1.0"));
        super::ready(&deployment)
    }

    #[test]
    fn replicas_are_counted() {
        assert_eq!(deployment(3, 3, 3).level, Level::Ok);
        assert_eq!(deployment(3, 2, 3).level, Level::Warning);
        assert_eq!(deployment(3, 3, 1).level, Level::Warning);
        assert_eq!(deployment(1, 0, 1).level, Level::Error);
        assert_eq!(deployment(0, 0, 0).level, Level::Error);
    }

    #[test]
    fn a_lease_must_be_fresh() {
        let now = Timestamp::from_second(1_000).unwrap();
        let of = |spec: Value| {
            let lease: Lease = serde_json::from_value(json!({"spec": spec})).unwrap();
            judge_lease(Some(&lease), now)
        };
        let renewed = |second: i64| {
            let renewed = Timestamp::from_second(second).unwrap().to_string();
            of(json!({"holderIdentity": "a", "leaseDurationSeconds": 15, "renewTime": renewed}))
        };
        assert_eq!(renewed(995).message, "a holds the Lease, renewed 5s ago");
        assert_eq!(renewed(960).level, Level::Error);
        assert_eq!(of(json!({"holderIdentity": "a"})).level, Level::Error);
        assert_eq!(of(json!({})).level, Level::Error);
        assert_eq!(judge_lease(None, now).level, Level::Error);
    }

    #[test]
    fn a_crd_must_be_as_this_version_makes_it() {
        let expected = outrider_api::crd::all().unwrap().remove(0);
        let level = |change: &dyn Fn(&mut Value)| {
            let mut found = serde_json::to_value(&expected).unwrap();
            found["status"] = json!({"conditions": [{"type": "Established", "status": "True"}]});
            change(&mut found);
            let found: CustomResourceDefinition = serde_json::from_value(found).unwrap();
            crd(&expected, Some(&found)).map(|finding| finding.level)
        };
        assert_eq!(level(&|_| {}), None);
        let version = "/spec/versions/0";
        assert_eq!(
            level(&|crd| crd.pointer_mut(version).unwrap()["name"] = "v1".into()),
            Some(Level::Error)
        );
        assert_eq!(
            level(&|crd| crd.pointer_mut(version).unwrap()["served"] = false.into()),
            Some(Level::Error)
        );
        let schema = "/spec/versions/0/schema/openAPIV3Schema";
        assert_eq!(
            level(&|crd| crd.pointer_mut(schema).unwrap()["description"] = "Other.".into()),
            Some(Level::Warning)
        );
        assert_eq!(
            level(&|crd| crd["status"] = json!({"conditions": []})),
            Some(Level::Error)
        );
        assert_eq!(crd(&expected, None).unwrap().level, Level::Error);
    }

    #[test]
    fn versions_should_be_the_same() {
        assert_eq!(versions(OWN_VERSION).level, Level::Ok);
        assert_eq!(versions("0.0.9").level, Level::Warning);
    }
}
