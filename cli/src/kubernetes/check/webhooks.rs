//! Admission: whether the API server finds the webhooks, trusts them, and gets answers. Tried with dry
//! runs, which the API server keeps nothing of.

use std::collections::BTreeSet;

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};

use super::finding::Finding;
use crate::certs::authorities;
use crate::kubernetes::access::{Cluster, ClusterError};
use crate::kubernetes::names::{INJECT, INJECTOR, SIDECAR, VALIDATOR};
use crate::kubernetes::pods::namespaces;

const CONFIGURATION: &str = "webhook-configuration";
const ANSWERS: &str = "webhook-answers";
/// What the dry runs would make.
const PROBE: &str = "outrider-check";

/// Looks at both.
pub(super) async fn look(
    cluster: &Cluster,
    authorities: &[CertificateDer<'static>],
) -> Vec<Finding> {
    let mutating: Api<MutatingWebhookConfiguration> = Api::all(cluster.client.clone());
    let validating: Api<ValidatingWebhookConfiguration> = Api::all(cluster.client.clone());
    let injector = mutating.get_opt(INJECTOR).await.map(|found| {
        let found = found.map(|found| found.webhooks.unwrap_or_default());
        found.map(|webhooks| {
            webhooks
                .into_iter()
                .map(|webhook| webhook.client_config)
                .collect()
        })
    });
    let validator = validating.get_opt(VALIDATOR).await.map(|found| {
        let found = found.map(|found| found.webhooks.unwrap_or_default());
        found.map(|webhooks| {
            webhooks
                .into_iter()
                .map(|webhook| webhook.client_config)
                .collect()
        })
    });
    let mut findings = Vec::new();
    for (name, found) in [(INJECTOR, injector), (VALIDATOR, validator)] {
        let found: Result<Option<Vec<WebhookClientConfig>>, kube::Error> = found;
        findings.push(match found {
            Ok(found) => configuration(name, found.as_deref(), authorities),
            Err(error) => Finding::unknown(CONFIGURATION, cluster.failed(error)),
        });
    }
    let namespace = match namespaces(cluster).await {
        Ok(namespaces) => namespaces.meshed().next().map(str::to_owned),
        Err(_) => None,
    };
    let namespace = namespace.unwrap_or_else(|| "default".to_owned());
    findings.push(injector_answers(cluster, &namespace).await);
    findings.push(validator_answers(cluster, &namespace).await);
    findings
}

fn configuration(
    name: &str,
    found: Option<&[WebhookClientConfig]>,
    authorities: &[CertificateDer<'static>],
) -> Finding {
    let Some(webhooks) = found.filter(|webhooks| !webhooks.is_empty()) else {
        return Finding::error(
            CONFIGURATION,
            format_args!("there is no {name}: {}", without(name)),
            "apply again what `outrider install` prints with the options that it was installed with (with helm: \
             helm upgrade)",
        );
    };
    let trusted: BTreeSet<&[u8]> = authorities.iter().map(AsRef::as_ref).collect();
    for webhook in webhooks {
        let problem = match &webhook.ca_bundle {
            None => Some("has no caBundle yet".to_owned()),
            Some(ByteString(pem)) => match authorities::certificates(pem) {
                Err(error) => Some(format!("has a caBundle that cannot be read ({error})")),
                Ok(bundle) if trusted.is_empty() => {
                    // The trust bundle could not be read, which is a finding of its own.
                    drop(bundle);
                    None
                }
                Ok(bundle) => {
                    let known = bundle.iter().any(|one| trusted.contains(one.as_ref()));
                    (!known).then(|| "has a caBundle that is not the mesh's authority".to_owned())
                }
            },
        };
        if let Some(problem) = problem {
            return Finding::error(
                CONFIGURATION,
                format_args!("{name} {problem}: the API server does not trust the webhook"),
                "the leader among the control planes writes it: kubectl -n outrider-system logs \
                 deployment/outrider-control-plane",
            );
        }
    }
    Finding::ok(
        CONFIGURATION,
        format_args!("{name} trusts the mesh's authority"),
    )
}

fn without(name: &str) -> &'static str {
    match name {
        INJECTOR => "no pod gets a sidecar",
        _ => "mistakes in policy are found only once they are applied",
    }
}

/// A pod that asks for a sidecar gets one.
async fn injector_answers(cluster: &Cluster, namespace: &str) -> Finding {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
    let pod: Result<Pod, _> = serde_json::from_value(json!({
        "metadata": {"name": PROBE, "labels": {INJECT: "true"}},
        "spec": {"containers": [{"name": "app", "image": "outrider-check.invalid/none"}]},
    }));
    let pod = match pod {
        Ok(pod) => pod,
        Err(error) => return Finding::unknown(ANSWERS, error),
    };
    match pods.create(&dry_run(), &pod).await {
        Ok(made) if has_sidecar(&made) => Finding::ok(
            ANSWERS,
            format_args!("a pod in {namespace} would get its sidecar"),
        ),
        Ok(_) => Finding::error(
            ANSWERS,
            format_args!("a pod in {namespace} with the label {INJECT}=true would get no sidecar"),
            format_args!(
                "see that {INJECTOR} is as `outrider install` prints it, and that the namespace is not labelled {INJECT}=disabled"
            ),
        ),
        Err(error) => refused("injector", &cluster.failed(error)),
    }
}

/// A policy with a field that there is not is refused, by nobody else: its kind takes every field.
async fn validator_answers(cluster: &Cluster, namespace: &str) -> Finding {
    let kind = GroupVersionKind::gvk("outrider.mesh", "v1alpha1", "AuthorizationPolicy");
    let resource = ApiResource::from_gvk_with_plural(&kind, "authorizationpolicies");
    let policies: Api<DynamicObject> =
        Api::namespaced_with(cluster.client.clone(), namespace, &resource);
    let mut policy = DynamicObject::new(PROBE, &resource);
    policy.data = self::policy();
    match policies.create(&dry_run(), &policy).await {
        Ok(_) => Finding::error(
            ANSWERS,
            format_args!("a policy in {namespace} that means nothing would be stored"),
            format_args!("see that {VALIDATOR} is as `outrider install` prints it"),
        ),
        Err(error) => refused("validator", &cluster.failed(error)),
    }
}

/// It is about a Service that does not exist, in case it were kept after all.
fn policy() -> Value {
    let target = json!({"group": "", "kind": "Service", "name": PROBE});
    json!({"spec": {"targetRefs": [target], "rules": [], "isNoField": true}})
}

/// What it means that a dry run was refused.
fn refused(which: &str, error: &ClusterError) -> Finding {
    let message = error.to_string();
    match error {
        ClusterError::Forbidden(_) => Finding::unknown(ANSWERS, message),
        _ if message.contains("denied the request") => {
            Finding::ok(ANSWERS, format_args!("the {which} answers"))
        }
        _ if message.contains("failed calling webhook") => Finding::error(
            ANSWERS,
            format_args!("the API server gets no answer from the {which}: {message}"),
            "see that the Service outrider-system/outrider-control-plane has endpoints, that nothing between API server \
             and pods keeps port 15017 closed, and that the clocks agree; until then nothing that it is asked about is admitted",
        ),
        _ => Finding::warning(
            ANSWERS,
            format_args!("a dry run for the {which} was refused: {message}"),
            "see whether such an object may be made there at all (quota, Pod Security, another webhook)",
        ),
    }
}

fn has_sidecar(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else {
        return false;
    };
    let native = spec.init_containers.iter().flatten();
    let mut all = native.chain(&spec.containers);
    all.any(|container| container.name == SIDECAR)
}

fn dry_run() -> PostParams {
    PostParams {
        dry_run: true,
        ..PostParams::default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use outrider_certs::authority::CertificateAuthority;

    use super::super::finding::Level;
    use super::*;

    fn bundle() -> String {
        let folder = tempfile::tempdir().unwrap();
        let domain = "cluster.local".parse().unwrap();
        let now = SystemTime::now();
        let authority = CertificateAuthority::load_or_create(folder.path(), &domain, now).unwrap();
        authority.trust_bundle().to_pem()
    }

    #[test]
    fn the_ca_bundle_must_be_the_authority() {
        let (ours, other) = (bundle(), bundle());
        let trusted = authorities::certificates(ours.as_bytes()).unwrap();
        let level = |ca_bundle: Option<&str>| {
            let webhook = WebhookClientConfig {
                ca_bundle: ca_bundle.map(|pem| ByteString(pem.as_bytes().to_vec())),
                ..WebhookClientConfig::default()
            };
            configuration(INJECTOR, Some(&[webhook]), &trusted).level
        };
        assert_eq!(level(Some(&ours)), Level::Ok);
        assert_eq!(level(Some(&format!("{other}{ours}"))), Level::Ok);
        assert_eq!(level(Some(&other)), Level::Error);
        assert_eq!(level(Some("nonsense")), Level::Error);
        assert_eq!(level(None), Level::Error);
        assert_eq!(configuration(INJECTOR, None, &trusted).level, Level::Error);
    }

    #[test]
    fn a_webhook_that_refuses_answers() {
        let of = |message: &str| {
            let error = ClusterError::Answer {
                server: "https://a".to_owned(),
                code: 500,
                message: message.to_owned(),
            };
            refused("validator", &error).level
        };
        assert_eq!(
            of("admission webhook \"x\" denied the request: no such Service"),
            Level::Ok
        );
        assert_eq!(
            of("Internal error occurred: failed calling webhook \"x\": connection refused"),
            Level::Error
        );
        assert_eq!(of("exceeded quota"), Level::Warning);
    }
}
