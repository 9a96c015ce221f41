//! What becomes of the channels, change by change.

use std::path::Path;
use std::time::SystemTime;

use outrider_api::manifest;
use outrider_api::model::address::AddressTarget;

use super::*;
use crate::index;

fn mesh(services: &[(&str, u16)]) -> Arc<Mesh> {
    let texts: Vec<String> = services
        .iter()
        .map(|(name, port)| {
            format!(
                "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, \
                 spec: {{selector: {{app: {name}}}, ports: [{{port: {port}}}]}}}}\n---\n\
                 {{apiVersion: outrider.mesh/v1alpha1, kind: Workload, \
                 metadata: {{name: {name}, labels: {{app: {name}}}}}, \
                 spec: {{serviceAccount: {name}, address: 10.0.0.{port}}}}}\n"
            )
        })
        .collect();
    let objects = manifest::parse(Path::new("mesh.yaml"), &texts.join("---\n")).unwrap();
    Arc::new(index::build(&objects, None).unwrap())
}

fn store(dir: &tempfile::TempDir) -> Arc<Store> {
    Store::new(VersionCounter::open(dir.path(), SystemTime::now()))
}

fn name(name: &str) -> ServiceName {
    ServiceName::new("default", name).unwrap()
}

#[tokio::test]
async fn only_what_changed_has_a_new_version() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let first = store.publish(mesh(&[("a", 1), ("b", 2)]), Instant::now());
    // Of each: the workload and its address, the Service and its two.
    assert_eq!((first.version, first.changed), (store.version(), 10));
    let mut a = store.follow(name("a"));
    let mut b = store.follow(name("b"));
    assert_eq!(a.newest().unwrap().version, first.version);
    b.newest();

    let second = store.publish(mesh(&[("a", 1), ("b", 3)]), Instant::now());
    assert_eq!((second.version, second.changed), (first.version + 1, 4));
    assert_eq!(a.newest().unwrap().version, first.version);
    b.changed().await;
    assert_eq!(b.newest().unwrap().version, second.version);

    let same = store.publish(mesh(&[("a", 1), ("b", 3)]), Instant::now());
    assert_eq!((same.version, same.changed), (second.version, 0));
}

#[tokio::test]
async fn what_does_not_exist_can_be_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    store.publish(mesh(&[("a", 1)]), Instant::now());
    let mut later = store.follow(name("later"));
    assert!(later.newest().unwrap().value.is_none());
    store.publish(mesh(&[("a", 1), ("later", 2)]), Instant::now());
    later.changed().await;
    assert!(later.newest().unwrap().value.is_some());
    store.publish(mesh(&[("a", 1)]), Instant::now());
    later.changed().await;
    assert!(later.newest().unwrap().value.is_none());
}

#[tokio::test]
async fn what_nobody_needs_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    store.publish(mesh(&[("a", 1)]), Instant::now());
    assert_eq!(store.channels(), 2);
    let watches: Vec<_> = (0..100)
        .map(|number| store.follow(name(&format!("x{number}"))))
        .collect();
    assert_eq!(store.channels(), 102);
    drop(watches);
    assert_eq!(store.channels(), 2);

    let workload = WorkloadName::new("default", "a");
    let gone = store.workload(&workload).unwrap();
    store.publish(mesh(&[("b", 1)]), Instant::now());
    assert!(gone.borrow().value.is_none());
    assert!(store.workload(&workload).is_none());
    drop(gone);
    store.publish(mesh(&[("c", 1)]), Instant::now());
    assert_eq!(store.channels(), 2);
}

fn at(last: u8) -> IpAddr {
    [10, 0, 0, last].into()
}

#[tokio::test]
async fn an_address_has_a_channel_while_it_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let first = store.publish(mesh(&[("a", 1)]), Instant::now());
    assert_eq!(store.channels(), 2);
    let mut known = store.follow(at(1));
    let mut other = store.follow(at(2));
    assert_eq!(store.channels(), 4);
    let snapshot = known.newest().unwrap();
    assert_eq!(snapshot.version, first.version);
    assert!(matches!(
        snapshot.value.as_deref(),
        Some(AddressTarget::Instance(_))
    ));
    assert!(other.newest().unwrap().value.is_none());

    // One appears; the other stays as it was.
    let second = store.publish(mesh(&[("a", 1), ("b", 2)]), Instant::now());
    other.changed().await;
    let snapshot = other.newest().unwrap();
    assert_eq!(snapshot.version, second.version);
    assert!(snapshot.value.is_some());
    assert_eq!(known.newest().unwrap().version, first.version);

    drop((known, other));
    assert_eq!(
        store.channels(),
        4,
        "those of two workloads and two Services"
    );
    // What is followed later is as new as the store.
    let third = store.publish(mesh(&[("a", 1)]), Instant::now());
    let mut gone = store.follow(at(2));
    let snapshot = gone.newest().unwrap();
    assert_eq!(snapshot.version, third.version);
    assert!(snapshot.value.is_none());
}

