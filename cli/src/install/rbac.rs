//! What the control plane may do: no wildcard, no Secret outside its own namespace, and of what it
//! writes only what it owns, by name wherever Kubernetes can tell names apart.
//!
//! The tables are the whole of it. A verb that is not here fails in the tests, which run with these
//! roles.

use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use serde_json::Value;

use super::settings::{
    Authority, CA_SECRET, CONTROL_PLANE, INJECTOR, NAMESPACE, SERVICE_ACCOUNT, Settings,
    TRUST_BUNDLE, VALIDATOR, of_cluster, of_namespace,
};
use super::{InstallError, value};

/// Who may see the mesh's objects: aggregated to Kubernetes' own roles.
const VIEW: &str = "outrider-view";
/// Who may change policy in a namespace: whoever may change what runs there.
const EDIT: &str = "outrider-edit";

/// Says which features of the Gateway API there are.
const XMESH: &str = "outrider";
const READ: &[&str] = &["get", "list", "watch"];
const POLICIES: &[&str] = &[
    "authorizationpolicies",
    "ratelimitpolicies",
    "trafficpolicies",
];
const KINDS: &[&str] = &[
    "authorizationpolicies",
    "meshconfigs",
    "ratelimitpolicies",
    "trafficpolicies",
    "workloads",
];

/// One line of a role.
struct Grant {
    group: &'static str,
    resources: &'static [&'static str],
    /// Empty: whatever they are called.
    names: &'static [&'static str],
    verbs: &'static [&'static str],
}

const fn grant(
    group: &'static str,
    resources: &'static [&'static str],
    verbs: &'static [&'static str],
) -> Grant {
    Grant {
        group,
        resources,
        names: &[],
        verbs,
    }
}

const fn named(
    group: &'static str,
    resource: &'static [&'static str],
    names: &'static [&'static str],
    verbs: &'static [&'static str],
) -> Grant {
    Grant {
        group,
        resources: resource,
        names,
        verbs,
    }
}

/// In every namespace.
const CLUSTER: &[Grant] = &[
    // The mesh as it is. Nodes: the zone that a pod is in.
    grant("", &["namespaces", "nodes", "pods", "services"], READ),
    grant("discovery.k8s.io", &["endpointslices"], READ),
    // Workloads are of meshes of files.
    grant(
        "outrider.mesh",
        &[
            "authorizationpolicies",
            "meshconfigs",
            "ratelimitpolicies",
            "trafficpolicies",
        ],
        READ,
    ),
    grant(
        "outrider.mesh",
        &[
            "authorizationpolicies/status",
            "meshconfigs/status",
            "ratelimitpolicies/status",
            "trafficpolicies/status",
        ],
        &["patch"],
    ),
    // Whether one of these kinds is being deleted, and its objects only with it.
    named(
        "apiextensions.k8s.io",
        &["customresourcedefinitions"],
        &[
            "authorizationpolicies.outrider.mesh",
            "meshconfigs.outrider.mesh",
            "ratelimitpolicies.outrider.mesh",
            "trafficpolicies.outrider.mesh",
        ],
        &["get"],
    ),
    grant(
        "gateway.networking.k8s.io",
        &["grpcroutes", "httproutes", "tcproutes"],
        READ,
    ),
    grant(
        "gateway.networking.k8s.io",
        &["grpcroutes/status", "httproutes/status", "tcproutes/status"],
        &["patch"],
    ),
    // XMesh is made where it is missing; its spec is the user's. What is created has no name yet to the
    // API server.
    grant("gateway.networking.x-k8s.io", &["xmeshes"], &["create"]),
    named(
        "gateway.networking.x-k8s.io",
        &["xmeshes"],
        &[XMESH],
        &["get"],
    ),
    named(
        "gateway.networking.x-k8s.io",
        &["xmeshes/status"],
        &[XMESH],
        &["patch"],
    ),
    // Who a sidecar is.
    grant("authentication.k8s.io", &["tokenreviews"], &["create"]),
    // Why a pod got no sidecar.
    grant("events.k8s.io", &["events"], &["create", "patch"]),
    // The trust bundle of each namespace of the mesh: applied and watched by name, so that no other
    // ConfigMap can be read.
    named(
        "",
        &["configmaps"],
        &[TRUST_BUNDLE],
        &["get", "list", "watch", "create", "patch", "delete"],
    ),
    // The webhooks' own certificate authority.
    named(
        "admissionregistration.k8s.io",
        &["mutatingwebhookconfigurations"],
        &[INJECTOR],
        &["get", "patch"],
    ),
    named(
        "admissionregistration.k8s.io",
        &["validatingwebhookconfigurations"],
        &[VALIDATOR],
        &["get", "patch"],
    ),
];

