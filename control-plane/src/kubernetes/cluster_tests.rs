use outrider_api::kinds::{ClusterIp, TargetPort};
use outrider_api::manifest::Object;
use serde_json::{Value, json};

use super::*;
use crate::index::ZONE;
use crate::kubernetes::pods::tests::{merge, pod};
use crate::kubernetes::{objects, pods, services};

fn id(kind: Kind, namespace: &str, name: &str) -> ObjectId {
    ObjectId {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

fn apply_pod(name: &str, more: &Value) -> Update {
    let (pod, entry) = pods::read(&pod(name, more)).unwrap();
    Update::Apply(entry.id.clone(), Item::Pod(Arc::new(pod), Arc::new(entry)))
}

fn apply_policy(name: &str) -> Update {
    let object = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "shop", "uid": name, "generation": 1},
        "spec": {"targetRefs": [{"group": "", "kind": "Pod", "selector": {}}]},
    }));
    let version = "outrider.mesh/v1alpha1";
    let entry = objects::read(Kind::AuthorizationPolicy, version, &object.unwrap()).unwrap();
    assert_eq!(entry.problems, []);
    Update::Apply(entry.id.clone(), Item::Object(Arc::new(entry)))
}

fn apply_namespace(is_meshed: bool, is_ending: bool) -> Update {
    apply_namespace_of("first", is_meshed, is_ending)
}

fn apply_namespace_of(uid: &str, is_meshed: bool, is_ending: bool) -> Update {
    let namespace = Namespace {
        uid: Some(uid.to_owned()),
        is_meshed,
        is_ending,
    };
    Update::Apply(id(Kind::Namespace, "", "shop"), Item::Namespace(namespace))
}

fn apply_service(name: &str, spec: &Value) -> Update {
    let mut service = json!({
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.9", "ports": [{"port": 80}]},
    });
    merge(&mut service["spec"], spec);
    let service = services::read(&serde_json::from_value(service).unwrap()).unwrap();
    Update::Apply(service.entry.id.clone(), Item::Service(Arc::new(service)))
}

/// A slice of one endpoint, a pod.
fn apply_slice(name: &str, service: &str, pod: &str, ready: bool, ports: &Value) -> Update {
    apply_slice_by("somebody", name, service, pod, ready, ports)
}

/// The same, written by whoever this is.
fn apply_slice_by(
    writer: &str,
    name: &str,
    service: &str,
    pod: &str,
    ready: bool,
    ports: &Value,
) -> Update {
    let slice = json!({
        "metadata": {"name": name, "namespace": "shop",
                     "labels": {"kubernetes.io/service-name": service,
                                "endpointslice.kubernetes.io/managed-by": writer}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": ready},
            "targetRef": {"kind": "Pod", "name": pod, "uid": format!("uid-of-{pod}")}}],
        "ports": ports,
    });
    let slice = services::read_slice(&serde_json::from_value(slice).unwrap()).unwrap();
    Update::Apply(id(Kind::EndpointSlice, "shop", name), Item::Slice(slice))
}

fn cluster(updates: Vec<Update>) -> Cluster {
    let mut cluster = Cluster::default();
    for update in updates {
        cluster.update(update);
    }
    cluster
}

fn taken(cluster: &mut Cluster) -> Vec<String> {
    let entries = cluster.take().entries;
    entries.iter().map(|entry| entry.id.to_string()).collect()
}

#[test]
fn an_address_that_two_pods_have_is_the_newer_ones() {
    let later = json!({"metadata": {"creationTimestamp": "2026-11-27T08:00:01Z"}});
    let old = apply_pod("billing-1", &json!({}));
    let new = apply_pod("search-1", &later);
    let mut cluster = cluster(vec![new, old]);
    assert_eq!(taken(&mut cluster), ["Pod/shop/search-1"]);

    cluster.update(Update::Delete(id(Kind::Pod, "shop", "search-1")));
    assert_eq!(taken(&mut cluster), ["Pod/shop/billing-1"]);
}

#[test]
fn a_pod_that_has_ended_has_no_address() {
    let later = json!({
        "metadata": {"creationTimestamp": "2026-11-27T08:00:01Z"},
        "status": {"phase": "Succeeded"},
    });
    let updates = vec![
        apply_pod("billing-1", &json!({})),
        apply_pod("job-1", &later),
    ];
    assert_eq!(taken(&mut cluster(updates)), ["Pod/shop/billing-1"]);
    let none = json!({"status": {"podIP": null, "podIPs": null}});
    assert!(taken(&mut cluster(vec![apply_pod("billing-1", &none)])).is_empty());
}

