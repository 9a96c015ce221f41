use serde_json::{Value, json};

use super::*;
use crate::metrics::Metrics;

/// What has to be known for the webhooks to answer.
struct Known {
    sidecars: watch::Sender<Option<SidecarKind>>,
    standing: watch::Sender<Option<Arc<Standing>>>,
}

/// With everything known.
pub(super) fn webhooks() -> Webhooks {
    let (webhooks, known) = unknowing();
    known.sidecars.send_replace(Some(SidecarKind::Native));
    known.standing.send_replace(Some(Arc::default()));
    webhooks
}

/// With nothing known yet.
fn unknowing() -> (Webhooks, Known) {
    let known = Known {
        sidecars: watch::Sender::new(None),
        standing: watch::Sender::new(None),
    };
    let webhooks = Webhooks(Arc::new(Shared {
        settings: Settings {
            image: Settings::default_image(None),
            image_pull_policy: None,
            control_plane: Settings::default_control_plane("outrider-system"),
            trust_domain: "shop.example".parse().unwrap(),
            namespace: "outrider-system".to_owned(),
            sidecar: SidecarKind::Native,
        },
        sidecars: known.sidecars.subscribe(),
        standing: known.standing.subscribe(),
        authority: watch::channel(None).1,
        events: Events::new().0,
        judges: Arc::new(Semaphore::new(JUDGES)),
        metrics: Metrics::new().unwrap().webhook,
    }));
    (webhooks, known)
}

pub(super) fn review(kind: &Value, object: &Value) -> Vec<u8> {
    let review = json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {"uid": "u-1", "kind": kind, "namespace": "shop", "name": "order",
                    "operation": "CREATE", "object": object},
    });
    serde_json::to_vec(&review).unwrap()
}

async fn answer(webhooks: &Webhooks, path: &str, body: &[u8]) -> Result<Value, WebhookError> {
    let answer = webhooks.review(path, body, &Share::new()).await?;
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    Ok(answer["response"].clone())
}

#[tokio::test(start_paused = true)]
async fn no_pod_gets_a_sidecar_of_which_the_kind_is_a_guess() {
    let kind = json!({"group": "", "version": "v1", "kind": "Pod"});
    let pod = json!({"metadata": {}, "spec": {"containers": [{"name": "order"}]}});
    let body = review(&kind, &pod);
    let (webhooks, known) = unknowing();
    let error = answer(&webhooks, "/inject", &body).await.unwrap_err();
    assert!(matches!(error, WebhookError::Sidecars), "{error}");

    let mut patches = Vec::new();
    for kind in [SidecarKind::Classic, SidecarKind::Native] {
        known.sidecars.send_replace(Some(kind));
        let answer = answer(&webhooks, "/inject", &body).await.unwrap();
        assert_eq!(answer["allowed"], true);
        patches.push(answer["patch"].clone());
    }
    assert_ne!(patches[0], patches[1]);
}

#[tokio::test]
async fn who_writes_a_workload_is_told_that_it_is_not_read() {
    let kind = json!({"group": "outrider.mesh", "version": "v1alpha1", "kind": "Workload"});
    let workload = |spec: &Value| {
        let object = json!({
            "apiVersion": "outrider.mesh/v1alpha1", "kind": "Workload",
            "metadata": {"name": "order", "namespace": "shop"}, "spec": spec,
        });
        review(&kind, &object)
    };
    let webhooks = webhooks();
    let good = json!({"serviceAccount": "order", "address": "10.0.0.1"});
    let good = answer(&webhooks, "/validate", &workload(&good))
        .await
        .unwrap();
    assert_eq!(good["allowed"], true, "{good}");
    let warnings = good["warnings"].as_array().unwrap();
    assert!(warnings.contains(&json!(NOT_READ)), "{warnings:?}");

    let bad = answer(&webhooks, "/validate", &workload(&json!({"x": 1})))
        .await
        .unwrap();
    assert_eq!(bad["allowed"], false);
    assert!(bad["warnings"].is_null(), "{bad}");
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_a_thousand_judges_does_not_keep_others_from_theirs() {
    let webhooks = webhooks();
    let (crowd, other) = (Share::new(), Share::new());
    let mut held = Vec::new();
    for _ in 0..JUDGES {
        held.push(webhooks.judge(&crowd).await.unwrap());
    }
    let mut waiting: Vec<_> = (0..1_000)
        .map(|_| {
            let (webhooks, crowd) = (webhooks.clone(), Arc::clone(&crowd));
            tokio::spawn(async move { webhooks.judge(&crowd).await.unwrap() })
        })
        .collect();
    tokio::task::yield_now().await;
    let turn = webhooks.judge(&other);
    tokio::pin!(turn);
    assert!(timeout(Duration::ZERO, turn.as_mut()).await.is_err());
    // It is next: of the crowd no more may wait than have a judge.
    held.pop();
    let _turn = timeout(Duration::ZERO, turn).await.unwrap().unwrap();
    for waiting in waiting.drain(..) {
        waiting.abort();
    }

    // Nobody waits for ever.
    let kind = json!({"group": "outrider.mesh", "version": "v1alpha1", "kind": "MeshConfig"});
    let body = review(&kind, &json!({"spec": {}}));
    let error = answer(&webhooks, "/validate", &body).await.unwrap_err();
    assert!(matches!(error, WebhookError::Busy), "{error}");
}