/// In the control plane's own namespace.
const OWN: &[Grant] = &[
    // Which replica writes. What is created has no name yet to the API server.
    grant("coordination.k8s.io", &["leases"], &["create"]),
    named(
        "coordination.k8s.io",
        &["leases"],
        &[CONTROL_PLANE],
        &["get", "update"],
    ),
];

/// The Secret of the authority that the control plane makes.
const OWN_AUTHORITY: &[Grant] = &[
    grant("", &["secrets"], &["create"]),
    named(
        "",
        &["secrets"],
        &[CA_SECRET],
        &["get", "list", "watch", "patch"],
    ),
];

pub(super) fn objects(settings: &Settings) -> Result<Vec<Value>, InstallError> {
    let account = ServiceAccount {
        metadata: of_namespace(SERVICE_ACCOUNT),
        // Pods say that they want it.
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    };
    Ok(vec![
        value(&account)?,
        value(&cluster_role(CONTROL_PLANE, CLUSTER))?,
        value(&cluster_binding())?,
        value(&own_role(&settings.authority))?,
        value(&own_binding())?,
        value(&aggregated(
            VIEW,
            &["admin", "edit", "view"],
            &[grant("outrider.mesh", KINDS, READ)],
        ))?,
        value(&aggregated(
            EDIT,
            &["admin", "edit"],
            &[grant(
                "outrider.mesh",
                POLICIES,
                &["create", "delete", "deletecollection", "patch", "update"],
            )],
        ))?,
    ])
}

fn cluster_role(name: &str, grants: &[Grant]) -> ClusterRole {
    ClusterRole {
        metadata: of_cluster(name),
        rules: Some(rules(grants)),
        aggregation_rule: None,
    }
}

/// A role that becomes part of Kubernetes' own of these names.
fn aggregated(name: &str, to: &[&str], grants: &[Grant]) -> ClusterRole {
    let mut role = cluster_role(name, grants);
    let labels = role.metadata.labels.get_or_insert_default();
    for role in to {
        let label = format!("rbac.authorization.k8s.io/aggregate-to-{role}");
        labels.insert(label, "true".to_owned());
    }
    role
}

fn own_role(authority: &Authority) -> Role {
    let mut all = rules(OWN);
    match authority {
        Authority::Own => all.extend(rules(OWN_AUTHORITY)),
        Authority::Elsewhere(secret) => all.push(PolicyRule {
            resource_names: Some(vec![secret.clone()]),
            ..rule(&grant("", &["secrets"], READ))
        }),
    }
    Role {
        metadata: of_namespace(CONTROL_PLANE),
        rules: Some(all),
    }
}

fn cluster_binding() -> ClusterRoleBinding {
    ClusterRoleBinding {
        metadata: of_cluster(CONTROL_PLANE),
        role_ref: role("ClusterRole"),
        subjects: Some(vec![subject()]),
    }
}

fn own_binding() -> RoleBinding {
    RoleBinding {
        metadata: of_namespace(CONTROL_PLANE),
        role_ref: role("Role"),
        subjects: Some(vec![subject()]),
    }
}

fn role(kind: &str) -> RoleRef {
    RoleRef {
        api_group: "rbac.authorization.k8s.io".to_owned(),
        kind: kind.to_owned(),
        name: CONTROL_PLANE.to_owned(),
    }
}

fn subject() -> Subject {
    Subject {
        api_group: None,
        kind: "ServiceAccount".to_owned(),
        name: SERVICE_ACCOUNT.to_owned(),
        namespace: Some(NAMESPACE.to_owned()),
    }
}

fn rules(grants: &[Grant]) -> Vec<PolicyRule> {
    grants.iter().map(rule).collect()
}

fn rule(grant: &Grant) -> PolicyRule {
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    PolicyRule {
        api_groups: Some(owned(&[grant.group])),
        resources: Some(owned(grant.resources)),
        resource_names: (!grant.names.is_empty()).then(|| owned(grant.names)),
        verbs: owned(grant.verbs),
        non_resource_urls: None,
    }
}
