//! Whether whoever runs this may do what installing does. Asks the API server (SelfSubjectAccessReview),
//! which may be asked by everybody.

use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::Api;
use kube::api::PostParams;

use super::finding::Finding;
use crate::kubernetes::access::Cluster;
use crate::kubernetes::forbidden::subject;
use crate::kubernetes::many::ask_each;
use crate::kubernetes::names::SYSTEM;

const CHECK: &str = "permissions";

/// What `kubectl apply` does with each kind: server-side apply creates by patch, and takes both.
const APPLY: [&str; 3] = ["get", "create", "patch"];

/// Kinds that installing makes: group, resource, and whether it is in the control plane's namespace.
const MADE: [(&str, &str, bool); 13] = [
    ("", "namespaces", false),
    ("apiextensions.k8s.io", "customresourcedefinitions", false),
    ("rbac.authorization.k8s.io", "clusterroles", false),
    ("rbac.authorization.k8s.io", "clusterrolebindings", false),
    (
        "admissionregistration.k8s.io",
        "mutatingwebhookconfigurations",
        false,
    ),
    (
        "admissionregistration.k8s.io",
        "validatingwebhookconfigurations",
        false,
    ),
    ("rbac.authorization.k8s.io", "roles", true),
    ("rbac.authorization.k8s.io", "rolebindings", true),
    ("", "serviceaccounts", true),
    ("", "services", true),
    ("apps", "deployments", true),
    ("policy", "poddisruptionbudgets", true),
    ("networking.k8s.io", "networkpolicies", true),
];

/// Nobody may give away rights that they have not, unless they may escalate.
const GIVEN: [(&str, &str, bool); 4] = [
    ("escalate", "clusterroles", false),
    ("bind", "clusterroles", false),
    ("escalate", "roles", true),
    ("bind", "roles", true),
];

/// One thing that may be allowed or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Right {
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
    namespaced: bool,
}

/// Asks for all of them.
pub(super) async fn look(cluster: &Cluster) -> Vec<Finding> {
    // Who may everything need not be asked for the rest.
    match may(cluster, everything()).await {
        Ok(true) => return vec![Finding::ok(CHECK, "everything is allowed")],
        Ok(false) => {}
        Err(error) => return vec![Finding::unknown(CHECK, error)],
    }
    let answers = ask_each("permissions", rights(), |right| async move {
        (right, may(cluster, attributes(right)).await)
    })
    .await;
    let mut missing = Vec::new();
    for (right, answer) in answers {
        match answer {
            Ok(true) => {}
            Ok(false) => missing.push(right),
            Err(error) => return vec![Finding::unknown(CHECK, error)],
        }
    }
    let whom = match missing.is_empty() {
        true => String::new(),
        false => whom(cluster).await,
    };
    judge(missing, &whom)
}

/// Who asks, as `kubectl create clusterrolebinding` takes him. Before Kubernetes 1.28 nobody says.
async fn whom(cluster: &Cluster) -> String {
    let reviews: Api<SelfSubjectReview> = Api::all(cluster.client.clone());
    let review = SelfSubjectReview::default();
    let answer = reviews.create(&PostParams::default(), &review).await;
    let user = answer
        .ok()
        .and_then(|answer| answer.status?.user_info?.username);
    user.map_or_else(|| "--user=NAME".to_owned(), |user| subject(&user))
}

fn rights() -> Vec<Right> {
    let made = MADE.into_iter().flat_map(|(group, resource, namespaced)| {
        APPLY.map(|verb| Right {
            verb,
            group,
            resource,
            namespaced,
        })
    });
    let given = GIVEN.map(|(verb, resource, namespaced)| Right {
        verb,
        group: "rbac.authorization.k8s.io",
        resource,
        namespaced,
    });
    made.chain(given).collect()
}

