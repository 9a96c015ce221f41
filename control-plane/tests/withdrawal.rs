//! A sidecar that drains: its endpoint goes from everybody who knows it before it hears so.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is not as expected"
)]

mod harness;

use std::sync::atomic::{AtomicUsize, Ordering};

use harness::sidecar::{Sidecar, about, service};
use harness::{BILLING_2, Mesh, SHOP};
use outrider_api::proto::discovery_request::Kind;
use tonic::Code;

/// SHOP with a second caller.
const USER: &str = "
apiVersion: outrider.mesh/v1alpha1
kind: Workload
metadata: {name: user-1, namespace: shop, labels: {app: user}}
spec: {serviceAccount: user, address: 10.0.0.4}
";

async fn shop() -> Mesh {
    let files = [
        ("shop.yaml", SHOP),
        ("user.yaml", USER),
        ("billing-2.yaml", BILLING_2),
    ];
    let mesh = Mesh::start(&files).await;
    mesh.ready().await;
    mesh
}

/// A sidecar that has acknowledged its own workload.
async fn ready(mesh: &Mesh, account: &str) -> Sidecar {
    let mut sidecar = mesh.sidecar(account, &format!("{account}-1")).await;
    sidecar.take().await;
    sidecar
}

/// One that knows billing, too.
async fn caller(mesh: &Mesh, account: &str) -> Sidecar {
    let mut sidecar = ready(mesh, account).await;
    sidecar.subscribe("billing").await;
    assert_eq!(about(&sidecar.take().await), "destination billing with 2");
    sidecar
}

