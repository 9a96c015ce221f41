//! Discovery over real mTLS: what a sidecar is told, when, and what becomes of its answers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is not as expected"
)]

mod harness;

use std::time::{Duration, Instant};

use harness::sidecar::{Sidecar, about, service};
use harness::{BILLING_2, Mesh, POLICY, SHOP, eventually};
use outrider_api::proto::Ack;
use outrider_api::proto::discovery_request::Kind;
use outrider_api::proto::discovery_response::Resource;
use outrider_certs::authority::CertificateAuthority;
use outrider_certs::svid::Svid;
use tonic::Code;

/// Issued with the mesh's own authority, past Identity.
fn issue(mesh: &Mesh, account: &str, lifetime: Duration) -> Svid {
    let now = std::time::SystemTime::now();
    CertificateAuthority::load_or_create(&mesh.state(""), &mesh.trust_domain(), now)
        .unwrap()
        .issue_svid(&mesh.id(account), lifetime, now)
        .unwrap()
}

#[tokio::test]
async fn a_sidecar_learns_what_it_uses_and_only_what_changed() {
    let mesh = Mesh::shop().await;
    let mut order = mesh.order().await;
    let own = order.next().await;
    assert_eq!(about(&own), "workload order-1");
    order.ack(&own).await;
    for name in ["billing", "order", "later"] {
        order.subscribe(name).await;
    }
    for expected in [
        "destination billing with 1",
        "destination order with 1",
        "missing later",
    ] {
        let response = order.next().await;
        assert_eq!(about(&response), expected);
        order.ack(&response).await;
    }
    let version = own.version;
    let acknowledged = "acknowledged_version{namespace=\"shop\",workload=\"order-1\"}";
    mesh.metric_becomes(acknowledged, version as f64).await;
    mesh.metric_becomes("connected_sidecars", 1.0).await;

    // An instance more: that destination, and nothing else.
    mesh.write("billing-2.yaml", BILLING_2);
    let start = Instant::now();
    let change = order.next().await;
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "took {:?}",
        start.elapsed()
    );
    assert_eq!(about(&change), "destination billing with 2");
    assert!(change.version > version);
    order.ack(&change).await;

    // A Service that was missing.
    mesh.write("later.yaml", &service_named("later"));
    let appeared = order.next().await;
    assert_eq!(about(&appeared), "destination later with 0");
    order.ack(&appeared).await;
    mesh.metric_becomes(acknowledged, appeared.version as f64)
        .await;
    assert_eq!(mesh.metric("propagation_seconds_count").await, 2.0);
    assert_eq!(
        mesh.metric("resource_version").await,
        appeared.version as f64
    );

    // What is unsubscribed is not sent.
    order.send(Some(Kind::Unsubscribe(service("later")))).await;
    order.subscribe("nothing").await;
    assert_eq!(about(&order.next().await), "missing nothing");
    std::fs::remove_file(mesh.path("later.yaml")).unwrap();
    mesh.metric_becomes("resource_version", (appeared.version + 1) as f64)
        .await;
    mesh.write("nothing.yaml", &service_named("nothing"));
    assert_eq!(about(&order.next().await), "destination nothing with 0");

    drop(order);
    mesh.metric_becomes("connected_sidecars", 0.0).await;
    let (_, metrics) = mesh.get("/metrics").await;
    assert!(!metrics.contains("workload=\"order-1\""), "{metrics}");
}

fn service_named(name: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: shop}}, spec: {{}}}}"
    )
}

#[tokio::test]
async fn a_policy_edit_reaches_its_workload() {
    let mesh = Mesh::shop().await;
    let svid = mesh.svid("billing").await;
    let mut billing = Sidecar::connect(mesh.channel(Some(&svid))).await.unwrap();
    billing.hello("billing-1").await;
    assert_eq!(policies(&billing.next().await), 0);
    mesh.write("policy.yaml", POLICY);
    assert_eq!(policies(&billing.next().await), 1);
    std::fs::remove_file(mesh.path("policy.yaml")).unwrap();
    assert_eq!(policies(&billing.next().await), 0);
}

fn policies(response: &outrider_api::proto::DiscoveryResponse) -> usize {
    match response.resource.as_ref().unwrap() {
        Resource::Workload(workload) => workload.authorization.as_ref().unwrap().policies.len(),
        other => panic!("expected a workload, got {other:?}"),
    }
}

