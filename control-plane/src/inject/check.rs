//! What keeps a pod from having a sidecar, and what its author should know.

use std::time::Duration;

use outrider_api::annotations::{Annotations, SidecarKind};
use outrider_api::duration;
use outrider_api::sidecar::{
    ADMIN_PORT, INBOUND_PORT, MESH_PORT, OUTBOUND_PORT, TELEMETRY_PORT, UID, withdrawal_limit,
};

use super::INIT_CONTAINER;
use super::container::VOLUMES;
use super::pod::{Container, Spec};

/// No app has them.
pub(super) const OWN_PORTS: [u16; 5] = [
    ADMIN_PORT,
    OUTBOUND_PORT,
    INBOUND_PORT,
    MESH_PORT,
    TELEMETRY_PORT,
];
/// Of pods that say nothing.
const GRACE: i64 = 30;
/// Of a mesh that says nothing.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// What a pod and a sidecar cannot both have. Displays the field and the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    #[error(
        "container {container} runs as user {UID}, the sidecar's own, whose connections pass the \
         sidecar; expected another runAsUser"
    )]
    User { container: String },
    #[error(
        "container {container} listens on port {port}, which is the sidecar's; expected another \
         containerPort"
    )]
    Port { container: String, port: i64 },
    #[error("a container is named {INIT_CONTAINER} already; expected another name")]
    Container,
    #[error("a volume is named {0}, which is the sidecar's; expected another name")]
    Volume(&'static str),
}

pub(super) fn conflicts(spec: &Spec) -> Vec<Conflict> {
    let mut conflicts = Vec::new();
    for container in spec.all_containers() {
        let name = || container.name.clone();
        if spec.user(container) == Some(UID.into()) {
            conflicts.push(Conflict::User { container: name() });
        }
        for port in &container.ports {
            let tcp = port.protocol.as_deref().is_none_or(|it| it == "TCP");
            let own = OWN_PORTS
                .iter()
                .any(|own| i64::from(*own) == port.container_port);
            if tcp && own {
                let (container, port) = (name(), port.container_port);
                conflicts.push(Conflict::Port { container, port });
            }
        }
    }
    if spec.has_container(INIT_CONTAINER) {
        conflicts.push(Conflict::Container);
    }
    let taken = |name: &&'static str| spec.volumes.iter().any(|volume| volume.name == *name);
    conflicts.extend(VOLUMES.into_iter().filter(taken).map(Conflict::Volume));
    conflicts
}

pub(super) fn warnings(spec: &Spec, annotations: &Annotations, kind: SidecarKind) -> Vec<String> {
    let mut warnings = Vec::new();
    warnings.extend(grace(spec, annotations));
    for container in spec.all_containers().filter(|it| may_change_rules(it)) {
        warnings.push(format!(
            "container {} may change the rules of interception (privileged, or with NET_ADMIN), and \
             so pass the sidecar",
            container.name
        ));
    }
    if kind == SidecarKind::Classic {
        warnings.extend(before_classic(spec));
        warnings.extend(job_of_classic(spec));
    }
    warnings
}

/// What a sidecar needs is not there.
fn grace(spec: &Spec, annotations: &Annotations) -> Option<String> {
    let drain = annotations.drain_timeout.unwrap_or(DRAIN_TIMEOUT);
    let needed = drain + withdrawal_limit(drain);
    let grace = spec.termination_grace_period_seconds.unwrap_or(GRACE);
    let has = Duration::from_secs(u64::try_from(grace).unwrap_or_default());
    (has < needed).then(|| {
        format!(
            "terminationGracePeriodSeconds is {grace}, and the sidecar may take {} to drain: what is \
             open then is cut; expected more, or a shorter annotation outrider.mesh/drain-timeout",
            duration::format(needed)
        )
    })
}

fn may_change_rules(container: &Container) -> bool {
    let context = &container.security_context;
    let mut added = context.capabilities.add.iter();
    let powerful = |name: &String| {
        let name = name.to_ascii_uppercase();
        ["ALL", "NET_ADMIN", "CAP_NET_ADMIN"].contains(&name.as_str())
    };
    context.privileged || added.any(powerful)
}

fn before_classic(spec: &Spec) -> Option<String> {
    let names: Vec<&str> = spec
        .init_containers
        .iter()
        .map(|it| it.name.as_str())
        .collect();
    (!names.is_empty()).then(|| {
        format!(
            "init containers run before a classic sidecar, and so past the mesh: {}",
            names.join(", ")
        )
    })
}

fn job_of_classic(spec: &Spec) -> Option<String> {
    (ends(spec) && ends_with(spec).is_none()).then(|| {
        "the classic sidecar cannot know when this pod is done, and keeps it from ending; expected \
         restartPolicy Never, and neither hostPID nor shareProcessNamespace: false"
            .to_owned()
    })
}

fn ends(spec: &Spec) -> bool {
    spec.restart_policy
        .as_deref()
        .is_some_and(|policy| policy != "Always")
}

/// Of a pod that ends by itself: how many of its containers have to end. `None`: it does not end, or
/// a classic sidecar cannot see that it has. With `OnFailure` a container that is gone may come back.
pub(super) fn ends_with(spec: &Spec) -> Option<usize> {
    let visible = spec.share_process_namespace != Some(false) && !spec.host_pid;
    let never = spec.restart_policy.as_deref() == Some("Never");
    (never && visible).then_some(spec.containers.len())
}