#[test]
fn what_is_the_same_is_no_change() {
    let mut cluster = cluster(vec![apply_pod("billing-1", &json!({}))]);
    assert!(!cluster.update(apply_pod("billing-1", &json!({}))));
    // Where it is called from in metrics is not what it is.
    let condition = json!({"status": {"conditions": [
        {"type": "Ready", "status": "True", "lastProbeTime": null, "message": "again"},
    ]}});
    assert!(!cluster.update(apply_pod("billing-1", &condition)));
    let unready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    assert!(cluster.update(apply_pod("billing-1", &unready)));
    assert!(!cluster.update(Update::Delete(id(Kind::Pod, "shop", "nobody"))));
}

#[test]
fn what_is_not_listed_anew_is_gone_once_the_list_is_whole() {
    let updates = vec![
        apply_pod("billing-1", &json!({})),
        apply_policy("allow"),
        Update::Restart(Kind::AuthorizationPolicy),
    ];
    let mut cluster = cluster(updates);
    let before = ["Pod/shop/billing-1", "AuthorizationPolicy/shop/allow"];
    assert_eq!(taken(&mut cluster), before);
    assert!(
        !cluster.update(apply_policy("deny")),
        "not before the end of the list"
    );
    assert_eq!(taken(&mut cluster), before);
    assert!(cluster.update(Update::Synced(Kind::AuthorizationPolicy)));
    let after = ["Pod/shop/billing-1", "AuthorizationPolicy/shop/deny"];
    assert_eq!(taken(&mut cluster), after);
    assert!(!cluster.missing().contains(&Kind::AuthorizationPolicy));
    assert!(cluster.missing().contains(&Kind::Pod));
}

#[test]
fn policies_of_a_namespace_that_is_being_deleted_hold_until_it_is_gone() {
    let delete = || Update::Delete(id(Kind::AuthorizationPolicy, "shop", "deny"));
    let mut held = cluster(vec![apply_namespace(true, true), apply_policy("deny")]);
    assert!(!held.update(delete()));
    assert_eq!(taken(&mut held), ["AuthorizationPolicy/shop/deny"]);
    // Not even a list that lacks it says more.
    held.update(Update::Restart(Kind::AuthorizationPolicy));
    held.update(Update::Synced(Kind::AuthorizationPolicy));
    assert_eq!(taken(&mut held), ["AuthorizationPolicy/shop/deny"]);
    assert!(held.update(Update::Delete(id(Kind::Namespace, "", "shop"))));
    assert!(taken(&mut held).is_empty());

    let mut other = cluster(vec![apply_namespace(true, false), apply_policy("deny")]);
    assert!(other.update(delete()));
    assert!(taken(&mut other).is_empty());
}

#[test]
fn policies_hold_whose_namespace_is_not_known_yet_to_be_ending() {
    let ending = |uid: &str| {
        Update::Ending(Ending {
            name: "shop".to_owned(),
            uid: Some(uid.to_owned()),
        })
    };
    let delete = |name| Update::Delete(id(Kind::AuthorizationPolicy, "shop", name));
    let both = [
        "AuthorizationPolicy/shop/allow",
        "AuthorizationPolicy/shop/deny",
    ];
    // What is known of the namespace: that it stays, nothing, or something while it is being listed anew.
    let restart = || Update::Restart(Kind::Namespace);
    for known in [
        vec![apply_namespace(true, false)],
        vec![],
        vec![apply_namespace(true, false), restart()],
    ] {
        let mut cluster = cluster(known);
        cluster.update(apply_policy("deny"));
        cluster.update(apply_policy("allow"));
        cluster.update(ending("first"));
        cluster.update(delete("deny"));
        // Its own watch comes to what was before.
        cluster.update(restart());
        cluster.update(apply_namespace(true, false));
        cluster.update(Update::Synced(Kind::Namespace));
        cluster.update(delete("allow"));
        assert_eq!(taken(&mut cluster), both);
        cluster.update(Update::Delete(id(Kind::Namespace, "", "shop")));
        assert!(taken(&mut cluster).is_empty());
    }
    // The next of its name is another.
    let mut cluster = cluster(vec![apply_policy("deny"), ending("first"), delete("deny")]);
    assert_eq!(taken(&mut cluster), ["AuthorizationPolicy/shop/deny"]);
    cluster.update(apply_namespace_of("second", true, false));
    assert!(taken(&mut cluster).is_empty());
    cluster.update(apply_policy("deny"));
    assert!(cluster.update(delete("deny")));
}

