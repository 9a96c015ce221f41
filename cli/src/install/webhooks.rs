//! When the API server asks the control plane: for each new pod of the mesh, and for each policy and
//! route that is written.
//!
//! Both fail closed: while no replica answers, pods of the mesh do not start and policy does not
//! change; everything that runs goes on. `caBundle` is left out: the control plane writes it, and
//! applying these objects again does not take it away.

use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhook, MutatingWebhookConfiguration, RuleWithOperations, ServiceReference,
    ValidatingWebhook, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use serde_json::Value;

use super::settings::{CONTROL_PLANE, INJECT_LABEL, INJECTOR, NAMESPACE, VALIDATOR, of_cluster};
use super::{InstallError, value};

/// Where pods never get a sidecar, whatever their labels say.
const NEVER: [&str; 2] = ["kube-system", NAMESPACE];
/// The label of each namespace that is its name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

pub(super) fn objects() -> Result<Vec<Value>, InstallError> {
    Ok(vec![value(&injector())?, value(&validator())?])
}

fn injector() -> MutatingWebhookConfiguration {
    // Two, since a namespace and a pod may say it.
    let by_namespace = pods(
        "namespace.injector.outrider.mesh",
        vec![
            one_of(INJECT_LABEL, &["enabled"]),
            none_of(NAME_LABEL, &NEVER),
        ],
        vec![none_of(INJECT_LABEL, &["false"])],
    );
    let by_pod = pods(
        "pod.injector.outrider.mesh",
        vec![
            none_of(INJECT_LABEL, &["enabled", "disabled"]),
            none_of(NAME_LABEL, &NEVER),
        ],
        // A word that is not known is refused rather than passed over.
        vec![exists(INJECT_LABEL), none_of(INJECT_LABEL, &["false"])],
    );
    MutatingWebhookConfiguration {
        metadata: of_cluster(INJECTOR),
        webhooks: Some(vec![by_namespace, by_pod]),
    }
}

fn pods(
    name: &str,
    namespaces: Vec<LabelSelectorRequirement>,
    objects: Vec<LabelSelectorRequirement>,
) -> MutatingWebhook {
    MutatingWebhook {
        name: name.to_owned(),
        admission_review_versions: words(&["v1"]),
        client_config: service("/inject"),
        failure_policy: Some("Fail".to_owned()),
        match_policy: Some("Equivalent".to_owned()),
        namespace_selector: Some(selector(namespaces)),
        object_selector: Some(selector(objects)),
        // What another webhook adds to a pod belongs into the mesh, too; a second time changes nothing.
        reinvocation_policy: Some("IfNeeded".to_owned()),
        rules: Some(vec![rule("", "v1", &["pods"], &["CREATE"])]),
        // An event for a pod that cannot have a sidecar.
        side_effects: "NoneOnDryRun".to_owned(),
        timeout_seconds: Some(10),
        match_conditions: None,
    }
}

fn validator() -> ValidatingWebhookConfiguration {
    let written = ["CREATE", "UPDATE"];
    let webhook = ValidatingWebhook {
        name: "validator.outrider.mesh".to_owned(),
        admission_review_versions: words(&["v1"]),
        client_config: service("/validate"),
        failure_policy: Some("Fail".to_owned()),
        match_policy: Some("Equivalent".to_owned()),
        namespace_selector: None,
        object_selector: None,
        rules: Some(vec![rule(
            "outrider.mesh",
            "v1alpha1",
            &[
                "authorizationpolicies",
                "meshconfigs",
                "ratelimitpolicies",
                "trafficpolicies",
                "workloads",
            ],
            &written,
        )]),
        side_effects: "None".to_owned(),
        timeout_seconds: Some(10),
        match_conditions: None,
    };
    // Routes may be another controller's: where the control plane is away, they are not held up.
    let routes = ValidatingWebhook {
        name: "routes.validator.outrider.mesh".to_owned(),
        failure_policy: Some("Ignore".to_owned()),
        rules: Some(vec![RuleWithOperations {
            api_versions: Some(words(&["v1", "v1alpha2"])),
            ..rule(
                "gateway.networking.k8s.io",
                "v1",
                &["grpcroutes", "httproutes", "tcproutes"],
                &written,
            )
        }]),
        ..webhook.clone()
    };
    ValidatingWebhookConfiguration {
        metadata: of_cluster(VALIDATOR),
        webhooks: Some(vec![webhook, routes]),
    }
}

fn service(path: &str) -> WebhookClientConfig {
    WebhookClientConfig {
        ca_bundle: None,
        service: Some(ServiceReference {
            name: CONTROL_PLANE.to_owned(),
            namespace: NAMESPACE.to_owned(),
            path: Some(path.to_owned()),
            port: Some(443),
        }),
        url: None,
    }
}

fn rule(group: &str, version: &str, resources: &[&str], operations: &[&str]) -> RuleWithOperations {
    RuleWithOperations {
        api_groups: Some(words(&[group])),
        api_versions: Some(words(&[version])),
        operations: Some(words(operations)),
        resources: Some(words(resources)),
        scope: Some("Namespaced".to_owned()),
    }
}

fn selector(requirements: Vec<LabelSelectorRequirement>) -> LabelSelector {
    LabelSelector {
        match_expressions: Some(requirements),
        match_labels: None,
    }
}

fn exists(key: &str) -> LabelSelectorRequirement {
    LabelSelectorRequirement {
        key: key.to_owned(),
        operator: "Exists".to_owned(),
        values: None,
    }
}

fn one_of(key: &str, values: &[&str]) -> LabelSelectorRequirement {
    requirement(key, "In", values)
}

/// Those without the label are meant, too.
fn none_of(key: &str, values: &[&str]) -> LabelSelectorRequirement {
    requirement(key, "NotIn", values)
}

fn requirement(key: &str, operator: &str, values: &[&str]) -> LabelSelectorRequirement {
    LabelSelectorRequirement {
        key: key.to_owned(),
        operator: operator.to_owned(),
        values: Some(words(values)),
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