/// Nothing comes before the answer to a question that is asked now.
async fn assert_silent(sidecar: &mut Sidecar) {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("missing-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    sidecar.subscribe(&name).await;
    assert_eq!(about(&sidecar.take().await), format!("missing {name}"));
}

/// What `workload` has acknowledged was heard.
async fn heard(mesh: &Mesh, workload: &str, version: u64) {
    let series = format!("acknowledged_version{{namespace=\"shop\",workload=\"{workload}\"}}");
    mesh.metric_becomes(&series, version as f64).await;
}

#[tokio::test]
async fn it_is_withdrawn_when_everybody_who_knew_it_has_acknowledged() {
    let mesh = shop().await;
    let mut order = caller(&mesh, "order").await;
    let mut user = caller(&mesh, "user").await;
    user.resolve("10.0.0.1").await;
    assert_eq!(
        about(&user.take().await),
        "10.0.0.1 is an instance of billing with 1"
    );
    let mut billing = ready(&mesh, "billing").await;
    // Knows nothing of it, and acknowledges nothing.
    let mut other = mesh.sidecar("billing", "billing-2").await;
    other.next().await;

    billing.drain().await;
    assert_eq!(about(&order.take().await), "destination billing with 1");
    let one = user.next().await;
    let two = user.next().await;
    assert_silent(&mut billing).await;
    // The slow one: of one of the two things that it knew, then of the other.
    user.ack(&one).await;
    heard(&mesh, "user-1", one.version).await;
    assert_silent(&mut billing).await;
    assert_eq!(mesh.metric("withdrawal_seconds_count").await, 0.0);
    user.ack(&two).await;
    let withdrawn = billing.take().await;
    assert_eq!(about(&withdrawn), "withdrawn");
    assert!(withdrawn.version >= one.version.max(two.version));
    let mut told = [about(&one), about(&two)];
    told.sort();
    let expected = [
        "10.0.0.1 is an instance of billing with 0",
        "destination billing with 1",
    ];
    assert_eq!(
        told, expected,
        "an address of nobody would be called in plaintext"
    );

    assert_eq!(mesh.metric("withdrawals_total").await, 1.0);
    assert_eq!(mesh.metric("withdrawal_seconds_count").await, 1.0);
    heard(&mesh, "billing-1", withdrawn.version).await;
    // Said again, it says nothing new, and the stream goes on.
    billing.drain().await;
    billing.subscribe("order").await;
    assert_eq!(about(&billing.take().await), "destination order with 1");
}

#[tokio::test]
async fn who_is_gone_or_has_let_go_is_not_waited_for() {
    let mesh = shop().await;
    let gone = caller(&mesh, "order").await;
    let mut user = caller(&mesh, "user").await;
    let mut billing = ready(&mesh, "billing").await;
    billing.drain().await;
    assert_eq!(about(&user.next().await), "destination billing with 1");
    assert_silent(&mut billing).await;
    drop(gone);
    mesh.metric_becomes("connected_sidecars", 2.0).await;
    assert_silent(&mut billing).await;
    user.send(Some(Kind::Unsubscribe(service("billing")))).await;
    assert_eq!(about(&billing.next().await), "withdrawn");
}

#[tokio::test]
async fn a_rejection_is_no_acknowledgement() {
    let mesh = shop().await;
    let mut order = caller(&mesh, "order").await;
    let mut billing = ready(&mesh, "billing").await;
    billing.drain().await;
    let change = order.next().await;
    order.nack(&change, "no").await;
    mesh.metric_becomes("nacks_total", 1.0).await;
    assert_silent(&mut billing).await;
    drop(order);
    assert_eq!(about(&billing.next().await), "withdrawn");
}

#[tokio::test]
async fn nobody_knew_it() {
    let mesh = shop().await;
    let mut order = ready(&mesh, "order").await;
    let mut billing = ready(&mesh, "billing").await;
    billing.drain().await;
    assert_eq!(about(&billing.next().await), "withdrawn");
    // Who asks now is told what is left.
    order.subscribe("billing").await;
    assert_eq!(about(&order.take().await), "destination billing with 1");
}

#[tokio::test]
async fn it_stays_withdrawn_over_an_edit_and_its_own_end_and_is_back_with_a_hello() {
    let mesh = shop().await;
    let mut order = caller(&mesh, "order").await;
    let mut billing = ready(&mesh, "billing").await;
    billing.drain().await;
    assert_eq!(about(&order.take().await), "destination billing with 1");
    assert_eq!(about(&billing.take().await), "withdrawn");

    mesh.write("billing-2.yaml", &BILLING_2.replace("10.0.0.3", "10.0.0.5"));
    assert_eq!(about(&order.take().await), "destination billing with 1");
    drop(billing);
    mesh.metric_becomes("connected_sidecars", 1.0).await;
    mesh.write("billing-2.yaml", BILLING_2);
    assert_eq!(about(&order.take().await), "destination billing with 1");

    let mut billing = ready(&mesh, "billing").await;
    assert_eq!(about(&order.take().await), "destination billing with 2");
    // And may drain again.
    billing.drain().await;
    assert_eq!(about(&order.take().await), "destination billing with 1");
    assert_eq!(about(&billing.next().await), "withdrawn");
    assert_eq!(mesh.metric("withdrawals_total").await, 2.0);
}

#[tokio::test]
async fn a_hello_ends_what_its_predecessor_began() {
    let mesh = shop().await;
    let mut order = caller(&mesh, "order").await;
    let mut old = ready(&mesh, "billing").await;
    old.drain().await;
    let without = order.next().await;
    assert_eq!(about(&without), "destination billing with 1");
    let mut new = ready(&mesh, "billing").await;
    let with = order.next().await;
    assert_eq!(about(&with), "destination billing with 2");
    order.ack(&without).await;
    order.ack(&with).await;
    heard(&mesh, "order-1", with.version).await;
    // The endpoint is there: the old one is not told that it is not, nor may it take it away.
    assert_silent(&mut old).await;
    old.drain().await;
    assert_silent(&mut old).await;
    assert_silent(&mut order).await;
    assert_eq!(mesh.metric("withdrawals_total").await, 1.0);
    new.drain().await;
    assert_eq!(about(&order.take().await), "destination billing with 1");
    assert_eq!(about(&new.next().await), "withdrawn");
}

#[tokio::test]
async fn a_successor_that_has_died_leaves_the_endpoint_to_its_predecessor() {
    let mesh = shop().await;
    let mut order = caller(&mesh, "order").await;
    let mut old = ready(&mesh, "billing").await;
    drop(ready(&mesh, "billing").await);
    let order_and_old = 2.0;
    mesh.metric_becomes("connected_sidecars", order_and_old)
        .await;
    old.drain().await;
    assert_eq!(about(&order.take().await), "destination billing with 1");
    assert_eq!(about(&old.next().await), "withdrawn");
}

#[tokio::test]
async fn who_drains_already_brings_nothing_back_with_a_hello() {
    let mesh = shop().await;
    let mut order = caller(&mesh, "order").await;
    let mut drains = mesh.silent("billing").await;
    // To a control plane that has never heard of it, as after a restart.
    drains.greet("billing-1", true).await;
    drains.take().await;
    assert_eq!(about(&order.take().await), "destination billing with 1");
    assert_eq!(about(&drains.next().await), "withdrawn");
    drop(drains);
    // And to one that has.
    let mut again = mesh.silent("billing").await;
    again.greet("billing-1", true).await;
    again.take().await;
    assert_eq!(about(&again.next().await), "withdrawn");
    assert_silent(&mut order).await;
}

/// Where SHOP has billing-1.
const BILLING_1: &str = "metadata: {name: billing-1, namespace: shop, labels: {app: billing}}";

/// SHOP with a billing-1 that is no longer behind the Service.
fn retired() -> String {
    SHOP.replace(BILLING_1, &BILLING_1.replace("app: billing", "app: none"))
}

/// SHOP without billing-1.
fn without_billing_1() -> String {
    let objects = SHOP.split("---").filter(|text| !text.contains(BILLING_1));
    let objects: Vec<&str> = objects.collect();
    objects.join("---")
}

#[tokio::test]
async fn an_edit_that_took_it_out_is_waited_for_as_a_withdrawal_is() {
    let mesh = shop().await;
    let mut order = caller(&mesh, "order").await;
    let mut user = caller(&mesh, "user").await;
    let mut billing = ready(&mesh, "billing").await;
    mesh.write("shop.yaml", &retired());
    let heard_late = order.next().await;
    assert_eq!(about(&heard_late), "destination billing with 1");
    assert_eq!(about(&user.take().await), "destination billing with 1");
    assert_eq!(about(&billing.take().await), "workload billing-1");

    billing.drain().await;
    mesh.metric_becomes("withdrawals_total", 1.0).await;
    assert_silent(&mut billing).await;
    // Something newer that does not have it either says as much.
    mesh.write("billing-2.yaml", &BILLING_2.replace("10.0.0.3", "10.0.0.5"));
    let newer = order.next().await;
    assert_eq!(about(&newer), "destination billing with 1");
    assert_eq!(about(&user.take().await), "destination billing with 1");
    assert_silent(&mut billing).await;
    assert_eq!(mesh.metric("withdrawal_seconds_count").await, 0.0);
    order.ack(&newer).await;
    assert_eq!(about(&billing.take().await), "withdrawn");
    assert_eq!(mesh.metric("withdrawal_seconds_count").await, 1.0);
}

#[tokio::test]
async fn who_has_connected_again_may_know_it_from_before() {
    let mesh = shop().await;
    let order = caller(&mesh, "order").await;
    let mut billing = ready(&mesh, "billing").await;
    drop(order);
    mesh.metric_becomes("connected_sidecars", 1.0).await;
    mesh.write("shop.yaml", &retired());
    assert_eq!(about(&billing.take().await), "workload billing-1");

    let mut order = ready(&mesh, "order").await;
    order.subscribe("billing").await;
    let news = order.next().await;
    assert_eq!(about(&news), "destination billing with 1");
    billing.drain().await;
    mesh.metric_becomes("withdrawals_total", 1.0).await;
    assert_silent(&mut billing).await;
    order.ack(&news).await;
    assert_eq!(about(&billing.next().await), "withdrawn");
}

#[tokio::test]
async fn the_stream_of_a_workload_that_is_gone_ends_when_nobody_knows_it() {
    let mesh = shop().await;
    let mut order = caller(&mesh, "order").await;
    let mut billing = ready(&mesh, "billing").await;
    mesh.write("shop.yaml", &without_billing_1());
    let news = order.next().await;
    assert_eq!(about(&news), "destination billing with 1");
    assert_silent(&mut billing).await;
    // Its sidecar is told to end, since it is gone.
    billing.drain().await;
    assert_silent(&mut billing).await;
    order.ack(&news).await;
    assert_eq!(billing.end().await.code(), Code::NotFound);
}

#[tokio::test]
async fn a_workload_that_is_back_keeps_its_stream() {
    let mesh = shop().await;
    let mut order = caller(&mesh, "order").await;
    let mut billing = ready(&mesh, "billing").await;
    mesh.write("shop.yaml", &without_billing_1());
    let without = order.next().await;
    assert_eq!(about(&without), "destination billing with 1");
    mesh.write("shop.yaml", SHOP);
    let with = order.next().await;
    assert_eq!(about(&with), "destination billing with 2");
    assert_eq!(about(&billing.take().await), "workload billing-1");
    order.ack(&without).await;
    order.ack(&with).await;
    heard(&mesh, "order-1", with.version).await;
    assert_silent(&mut billing).await;
}