#[test]
fn policies_of_a_namespace_that_was_deleted_are_not_those_of_the_next_one_of_its_name() {
    let mut cluster = cluster(vec![
        apply_namespace(true, true),
        apply_policy("deny"),
        apply_policy("allow"),
    ]);
    for name in ["deny", "allow"] {
        cluster.update(Update::Delete(id(Kind::AuthorizationPolicy, "shop", name)));
    }
    let both = [
        "AuthorizationPolicy/shop/allow",
        "AuthorizationPolicy/shop/deny",
    ];
    assert_eq!(taken(&mut cluster), both);
    // The list of a server that is behind is no word of another.
    cluster.update(apply_namespace(true, false));
    assert_eq!(taken(&mut cluster), both);
    // The watch of namespaces was broken off while the one went and the other came, with a policy.
    cluster.update(apply_policy("allow"));
    cluster.update(Update::Restart(Kind::Namespace));
    cluster.update(apply_namespace_of("second", true, true));
    assert!(cluster.update(Update::Synced(Kind::Namespace)));
    assert_eq!(taken(&mut cluster), ["AuthorizationPolicy/shop/allow"]);
}

/// Whom its policies are about is known as long as they hold, and nobody calls a pod by it.
#[test]
fn services_of_a_namespace_that_is_being_deleted_select_until_it_is_gone() {
    let controller = "endpointslice-controller.k8s.io";
    let derived = apply_slice_by(controller, "a", "billing", "billing-1", true, &json!([]));
    let mut cluster = cluster(vec![
        apply_namespace(true, true),
        apply_pod("billing-1", &json!({})),
        apply_service("billing", &json!({"selector": {"app": "billing"}})),
        derived,
        apply_service("manual", &json!({})),
        apply_slice("b", "manual", "billing-1", true, &json!([])),
    ]);
    let names = ["billing", "manual"].map(|name| ServiceName::new("shop", name).unwrap());
    let address = |entry: &Arc<Entry>| match &entry.object {
        Some(Object::Service(service)) => service.spec.cluster_ip,
        _ => panic!("a Service"),
    };
    let held = Some(ClusterIp::Address([10, 96, 0, 9].into()));
    for (kind, name, ready, expected) in [
        // As before there was one.
        (Kind::EndpointSlice, "a", [true, true], [held, held]),
        (Kind::EndpointSlice, "b", [true, false], [held, held]),
        (
            Kind::Service,
            "billing",
            [false, false],
            [Some(ClusterIp::Headless), held],
        ),
        (
            Kind::Service,
            "manual",
            [false, false],
            [Some(ClusterIp::Headless); 2],
        ),
    ] {
        assert!(
            cluster.update(Update::Delete(id(kind, "shop", name))),
            "{name}"
        );
        assert!(
            !cluster.update(Update::Delete(id(kind, "shop", name))),
            "{name}"
        );
        let taken = cluster.take();
        let addresses: Vec<_> = taken
            .entries
            .of(Kind::Service)
            .iter()
            .map(address)
            .collect();
        assert_eq!(addresses, expected, "{name}");
        let takes_calls = |name| !taken.endpoints.ready[name].is_empty();
        assert_eq!([&names[0], &names[1]].map(takes_calls), ready, "{name}");
        let members = &taken.endpoints.members[&names[1]];
        assert_eq!(
            members.iter().map(|it| &*it.name).collect::<Vec<_>>(),
            ["billing-1"]
        );
    }
    // A list that lacks them says no more.
    for kind in [Kind::Service, Kind::EndpointSlice] {
        cluster.update(Update::Restart(kind));
        cluster.update(Update::Synced(kind));
    }
    assert_eq!(cluster.take().endpoints.members[&names[1]].len(), 1);
    assert_eq!(cluster.take().entries.of(Kind::Service).len(), 2);
    assert!(cluster.update(Update::Delete(id(Kind::Namespace, "", "shop"))));
    let taken = cluster.take();
    assert!(taken.entries.of(Kind::Service).is_empty());
    assert!(taken.endpoints.members.is_empty() && taken.endpoints.ready.is_empty());
    assert!(cluster.slices.is_empty() && cluster.outlived.is_empty());
}

