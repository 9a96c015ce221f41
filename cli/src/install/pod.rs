//! The control plane's pod: what runs in it, as whom, with how much, and where.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction,
    LocalObjectReference, ObjectFieldSelector, PodAffinityTerm, PodAntiAffinity,
    PodSecurityContext, PodSpec, Probe, ResourceRequirements, SeccompProfile, SecurityContext,
    TopologySpreadConstraint, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::settings::{
    ADMIN_PORT, Authority, CONTROL_PLANE, GRPC_PORT, Profile, SERVICE_ACCOUNT, Settings,
    WEBHOOK_PORT, selector,
};

/// Nobody in particular; the image has no users.
const USER: i64 = 65532;

pub(super) fn spec(settings: &Settings) -> PodSpec {
    let is_apart = settings.profile == Profile::Ha;
    let secrets: Vec<_> = settings
        .pull_secrets
        .iter()
        .map(|name| LocalObjectReference { name: name.clone() })
        .collect();
    PodSpec {
        affinity: is_apart.then(apart_on_nodes),
        automount_service_account_token: Some(true),
        containers: vec![container(settings)],
        image_pull_secrets: (!secrets.is_empty()).then_some(secrets),
        node_selector: Some(BTreeMap::from([(
            "kubernetes.io/os".to_owned(),
            "linux".to_owned(),
        )])),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                localhost_profile: None,
            }),
            ..PodSecurityContext::default()
        }),
        service_account_name: Some(SERVICE_ACCOUNT.to_owned()),
        termination_grace_period_seconds: Some(30),
        topology_spread_constraints: is_apart.then(|| vec![apart_in_zones()]),
        ..PodSpec::default()
    }
}

fn container(settings: &Settings) -> Container {
    let port = |name: &str, port| ContainerPort {
        name: Some(name.to_owned()),
        container_port: port,
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    Container {
        name: "control-plane".to_owned(),
        image: Some(settings.image(CONTROL_PLANE)),
        image_pull_policy: Some(settings.pull_policy.word().to_owned()),
        args: Some(arguments(settings)),
        env: Some(vec![
            of_pod("POD_NAME", "metadata.name"),
            of_pod("POD_NAMESPACE", "metadata.namespace"),
            // Of as many as there are threads and cores, each keeps what it has freed: 515 MiB rather than
            // 400 in a mesh of 2,000 sidecars, and nothing is slower.
            EnvVar {
                name: "MALLOC_ARENA_MAX".to_owned(),
                value: Some("2".to_owned()),
                value_from: None,
            },
        ]),
        ports: Some(vec![
            port("grpc", GRPC_PORT),
            port("webhook", WEBHOOK_PORT),
            port("metrics", ADMIN_PORT),
        ]),
        // Until it has seen the mesh once: a large one takes its time.
        startup_probe: Some(probe("/ready", 1, 120)),
        readiness_probe: Some(probe("/ready", 5, 2)),
        liveness_probe: Some(probe("/live", 10, 6)),
        resources: Some(resources()),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                add: None,
            }),
            read_only_root_filesystem: Some(true),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

/// Whatever is at its default there is left out, so that what stands here was chosen.
fn arguments(settings: &Settings) -> Vec<String> {
    let mut arguments = vec![
        "--kubernetes".to_owned(),
        "--log-format=json".to_owned(),
        format!("--proxy-image={}", settings.image("outrider-proxy")),
    ];
    if let Some(domain) = &settings.trust_domain {
        arguments.push(format!("--trust-domain={domain}"));
    }
    if let Authority::Elsewhere(secret) = &settings.authority {
        arguments.push(format!("--ca-secret={secret}"));
        arguments.push("--ca-secret-managed-elsewhere".to_owned());
    }
    if settings.translated_addresses {
        arguments.push("--translated-addresses".to_owned());
    }
    arguments
}

fn of_pod(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: None,
                field_path: path.to_owned(),
            }),
            ..EnvVarSource::default()
        }),
    }
}

fn probe(path: &str, period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("metrics".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        failure_threshold: Some(failure_threshold),
        timeout_seconds: Some(5),
        ..Probe::default()
    }
}

/// Memory for 2,000 sidecars and twice as much to spare; no bound on the CPU, since policy that comes
/// late is worse than a neighbour that waits.
fn resources() -> ResourceRequirements {
    let amounts = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter();
        let amounts =
            pairs.map(|(name, amount)| ((*name).to_owned(), Quantity((*amount).to_owned())));
        Some(amounts.collect())
    };
    ResourceRequirements {
        requests: amounts(&[("cpu", "100m"), ("memory", "128Mi")]),
        limits: amounts(&[("memory", "1Gi")]),
        claims: None,
    }
}

/// Where there are enough nodes; fewer hold what there is all the same.
fn apart_on_nodes() -> Affinity {
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![
                WeightedPodAffinityTerm {
                    weight: 100,
                    pod_affinity_term: PodAffinityTerm {
                        label_selector: Some(own_pods()),
                        topology_key: "kubernetes.io/hostname".to_owned(),
                        ..PodAffinityTerm::default()
                    },
                },
            ]),
            required_during_scheduling_ignored_during_execution: None,
        }),
        ..Affinity::default()
    }
}

fn apart_in_zones() -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        label_selector: Some(own_pods()),
        max_skew: 1,
        topology_key: "topology.kubernetes.io/zone".to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        ..TopologySpreadConstraint::default()
    }
}

fn own_pods() -> LabelSelector {
    LabelSelector {
        match_labels: Some(selector()),
        match_expressions: None,
    }
}