fn judge(mut missing: Vec<Right>, whom: &str) -> Vec<Finding> {
    missing.sort_by_key(|right| (right.resource, right.verb));
    let mut findings = Vec::new();
    for of_one in missing.chunk_by(|a, b| a.resource == b.resource) {
        let (Some(first), verbs) = (of_one.first(), of_one.iter().map(|right| right.verb)) else {
            continue;
        };
        let verbs: Vec<&str> = verbs.collect();
        let resource = match first.group {
            "" => first.resource.to_owned(),
            group => format!("{}.{group}", first.resource),
        };
        let place = match first.namespaced {
            true => format!(" in the namespace {SYSTEM}"),
            false => String::new(),
        };
        let message = format!("you may not {} {resource}{place}", verbs.join(", "));
        // One for each, so that all of them can be given.
        let name = format!("outrider-install-{}", first.resource);
        let remedy = format!(
            "have an administrator of the cluster install it, or allow it with: kubectl create clusterrole {name} \
             --verb={} --resource={resource}; kubectl create clusterrolebinding {name} --clusterrole={name} {whom}",
            verbs.join(",")
        );
        // The rights themselves will do as well as the right to give away any.
        let only_given = verbs
            .iter()
            .all(|verb| GIVEN.iter().any(|(given, ..)| given == verb));
        findings.push(match only_given {
            true => Finding::warning(CHECK, message, remedy),
            false => Finding::error(CHECK, message, remedy),
        });
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            CHECK,
            "everything that installing does is allowed",
        ));
    }
    findings
}

fn everything() -> ResourceAttributes {
    ResourceAttributes {
        verb: Some("*".to_owned()),
        group: Some("*".to_owned()),
        resource: Some("*".to_owned()),
        ..ResourceAttributes::default()
    }
}

fn attributes(right: Right) -> ResourceAttributes {
    ResourceAttributes {
        verb: Some(right.verb.to_owned()),
        group: Some(right.group.to_owned()),
        resource: Some(right.resource.to_owned()),
        namespace: right.namespaced.then(|| SYSTEM.to_owned()),
        ..ResourceAttributes::default()
    }
}

async fn may(cluster: &Cluster, what: ResourceAttributes) -> Result<bool, String> {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(cluster.client.clone());
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(what),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let answer = reviews.create(&PostParams::default(), &review).await;
    let answer = answer.map_err(|error| cluster.failed(error).to_string())?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::finding::Level;
    use super::*;
    use crate::install::settings::{Profile, Settings};
    use crate::install::{Crds, Objects};

    fn right(verb: &'static str, group: &'static str, resource: &'static str) -> Right {
        Right {
            verb,
            group,
            resource,
            namespaced: resource == "services",
        }
    }

    #[test]
    fn what_is_missing_is_named_by_resource() {
        let findings = judge(
            vec![
                right("patch", "", "services"),
                right("create", "", "services"),
                right(
                    "create",
                    "apiextensions.k8s.io",
                    "customresourcedefinitions",
                ),
            ],
            "--user=bob",
        );
        let messages: Vec<&str> = findings.iter().map(|one| one.message.as_str()).collect();
        assert_eq!(
            messages,
            [
                "you may not create customresourcedefinitions.apiextensions.k8s.io",
                "you may not create, patch services in the namespace outrider-system",
            ]
        );
        assert!(findings.iter().all(|one| one.level == Level::Error));
        let remedy = findings[1].remedy.as_deref().unwrap();
        assert!(
            remedy.ends_with(
                "kubectl create clusterrole outrider-install-services --verb=create,patch --resource=services; \
                 kubectl create clusterrolebinding outrider-install-services --clusterrole=outrider-install-services \
                 --user=bob"
            ),
            "{remedy}"
        );
    }

    #[test]
    fn whatever_is_installed_is_asked_for() {
        let settings = Settings {
            profile: Profile::Ha,
            network_policy: true,
            ..Settings::default()
        };
        let objects = Objects::new(&settings).unwrap().in_order(Crds::Include);
        let installed: BTreeSet<(String, String, bool)> = objects
            .iter()
            .map(|object| {
                let group = object["apiVersion"].as_str().unwrap().split_once('/');
                let kind = object["kind"].as_str().unwrap().to_lowercase();
                let plural = match kind.strip_suffix('y') {
                    Some(stem) => format!("{stem}ies"),
                    None => format!("{kind}s"),
                };
                let group = group.map_or("", |(group, _)| group);
                let namespaced = object["metadata"].get("namespace").is_some();
                (group.to_owned(), plural, namespaced)
            })
            .collect();
        let asked = MADE.map(|(group, resource, namespaced)| {
            (group.to_owned(), resource.to_owned(), namespaced)
        });
        assert_eq!(BTreeSet::from(asked), installed);
    }

    #[test]
    fn not_to_escalate_is_a_warning() {
        let findings = judge(
            vec![right(
                "escalate",
                "rbac.authorization.k8s.io",
                "clusterroles",
            )],
            "--user=bob",
        );
        assert_eq!(findings[0].level, Level::Warning);
        assert_eq!(judge(Vec::new(), "")[0].level, Level::Ok);
    }
}