#[test]
fn who_is_late_to_say_that_a_namespace_ends_says_nothing_of_the_next_one() {
    let late = || {
        Update::Ending(Ending {
            name: "shop".to_owned(),
            uid: Some("first".to_owned()),
        })
    };
    let delete = |kind, namespace, name| Update::Delete(id(kind, namespace, name));
    let policy = || delete(Kind::AuthorizationPolicy, "shop", "allow");
    // It is gone; or another has come in its place.
    for next in [
        delete(Kind::Namespace, "", "shop"),
        apply_namespace_of("second", true, false),
    ] {
        let mut cluster = cluster(vec![apply_namespace(true, true), apply_policy("allow")]);
        cluster.update(next);
        cluster.update(late());
        cluster.update(policy());
        assert!(taken(&mut cluster).is_empty());
        assert!(cluster.outlived.is_empty());
    }
}

#[test]
fn a_pod_is_where_its_node_is() {
    let node = |zone: &str| {
        let zone = Item::Node(Some(zone.to_owned()));
        Update::Apply(id(Kind::Node, "", "node-1"), zone)
    };
    let zone = |cluster: &mut Cluster| match &cluster.take().entries.of(Kind::Pod)[0].object {
        Some(Object::Workload(workload)) => workload.metadata.labels.get(ZONE).cloned(),
        _ => panic!("a Workload"),
    };
    let mut unlabelled = cluster(vec![apply_pod("billing-1", &json!({}))]);
    assert_eq!(zone(&mut unlabelled), None);
    unlabelled.update(node("north"));
    assert_eq!(zone(&mut unlabelled).as_deref(), Some("north"));
    let own = json!({"metadata": {"labels": {ZONE: "south"}}});
    let mut labelled = cluster(vec![node("north"), apply_pod("billing-1", &own)]);
    assert_eq!(zone(&mut labelled).as_deref(), Some("south"));
}

#[test]
fn namespaces_with_a_sidecar_need_a_bundle_too() {
    let meshed = cluster(vec![apply_namespace(true, false)]).take().meshed;
    assert_eq!(meshed.iter().collect::<Vec<_>>(), ["shop"]);
    let updates = vec![
        apply_namespace(false, false),
        apply_pod("billing-1", &json!({"status": null})),
    ];
    let opted_in = cluster(updates).take().meshed;
    assert_eq!(opted_in.iter().collect::<Vec<_>>(), ["shop"]);
    assert!(
        cluster(vec![apply_namespace(false, false)])
            .take()
            .meshed
            .is_empty()
    );
}

#[test]
fn the_endpoints_of_a_service_are_those_of_all_its_slices() {
    let slice = |name: &str, pod: &str| apply_slice(name, "billing", pod, true, &json!([]));
    let other = json!({"status": {"podIP": "10.244.0.8", "podIPs": [{"ip": "10.244.0.8"}]}});
    let mut cluster = cluster(vec![
        apply_pod("billing-1", &json!({})),
        apply_pod("billing-2", &other),
        apply_service("billing", &json!({"selector": {"app": "billing"}})),
        slice("a", "billing-1"),
        slice("b", "billing-2"),
    ]);
    let ready = |cluster: &mut Cluster| -> Vec<String> {
        let ready = cluster.take().endpoints.ready;
        let ready = ready.values().flat_map(|ready| ready.iter());
        ready.map(|workload| workload.name.clone()).collect()
    };
    assert_eq!(ready(&mut cluster), ["billing-1", "billing-2"]);
    cluster.update(Update::Delete(id(Kind::EndpointSlice, "shop", "a")));
    assert_eq!(ready(&mut cluster), ["billing-2"]);
    cluster.update(Update::Delete(id(Kind::EndpointSlice, "shop", "b")));
    // Without any, the pods' own word counts.
    assert_eq!(ready(&mut cluster), ["billing-1", "billing-2"]);
}