fn endpoints(service: &mut Watch<ServiceName>, address: &mut Watch<IpAddr>) -> [usize; 2] {
    let service = service.newest().unwrap().value.unwrap();
    let value = address.newest().unwrap().value;
    match value.as_deref() {
        Some(AddressTarget::Instance(instance)) => {
            [service.endpoints.len(), instance.endpoints.len()]
        }
        other => panic!("expected an instance, got {other:?}"),
    }
}

#[tokio::test]
async fn what_is_withdrawn_stays_so_until_it_is_restored_or_gone() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let a = WorkloadName::new("default", "a");
    store.publish(mesh(&[("a", 1)]), Instant::now());
    let mut service = store.follow(name("a"));
    let mut address = store.follow(at(1));
    assert_eq!(endpoints(&mut service, &mut address), [1, 1]);

    store.withdraw(a.clone());
    let version = store.refresh(Instant::now());
    assert_eq!(endpoints(&mut service, &mut address), [0, 0]);
    let from = store.withdrawn_from(&a);
    assert_eq!(from.destinations, [(name("a"), version)].into());
    assert_eq!(from.addresses, [(at(1), version)].into());

    // Read again, with something more.
    store.publish(mesh(&[("a", 1), ("b", 2)]), Instant::now());
    assert_eq!(endpoints(&mut service, &mut address), [0, 0]);
    assert_eq!(store.withdrawn_from(&a), from, "its version is as it was");

    assert!(store.restore(&a));
    store.refresh(Instant::now());
    assert_eq!(endpoints(&mut service, &mut address), [1, 1]);
    assert!(!store.restore(&a));

    assert_eq!(store.withdrawn_from(&a), Withdrawn::default());

    // One that goes and comes back is a new one.
    store.withdraw(a.clone());
    store.refresh(Instant::now());
    store.publish(mesh(&[("b", 2)]), Instant::now());
    store.publish(mesh(&[("a", 1), ("b", 2)]), Instant::now());
    assert_eq!(endpoints(&mut service, &mut address), [1, 1]);
}

/// A Service that selects workloads by `app`, and one workload.
fn selected(service: &str, app: &str, address: u8) -> Arc<Mesh> {
    let text = format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {service}}}, \
         spec: {{selector: {{app: {service}}}, ports: [{{port: 80}}]}}}}\n---\n\
         {{apiVersion: outrider.mesh/v1alpha1, kind: Workload, \
         metadata: {{name: w, labels: {{app: {app}}}}}, \
         spec: {{serviceAccount: w, address: 10.0.0.{address}}}}}\n"
    );
    let objects = manifest::parse(Path::new("mesh.yaml"), &text).unwrap();
    Arc::new(index::build(&objects, None).unwrap())
}

#[tokio::test]
async fn what_an_edit_takes_from_a_service_or_an_address_is_known_as_what_is_withdrawn_is() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let w = WorkloadName::new("default", "w");
    store.publish(selected("a", "a", 1), Instant::now());
    let _address = store.follow(at(1));
    assert_eq!(store.withdrawn_from(&w), Withdrawn::default());

    let edit = store
        .publish(selected("a", "none", 2), Instant::now())
        .version;
    let from = store.withdrawn_from(&w);
    assert_eq!(from.destinations, [(name("a"), edit)].into());
    assert_eq!(from.addresses, [(at(1), edit)].into());
    // Other changes of what it has left change nothing; nobody follows its new address.
    store.withdraw(w.clone());
    store.refresh(Instant::now());
    assert_eq!(store.withdrawn_from(&w), from);
    store.restore(&w);

    // Who is back has not left.
    store.publish(selected("a", "a", 1), Instant::now());
    assert_eq!(store.withdrawn_from(&w), Withdrawn::default());
}

#[tokio::test]
async fn who_has_left_is_forgotten_with_the_last_who_may_ask_or_know() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let w = WorkloadName::new("default", "w");
    store.publish(selected("a", "a", 1), Instant::now());
    let sidecar = store.workload(&w).unwrap();
    let follower = store.follow(name("a"));
    let gone = store.publish(mesh(&[("b", 2)]), Instant::now()).version;
    let from = store.withdrawn_from(&w);
    assert_eq!(from.destinations, [(name("a"), gone)].into());

    drop(sidecar);
    store.publish(mesh(&[("b", 3)]), Instant::now());
    assert_eq!(store.withdrawn_from(&w), Withdrawn::default());

    // And with the Service, once nobody follows that.
    store.publish(selected("a", "a", 1), Instant::now());
    let _sidecar = store.workload(&w).unwrap();
    store.publish(selected("other", "none", 1), Instant::now());
    assert_eq!(store.withdrawn_from(&w).destinations.len(), 1);
    drop(follower);
    store.publish(selected("other", "none", 2), Instant::now());
    assert_eq!(store.withdrawn_from(&w), Withdrawn::default());
}
