//! Discovery by address over real mTLS: what is at it, and when that changes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is not as expected"
)]

mod harness;

use harness::sidecar::{Sidecar, about, address_ref, service};
use harness::{Mesh, SHOP};
use outrider_api::proto::discovery_request::Kind;
use outrider_api::proto::discovery_response::Resource;
use outrider_api::proto::{Ack, DiscoveryRequest};
use outrider_api::sidecar::SUBSCRIPTIONS_MAX;
use tonic::Code;

/// SHOP, where billing has a cluster IP.
fn shop() -> String {
    SHOP.replace(
        "{selector: {app: billing}",
        "{clusterIP: 10.1.0.1, selector: {app: billing}",
    )
}

#[tokio::test]
async fn an_address_is_a_service_an_instance_or_unknown_and_what_it_becomes() {
    let mesh = Mesh::start(&[("shop.yaml", &shop())]).await;
    mesh.ready().await;
    let mut order = mesh.order().await;
    order.take().await;
    for (address, expected) in [
        ("10.1.0.1", "10.1.0.1 is service billing"),
        ("10.0.0.1", "10.0.0.1 is an instance of billing with 1"),
        ("10.0.0.9", "10.0.0.9 is unknown"),
        ("fd00::9", "fd00::9 is unknown"),
        ("127.0.0.1", "127.0.0.1 is unknown"),
    ] {
        order.resolve(address).await;
        assert_eq!(about(&order.take().await), expected);
    }

    // One moves, and one is left by it; the Service is where it was.
    let moved = shop().replace("address: 10.0.0.1", "address: 10.0.0.9");
    mesh.write("shop.yaml", &moved);
    let mut changes = [about(&order.take().await), about(&order.take().await)];
    changes.sort();
    let expected = [
        "10.0.0.1 is unknown",
        "10.0.0.9 is an instance of billing with 1",
    ];
    assert_eq!(changes, expected);

    // What is forgotten is not told again; twice is once.
    order.forget("10.0.0.9").await;
    order.forget("10.0.0.9").await;
    order.resolve("10.0.0.1").await;
    order.resolve("10.0.0.1").await;
    mesh.write("shop.yaml", &shop());
    let back = order.take().await;
    assert_eq!(about(&back), "10.0.0.1 is an instance of billing with 1");
    let Some(Resource::Address(address)) = back.resource else {
        panic!("{back:?}");
    };
    assert!(outrider_api::model::address::Address::try_from(address).is_ok());
    let acknowledged = "acknowledged_version{namespace=\"shop\",workload=\"order-1\"}";
    mesh.metric_becomes(acknowledged, back.version as f64).await;
}

#[tokio::test]
async fn only_what_the_address_leads_to_is_sent_again() {
    let mesh = Mesh::start(&[("shop.yaml", &shop())]).await;
    mesh.ready().await;
    let mut order = mesh.order().await;
    order.take().await;
    order.resolve("10.1.0.1").await;
    order.take().await;
    order.subscribe("billing").await;
    order.take().await;
    // The Service changes, but not where it is.
    mesh.write("billing-2.yaml", harness::BILLING_2);
    assert_eq!(about(&order.take().await), "destination billing with 2");
    order.resolve("10.0.0.3").await;
    let next = about(&order.take().await);
    assert_eq!(next, "10.0.0.3 is an instance of billing with 1");
}

#[tokio::test]
async fn an_address_that_is_none_ends_the_stream() {
    let mesh = Mesh::shop().await;
    let svid = mesh.svid("order").await;
    let wrong = [
        Kind::Resolve(address_ref("billing")),
        Kind::Resolve(address_ref("10.0.0.1:80")),
        Kind::Resolve(address_ref("")),
        // Would be answered as another than it was asked for.
        Kind::Resolve(address_ref("::ffff:10.0.0.1")),
        Kind::Forget(address_ref("10.0.0.0/8")),
        Kind::Ack(Ack {
            destination: Some(service("billing")),
            address: Some(address_ref("10.0.0.1")),
            version: 1,
        }),
    ];
    for kind in wrong {
        let mut order = Sidecar::connect(mesh.channel(Some(&svid))).await.unwrap();
        order.hello("order-1").await;
        order.next().await;
        order.send(Some(kind.clone())).await;
        assert_eq!(order.end().await.code(), Code::InvalidArgument, "{kind:?}");
    }
}

#[tokio::test]
async fn addresses_are_capped() {
    let mesh = Mesh::shop().await;
    let mut order = mesh.order().await;
    let requests = order.requests.clone();
    tokio::spawn(async move {
        for number in 0..=SUBSCRIPTIONS_MAX {
            let [_, _, high, low] = u32::try_from(number).unwrap().to_be_bytes();
            let kind = Some(Kind::Resolve(address_ref(&format!("192.168.{high}.{low}"))));
            if requests.send(DiscoveryRequest { kind }).await.is_err() {
                return;
            }
        }
    });
    assert_eq!(order.end().await.code(), Code::ResourceExhausted);
}
