//! Events of pods that were not given a sidecar, so that their authors find out without having read the
//! warning. A pod that is about to be created has no name yet, mostly: the event is its controller's.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::mutate;
use super::review::Request;
use crate::inject::Left;

/// Who says so.
const CONTROLLER: &str = "outrider-injector";
const REASON: &str = "SidecarNotInjected";
const ACTION: &str = "Inject";
/// Events that wait to be written; with more, the rest is only logged.
const QUEUE: usize = 64;
/// The same is not said again for so long.
const AGAIN: Duration = Duration::from_secs(600);
/// So many are remembered to have been told.
const TOLD_MAX: usize = 1024;
/// A pod without a controller is there soon after it was asked about, or not at all.
const LOOKS: u32 = 10;
const LOOK: Duration = Duration::from_millis(200);

/// About what an event is.
#[derive(Clone, Debug, PartialEq)]
struct Subject {
    reference: ObjectReference,
    /// Not known yet.
    without_uid: bool,
}

/// Where events are handed in; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Events(mpsc::Sender<(Subject, Left)>);

impl Events {
    /// With what writes them.
    pub(super) fn new() -> (Self, Writer) {
        let (sender, waiting) = mpsc::channel(QUEUE);
        (Self(sender), Writer { waiting })
    }

    /// Has it told, if somebody can be told.
    pub(super) fn tell(&self, request: &Request, left: Left) {
        if request.dry_run == Some(true) {
            return;
        }
        if let Some(subject) = subject(request) {
            // Whoever asks for more than can be written has had the warning.
            let _ = self.0.try_send((subject, left));
        }
    }
}

/// Writes events, one after the other.
pub(super) struct Writer {
    waiting: mpsc::Receiver<(Subject, Left)>,
}

impl Writer {
    pub(super) async fn run(mut self, client: Client, instance: Option<String>) {
        let reporter = Reporter {
            controller: CONTROLLER.to_owned(),
            instance,
        };
        let recorder = Recorder::new(client.clone(), reporter);
        let mut told = Told::default();
        while let Some((subject, left)) = self.waiting.recv().await {
            let Some(note) = left.warning() else {
                continue;
            };
            let Some(reference) = found(&client, subject).await else {
                continue;
            };
            if !told.is_new(&reference, Instant::now()) {
                continue;
            }
            let event = Event {
                type_: EventType::Warning,
                reason: REASON.to_owned(),
                note: Some(note.to_owned()),
                action: ACTION.to_owned(),
                secondary: None,
            };
            if let Err(error) = recorder.publish(&event, &reference).await {
                tracing::warn!(%error, "an event was not written");
            }
        }
    }
}

fn subject(request: &Request) -> Option<Subject> {
    let namespace = Some(request.namespace.clone());
    if let Some(owner) = mutate::controller(&request.object) {
        let text = |field: &str| owner.get(field)?.as_str().map(ToOwned::to_owned);
        let reference = ObjectReference {
            api_version: text("apiVersion"),
            kind: text("kind"),
            name: text("name"),
            uid: text("uid"),
            namespace,
            ..ObjectReference::default()
        };
        return Some(Subject {
            reference,
            without_uid: false,
        });
    }
    let name = request.object.pointer("/metadata/name");
    let name = name
        .and_then(Value::as_str)
        .filter(|name| !name.is_empty())?;
    let reference = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: Some(name.to_owned()),
        namespace,
        ..ObjectReference::default()
    };
    Some(Subject {
        reference,
        without_uid: true,
    })
}

/// `kubectl describe` looks for events by the UID, which a pod gets when it is created.
async fn found(client: &Client, subject: Subject) -> Option<ObjectReference> {
    let Subject {
        mut reference,
        without_uid,
    } = subject;
    if !without_uid {
        return Some(reference);
    }
    let pods: Api<Pod> = Api::namespaced(client.clone(), reference.namespace.as_deref()?);
    for _ in 0..LOOKS {
        if let Ok(Some(pod)) = pods.get_opt(reference.name.as_deref()?).await {
            reference.uid = pod.metadata.uid;
            return Some(reference);
        }
        sleep(LOOK).await;
    }
    None
}

/// Who has been told, and when.
#[derive(Default)]
struct Told(HashMap<(Option<String>, Option<String>), Instant>);

impl Told {
    fn is_new(&mut self, reference: &ObjectReference, now: Instant) -> bool {
        self.0
            .retain(|_, told| now.saturating_duration_since(*told) < AGAIN);
        let key = (reference.namespace.clone(), reference.uid.clone());
        let new = !self.0.contains_key(&key) && self.0.len() < TOLD_MAX;
        if new {
            self.0.insert(key, now);
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request(metadata: Value) -> Request {
        let request = json!({
            "uid": "u-1",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "namespace": "shop",
            "operation": "CREATE",
            "object": {"metadata": metadata},
        });
        serde_json::from_value(request).unwrap()
    }

    #[test]
    fn the_controller_is_told_or_else_the_pod() {
        let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "order", "uid": "7", "controller": true});
        let of_owner = subject(&request(
            json!({"generateName": "order-", "ownerReferences": [owner]}),
        ))
        .unwrap();
        assert_eq!(of_owner.reference.kind.as_deref(), Some("ReplicaSet"));
        assert_eq!(of_owner.reference.uid.as_deref(), Some("7"));
        assert_eq!(of_owner.reference.namespace.as_deref(), Some("shop"));
        let of_pod = subject(&request(json!({"name": "order"}))).unwrap();
        assert!(of_pod.without_uid);
        assert_eq!(of_pod.reference.name.as_deref(), Some("order"));
        assert_eq!(subject(&request(json!({"generateName": "order-"}))), None);
    }

    #[test]
    fn nobody_is_told_twice_within_ten_minutes() {
        let mut told = Told::default();
        let now = Instant::now();
        let of = |uid: &str| ObjectReference {
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        };
        assert!(told.is_new(&of("1"), now));
        assert!(!told.is_new(&of("1"), now + AGAIN / 2));
        assert!(told.is_new(&of("2"), now));
        assert!(told.is_new(&of("1"), now + AGAIN));
    }

    #[test]
    fn a_flood_is_not_remembered_whole() {
        let mut told = Told::default();
        let now = Instant::now();
        let new = (0..2 * TOLD_MAX).filter(|index| {
            let reference = ObjectReference {
                uid: Some(index.to_string()),
                ..ObjectReference::default()
            };
            told.is_new(&reference, now)
        });
        assert_eq!(new.count(), TOLD_MAX);
    }

    #[tokio::test]
    async fn a_dry_run_has_no_effect() {
        let (events, mut writer) = Events::new();
        let mut dry = request(json!({"name": "order"}));
        dry.dry_run = Some(true);
        events.tell(&dry, Left::HostNetwork);
        assert!(writer.waiting.try_recv().is_err());
        events.tell(&request(json!({"name": "order"})), Left::HostNetwork);
        assert!(writer.waiting.try_recv().is_ok());
    }
}
