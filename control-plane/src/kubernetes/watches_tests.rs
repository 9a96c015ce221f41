use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context as Polled, Poll};

use futures_util::stream;
use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tower_service::Service;

use super::*;
use crate::kubernetes::objects::ObjectId;
use crate::metrics::Metrics;

/// What an API server answers to a path, the first time and again.
type Answer = fn(&str, usize) -> (u16, Value);

/// Answers, and keeps what it was asked.
#[derive(Clone)]
struct ApiServer {
    answer: Answer,
    asked: Arc<Mutex<Vec<String>>>,
}

impl ApiServer {
    fn new(answer: Answer) -> Self {
        Self {
            answer,
            asked: Arc::default(),
        }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Service<Request<Body>> for ApiServer {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Polled<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path().to_owned();
        let mut asked = self.asked.lock().unwrap();
        let before = asked.iter().filter(|earlier| **earlier == path).count();
        let (status, answer) = (self.answer)(&path, before);
        asked.push(path);
        let response = Response::builder().status(status);
        ready(Ok(response
            .body(Body::from(answer.to_string().into_bytes()))
            .unwrap()))
    }
}

const DEFINITION: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/\
                          authorizationpolicies.outrider.mesh";
const NAMESPACES: &str = "/api/v1/namespaces";

fn metadata(kind: &str, metadata: &Value) -> Value {
    json!({"apiVersion": "meta.k8s.io/v1", "kind": kind, "metadata": metadata})
}

fn namespace(name: &str, is_ending: bool) -> Value {
    let deleted = is_ending.then_some("2026-11-27T08:00:00Z");
    let it = json!({"name": name, "uid": format!("uid-of-{name}"), "deletionTimestamp": deleted});
    metadata("PartialObjectMetadata", &it)
}

/// The namespace `old` is being deleted, `shop` is not, and others are gone.
fn answer(path: &str, _: usize) -> (u16, Value) {
    if path == DEFINITION {
        let it = json!({"name": "authorizationpolicies.outrider.mesh"});
        return (200, metadata("PartialObjectMetadata", &it));
    }
    if path == NAMESPACES {
        let items = [namespace("old", true), namespace("shop", false)];
        let mut list = metadata("PartialObjectMetadataList", &json!({}));
        list["items"] = json!(items);
        return (200, list);
    }
    match path.strip_prefix("/api/v1/namespaces/") {
        Some("old") => (200, namespace("old", true)),
        Some("shop") => (200, namespace("shop", false)),
        _ => failure(404),
    }
}

fn failure(code: u16) -> (u16, Value) {
    let reason = if code == 404 {
        "NotFound"
    } else {
        "InternalError"
    };
    let status = json!({"apiVersion": "v1", "kind": "Status", "status": "Failure",
                        "message": "no", "reason": reason, "code": code});
    (code, status)
}

fn policy(namespace: &str, name: &str) -> DynamicObject {
    let object = json!({"metadata": {"namespace": namespace, "name": name, "uid": name}});
    serde_json::from_value(object).unwrap()
}

fn delete(namespace: &str, name: &str) -> Event<DynamicObject> {
    Event::Delete(policy(namespace, name))
}

/// What the watch of policies makes of these events.
async fn updates(server: &ApiServer, events: Vec<Event<DynamicObject>>) -> Vec<Update> {
    let (sender, mut receiver) = mpsc::channel(QUEUE * 4);
    let watch = Watch {
        kind: Kind::AuthorizationPolicy,
        context: Context {
            client: Client::new(server.clone(), "default"),
            namespace: "outrider-system".to_owned(),
            trust_domain: None,
            metrics: Metrics::new().unwrap(),
        },
        updates: sender,
        warned: Mutex::default(),
    };
    let events = stream::iter(events.into_iter().map(Ok));
    watch.follow(events, |_| None).await;
    drop(watch);
    let mut updates = Vec::new();
    while let Some(update) = receiver.recv().await {
        updates.push(update);
    }
    updates
}

/// As `Ending/old` and `Delete/old/deny`.
fn shown(updates: &[Update]) -> Vec<String> {
    let shown = |update: &Update| match update {
        Update::Ending(ending) => {
            assert_eq!(ending.uid, Some(format!("uid-of-{}", ending.name)));
            format!("Ending/{}", ending.name)
        }
        Update::Delete(ObjectId {
            namespace, name, ..
        }) => format!("Delete/{namespace}/{name}"),
        Update::Synced(_) => "Synced".to_owned(),
        Update::Restart(_) | Update::Apply(..) => "else".to_owned(),
    };
    updates.iter().map(shown).collect()
}

#[tokio::test]
async fn a_policy_that_is_deleted_with_its_namespace_is_said_to_be() {
    let server = ApiServer::new(answer);
    let events = vec![
        delete("old", "deny"),
        delete("shop", "deny"),
        delete("gone", "deny"),
    ];
    let updates = updates(&server, events).await;
    let expected = [
        "Ending/old",
        "Delete/old/deny",
        "Delete/shop/deny",
        "Delete/gone/deny",
    ];
    assert_eq!(shown(&updates), expected);
}

#[tokio::test]
async fn a_list_that_may_lack_policies_asks_of_all_namespaces() {
    let server = ApiServer::new(answer);
    let updates = updates(&server, vec![Event::InitDone]).await;
    assert_eq!(shown(&updates), ["Ending/old", "Synced"]);
    assert_eq!(server.asked(), [DEFINITION, NAMESPACES]);
}

#[tokio::test(start_paused = true)]
async fn until_it_is_known_of_the_namespace_no_deletion_counts() {
    // As an API server that is not well.
    let server = ApiServer::new(|path, before| match path {
        "/api/v1/namespaces/old" if before < 3 => failure(500),
        _ => answer(path, before),
    });
    let updates = updates(&server, vec![delete("old", "deny")]).await;
    assert_eq!(shown(&updates), ["Ending/old", "Delete/old/deny"]);
    let of_namespace = |path: &&String| path.ends_with("/old");
    assert_eq!(server.asked().iter().filter(of_namespace).count(), 4);
}

#[tokio::test]
async fn deletions_that_come_together_cost_one_question() {
    let server = ApiServer::new(answer);
    let events = (0..1_000).map(|index| delete("old", &format!("deny-{index}")));
    let updates = updates(&server, events.collect()).await;
    let deleted = |update: &&Update| matches!(update, Update::Delete(_));
    assert_eq!(updates.iter().filter(deleted).count(), 1_000);
    assert_eq!(server.asked().len(), 2 * 1_000_usize.div_ceil(TOGETHER));
}