#[tokio::test]
async fn a_rejection_is_counted_and_the_stream_goes_on() {
    let mesh = Mesh::shop().await;
    let mut order = mesh.order().await;
    let own = order.next().await;
    order.nack(&own, "I cannot\nread this").await;
    mesh.metric_becomes("nacks_total", 1.0).await;
    order.subscribe("billing").await;
    assert_eq!(about(&order.next().await), "destination billing with 1");
}

#[tokio::test]
async fn a_bad_edit_keeps_the_last_good_mesh() {
    let mesh = Mesh::shop().await;
    let mut order = mesh.order().await;
    let own = order.next().await;
    order.subscribe("billing").await;
    order.next().await;

    // One good file and one bad: neither is applied.
    mesh.write(
        "policy.yaml",
        &POLICY.replace("name: billing}]", "name: biling}]"),
    );
    mesh.metric_becomes("config_valid", 0.0).await;
    mesh.write("billing-2.yaml", BILLING_2);
    mesh.metric_becomes("config_reloads_total{result=\"refused\"}", 2.0)
        .await;
    assert_eq!(mesh.metric("config_problems").await, 1.0);
    assert_eq!(mesh.metric("resource_version").await, own.version as f64);
    assert_eq!(mesh.get("/ready").await.0, 200);

    mesh.write("policy.yaml", POLICY);
    let change = order.next().await;
    assert_eq!(about(&change), "destination billing with 2");
    mesh.metric_becomes("config_valid", 1.0).await;
    mesh.metric_becomes("config_problems", 0.0).await;
}

#[tokio::test]
async fn a_bad_directory_serves_nothing_until_it_is_good() {
    let mesh = Mesh::start(&[("shop.yaml", "kind: {")]).await;
    mesh.metric_becomes("config_reloads_total{result=\"refused\"}", 1.0)
        .await;
    assert_eq!(mesh.get("/live").await.0, 200);
    let (status, reason) = mesh.get("/ready").await;
    assert_eq!(status, 503);
    assert!(reason.contains("shop.yaml:"), "{reason}");
    assert!(!mesh.state("ca.crt").exists());

    mesh.write("shop.yaml", SHOP);
    mesh.ready().await;
    let mut order = mesh.order().await;
    assert_eq!(about(&order.next().await), "workload order-1");
}

#[tokio::test]
async fn a_restart_keeps_the_authority_and_versions_grow() {
    let mut mesh = Mesh::shop().await;
    let bundle = mesh.bundle();
    let token = mesh.token("order");
    let svid = mesh.svid("order").await;
    let mut order = mesh.order().await;
    let before = order.next().await.version;

    mesh.stop().await;
    assert_eq!(order.end().await.code(), Code::Unavailable);
    mesh.restart().await;

    assert_eq!(mesh.bundle(), bundle);
    let csr = outrider_certs::key::PrivateKey::generate()
        .unwrap()
        .signing_request()
        .unwrap();
    mesh.sign(&format!("Bearer {token}"), csr).await.unwrap();
    // The certificate of before is still good.
    let mut order = Sidecar::connect(mesh.channel(Some(&svid))).await.unwrap();
    order.hello("order-1").await;
    assert!(order.next().await.version > before);
}

#[tokio::test]
async fn a_stream_is_its_own_workloads() {
    let mesh = Mesh::shop().await;
    let anonymous = Sidecar::connect(mesh.channel(None)).await;
    assert_eq!(anonymous.err().unwrap().code(), Code::Unauthenticated);

    let svid = mesh.svid("order").await;
    for (workload, code) in [
        ("billing-1", Code::PermissionDenied),
        ("order-9", Code::NotFound),
        ("", Code::InvalidArgument),
    ] {
        let mut sidecar = Sidecar::connect(mesh.channel(Some(&svid))).await.unwrap();
        sidecar.hello(workload).await;
        assert_eq!(sidecar.end().await.code(), code, "{workload}");
    }
    mesh.metric_becomes("streams_ended_total{reason=\"wrong_identity\"}", 1.0)
        .await;
}

#[tokio::test]
async fn a_certificate_of_another_mesh_does_not_get_in() {
    let mesh = Mesh::shop().await;
    let other = Mesh::shop().await;
    let svid = other.svid("order").await;
    let sidecar = Sidecar::connect(mesh.channel(Some(&svid))).await;
    assert!(sidecar.is_err());
    let refused = "tls_handshakes_total{result=\"unknown_issuer\"}";
    eventually("a refused handshake", async || {
        mesh.metric(refused).await >= 1.0
    })
    .await;
}