/// One of everything that has a say in what is taken, and what becomes of it.
fn history() -> Vec<Update> {
    let service =
        |name: &str, selector: &Value| apply_service(name, &json!({ "selector": selector }));
    let slice = |name: &str, service: &str, pod: &str, ready: bool| {
        let port = if pod == "billing-2" { 8080 } else { 9090 };
        apply_slice(name, service, pod, ready, &json!([{"port": port}]))
    };
    let node = |zone: &str| {
        let zone = Item::Node(Some(zone.to_owned()));
        Update::Apply(id(Kind::Node, "", "node-1"), zone)
    };
    let other = json!({"status": {"podIP": "10.244.0.8", "podIPs": [{"ip": "10.244.0.8"}]}});
    let delete = |kind, name| Update::Delete(id(kind, "shop", name));
    vec![
        service("billing", &json!({"app": "billing"})),
        service("foreign", &json!({})),
        apply_pod("billing-1", &json!({})),
        slice("a", "billing", "billing-1", true),
        apply_pod("billing-2", &other),
        slice("b", "billing", "billing-2", true),
        node("north"),
        slice("b", "billing", "billing-2", false),
        slice("c", "foreign", "billing-2", true),
        apply_namespace(true, false),
        apply_policy("allow"),
        node("south"),
        // To another Service.
        slice("b", "foreign", "billing-1", true),
        delete(Kind::EndpointSlice, "c"),
        delete(Kind::Pod, "billing-1"),
        delete(Kind::EndpointSlice, "a"),
        service("billing", &json!({"app": "nobody"})),
        delete(Kind::AuthorizationPolicy, "allow"),
        apply_namespace(false, false),
        delete(Kind::Service, "billing"),
        apply_pod("billing-1", &json!({})),
        delete(Kind::Service, "foreign"),
    ]
}

#[test]
fn what_is_taken_does_not_depend_on_what_was_taken_before() {
    let mut often = Cluster::default();
    for taken in 1..=history().len() {
        let update = history().into_iter().nth(taken - 1).unwrap();
        often.update(update);
        let often = often.take();
        let once = cluster(history().into_iter().take(taken).collect()).take();
        let entries =
            |taken: &Taken| -> Vec<Arc<Entry>> { taken.entries.iter().cloned().collect() };
        assert_eq!(entries(&often), entries(&once), "after {taken}");
        assert_eq!(
            *often.endpoints.members, *once.endpoints.members,
            "after {taken}"
        );
        let ready = |taken: &Taken| -> Vec<_> {
            let ready = taken.endpoints.ready.iter();
            ready
                .map(|(name, ready)| (name.clone(), (**ready).clone()))
                .collect()
        };
        assert_eq!(ready(&often), ready(&once), "after {taken}");
        assert_eq!(*often.meshed, *once.meshed, "after {taken}");
    }
}

#[test]
fn what_has_not_changed_is_the_very_same() {
    let mut history = history();
    let rest = history.split_off(7);
    let mut cluster = cluster(history);
    let before = cluster.take();
    // One endpoint is not ready.
    cluster.update(rest.into_iter().next().unwrap());
    let after = cluster.take();
    for kind in [Kind::Pod, Kind::Service] {
        assert!(before.entries.shelf(kind) == after.entries.shelf(kind));
    }
    assert!(before.endpoints.members == after.endpoints.members);
    let billing = ServiceName::new("shop", "billing").unwrap();
    assert!(before.endpoints.ready[&billing] != after.endpoints.ready[&billing]);
    assert!(cluster.take().endpoints.ready == after.endpoints.ready);
}

#[test]
fn a_service_without_a_selector_has_the_ports_of_its_slices() {
    let manual = |port: u16| {
        let port = json!({"name": "web", "port": port, "targetPort": "nowhere"});
        apply_service("manual", &json!({"ports": [port]}))
    };
    let slice = |ready: bool, port: u16| {
        let ports = json!([{"name": "web", "port": port}]);
        apply_slice("by-hand", "manual", "billing-1", ready, &ports)
    };
    let target = |entry: &Entry| match &entry.object {
        Some(Object::Service(service)) => service.spec.ports[0].target_port.clone().unwrap(),
        _ => panic!("a Service"),
    };
    let mut cluster = cluster(vec![
        apply_pod("billing-1", &json!({})),
        manual(80),
        slice(true, 9090),
    ]);
    let mut after = |update| {
        cluster.update(update);
        let entries = cluster.take().entries;
        (
            Arc::clone(&entries.of(Kind::Service)[0]),
            entries.shelf(Kind::Service),
        )
    };
    let (first, shelf) = after(manual(80));
    assert_eq!(target(&first), TargetPort::Number(9090));
    // Neither what is about its endpoints nor what is about others makes it another.
    for update in [slice(false, 9090), apply_namespace(true, false)] {
        let (entry, same) = after(update);
        assert!(Arc::ptr_eq(&entry, &first) && same == shelf);
    }
    assert_eq!(
        target(&after(slice(true, 9091)).0),
        TargetPort::Number(9091)
    );
    assert_eq!(target(&after(manual(81)).0), TargetPort::Number(9091));
    // A slice that says nothing.
    let silent = apply_slice("by-hand", "manual", "billing-1", true, &json!([]));
    let named = TargetPort::Name("nowhere".to_owned());
    assert_eq!(target(&after(silent).0), named);
}