#[tokio::test]
async fn a_stream_ends_with_its_certificate() {
    let mesh = Mesh::shop().await;
    let svid = issue(&mesh, "order", Duration::from_secs(3));
    let mut order = Sidecar::connect(mesh.channel(Some(&svid))).await.unwrap();
    order.hello("order-1").await;
    order.next().await;
    assert_eq!(order.end().await.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_workload_that_goes_or_changes_hands_loses_its_stream() {
    let mesh = Mesh::shop().await;
    let mut order = mesh.order().await;
    order.next().await;
    mesh.write(
        "shop.yaml",
        &SHOP.replace("serviceAccount: order", "serviceAccount: other"),
    );
    assert_eq!(order.end().await.code(), Code::PermissionDenied);

    mesh.write("shop.yaml", SHOP);
    mesh.metric_becomes("config_reloads_total{result=\"applied\"}", 3.0)
        .await;
    let mut order = mesh.order().await;
    order.next().await;
    mesh.write("shop.yaml", &SHOP.replace("name: order-1", "name: order-2"));
    assert_eq!(order.end().await.code(), Code::NotFound);
}

#[tokio::test]
async fn messages_out_of_order_end_the_stream() {
    let mesh = Mesh::shop().await;
    let svid = mesh.svid("order").await;
    let ack = |version| {
        Some(Kind::Ack(Ack {
            destination: None,
            address: None,
            version,
        }))
    };
    let mut first = Sidecar::connect(mesh.channel(Some(&svid))).await.unwrap();
    first.send(ack(1)).await;
    assert_eq!(first.end().await.code(), Code::InvalidArgument);

    let wrong = [
        ack(0),
        ack(u64::MAX),
        None,
        Some(Kind::Subscribe(service("NOT A NAME"))),
        Some(Kind::Hello(outrider_api::proto::Hello {
            namespace: "shop".to_owned(),
            workload: "order-1".to_owned(),
            version: String::new(),
            draining: false,
        })),
    ];
    for kind in wrong {
        let mut order = Sidecar::connect(mesh.channel(Some(&svid))).await.unwrap();
        order.hello("order-1").await;
        order.next().await;
        order.send(kind.clone()).await;
        assert_eq!(order.end().await.code(), Code::InvalidArgument, "{kind:?}");
    }
    mesh.metric_becomes("connected_sidecars", 0.0).await;
}

#[tokio::test]
async fn subscriptions_are_capped() {
    let mesh = Mesh::shop().await;
    let mut order = mesh.order().await;
    let requests = order.requests.clone();
    tokio::spawn(async move {
        for number in 0..5000 {
            let kind = Some(Kind::Subscribe(service(&format!("x{number}"))));
            let request = outrider_api::proto::DiscoveryRequest { kind };
            if requests.send(request).await.is_err() {
                return;
            }
        }
    });
    assert_eq!(order.end().await.code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn a_sidecar_that_does_not_read_gets_only_the_newest() {
    let mesh = Mesh::shop().await;
    let svid = mesh.svid("order").await;
    // What fits in the windows is sent; the rest waits in one place.
    let channel = mesh.channel_with(Some(&svid), |endpoint| {
        endpoint
            .initial_stream_window_size(1024)
            .initial_connection_window_size(1024)
    });
    let mut order = Sidecar::connect(channel).await.unwrap();
    order.hello("order-1").await;
    let mut version = order.next().await.version;
    let edits = 30_u16;
    for edit in 0..edits {
        mesh.write(
            "more.yaml",
            &format!(
                "{{apiVersion: v1, kind: Service, metadata: {{name: {}, namespace: shop}}, \
                 spec: {{selector: {{app: order}}, ports: [{{port: {}}}]}}}}",
                "a-service-whose-name-takes-room-in-the-window",
                1000 + edit
            ),
        );
        version += 1;
        mesh.metric_becomes("resource_version", version as f64)
            .await;
    }
    let mut received = 0;
    loop {
        received += 1;
        if order.next().await.version == version {
            break;
        }
    }
    assert!(received < edits / 2, "{received} of {edits} were queued");
}

#[tokio::test]
async fn a_directory_that_does_not_exist_is_an_error_and_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    let mut args = outrider_control_plane::Args::for_directory(&missing);
    args.listen = Some("127.0.0.1:0".parse().unwrap());
    args.admin = args.listen;
    let error = outrider_control_plane::ControlPlane::start(&args).await;
    let error = format!("{:#}", error.err().unwrap());
    assert!(error.contains("missing/.outrider"), "{error}");
    assert!(!missing.exists());
}
