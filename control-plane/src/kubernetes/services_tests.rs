use outrider_api::kinds::ClusterIp;
use outrider_api::manifest::Object;

use super::*;
use crate::kubernetes::pods;
use crate::kubernetes::pods::tests::{merge, pod};

/// Two pods of the mesh: billing-1 is ready, billing-2 is not.
struct Table(Vec<Pod>);

impl Table {
    fn new() -> Self {
        let second = json!({"status": {
            "podIP": "10.244.0.8", "podIPs": [{"ip": "10.244.0.8"}], "conditions": [],
        }});
        let pods = [pod("billing-1", &json!({})), pod("billing-2", &second)];
        Self(pods.iter().map(|pod| pods::read(pod).unwrap().0).collect())
    }

    fn nobody() -> Self {
        Self(Vec::new())
    }
}

impl PodTable for Table {
    fn named(&self, name: &WorkloadName) -> Option<&Pod> {
        self.0.iter().find(|pod| pod.name == *name)
    }

    fn at(&self, address: IpAddr) -> Option<&Pod> {
        self.0.iter().find(|pod| pod.addresses.contains(&address))
    }

    fn of_namespace<'t>(&'t self, namespace: &'t str) -> impl Iterator<Item = &'t Pod> {
        self.0
            .iter()
            .filter(move |pod| pod.name.namespace == namespace)
    }
}

fn service(spec: &Value) -> Service {
    let mut service = json!({
        "metadata": {"name": "billing", "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
                 "ports": [{"port": 80}], "selector": {"app": "billing"}},
    });
    merge(&mut service["spec"], spec);
    read(&serde_json::from_value(service).unwrap()).unwrap()
}

fn slice(endpoints: &Value) -> Slice {
    slice_of(endpoints, &json!([]))
}

fn slice_of(endpoints: &Value, ports: &Value) -> Slice {
    let slice = json!({
        "metadata": {"name": "billing-x", "namespace": "shop",
                     "labels": {"kubernetes.io/service-name": "billing"}},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": ports,
    });
    read_slice(&serde_json::from_value(slice).unwrap()).unwrap()
}

fn endpoint(name: &str, address: &str, ready: bool) -> Value {
    json!({
        "addresses": [address],
        "conditions": {"ready": ready},
        "targetRef": {"kind": "Pod", "namespace": "shop", "name": name,
                      "uid": format!("uid-of-{name}")},
    })
}

/// Names of all and of those that are ready; `None`: not of the mesh.
fn behind(
    service: &Service,
    slices: &[Slice],
    pods: &Table,
    meshed: bool,
) -> Option<(Vec<String>, Vec<String>)> {
    let names = |names: BTreeSet<WorkloadName>| names.into_iter().map(|it| it.name).collect();
    let behind = service.behind(slices.iter(), pods, meshed)?;
    Some((names(behind.all), names(behind.ready)))
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn slices_say_who_takes_calls() {
    let slices = [slice(&json!([
        endpoint("billing-1", "10.244.0.7", true),
        endpoint("billing-2", "10.244.0.8", false),
    ]))];
    let both = names(&["billing-1", "billing-2"]);
    let found = behind(&service(&json!({})), &slices, &Table::new(), true);
    assert_eq!(found, Some((both.clone(), names(&["billing-1"]))));

    // A slice for each family; ready in one is ready.
    let dual = [
        slice(&json!([endpoint("billing-2", "10.244.0.8", false)])),
        slice(&json!([endpoint("billing-2", "fd00::8", true)])),
    ];
    let found = behind(&service(&json!({})), &dual, &Table::new(), true);
    let second = names(&["billing-2"]);
    assert_eq!(found, Some((second.clone(), second)));

    // Whatever a slice leaves unsaid counts as ready (discovery/v1).
    let unsaid = json!([{"addresses": ["10.244.0.8"], "conditions": {},
        "targetRef": {"kind": "Pod", "name": "billing-2", "uid": "uid-of-billing-2"}}]);
    let found = behind(&service(&json!({})), &[slice(&unsaid)], &Table::new(), true);
    assert_eq!(found.unwrap().1, names(&["billing-2"]));
}

#[test]
fn a_slice_that_is_behind_means_a_pod_that_is_gone() {
    let mut old = endpoint("billing-1", "10.244.0.7", true);
    old["targetRef"]["uid"] = json!("uid-of-its-predecessor");
    let found = behind(
        &service(&json!({})),
        &[slice(&json!([old]))],
        &Table::new(),
        true,
    );
    assert_eq!(found, None, "its endpoint is nobody's of the mesh");
}

#[test]
fn without_a_slice_pods_say_it_themselves() {
    let both = names(&["billing-1", "billing-2"]);
    let found = behind(&service(&json!({})), &[], &Table::new(), false);
    assert_eq!(found, Some((both.clone(), names(&["billing-1"]))));
    let early = service(&json!({"publishNotReadyAddresses": true}));
    let found = behind(&early, &[], &Table::new(), false);
    assert_eq!(found, Some((both.clone(), both)));
}

#[test]
fn only_services_of_the_mesh_are_in_the_mesh() {
    let foreign = [slice(&json!([
        {"addresses": ["10.244.9.9"], "conditions": {"ready": true},
         "targetRef": {"kind": "Pod", "name": "other", "uid": "other"}},
    ]))];
    let empty = [slice(&json!([]))];
    let plain = service(&json!({}));
    // Pods without sidecars serve it, wherever it is.
    assert_eq!(behind(&plain, &foreign, &Table::nobody(), true), None);
    // Nobody serves it: its policies and routes hold, and calls are refused.
    let nobody = Some((Vec::new(), Vec::new()));
    assert_eq!(behind(&plain, &empty, &Table::nobody(), true), nobody);
    assert_eq!(behind(&plain, &[], &Table::nobody(), true), nobody);
    assert_eq!(behind(&plain, &empty, &Table::nobody(), false), None);

    // As long as pods with sidecars only start, those without serve; then calls go to the former.
    let mut both = foreign.to_vec();
    both.push(slice(&json!([endpoint("billing-1", "10.244.0.7", false)])));
    assert_eq!(behind(&plain, &both, &Table::new(), true), None);
    both.push(slice(&json!([endpoint("billing-1", "10.244.0.7", true)])));
    let first = names(&["billing-1"]);
    assert_eq!(
        behind(&plain, &both, &Table::new(), true),
        Some((first.clone(), first))
    );

    let alias = service(&json!({"type": "ExternalName", "externalName": "db.example"}));
    assert_eq!(behind(&alias, &[], &Table::new(), true), None);
}

#[test]
fn without_a_selector_slices_say_who_is_behind() {
    let manual = service(&json!({"selector": null}));
    assert_eq!(behind(&manual, &[], &Table::new(), true), None);
    // By hand, without a reference: by address.
    let slices = [slice(
        &json!([{"addresses": ["10.244.0.7"], "conditions": {}}]),
    )];
    let first = names(&["billing-1"]);
    let found = behind(&manual, &slices, &Table::new(), false);
    assert_eq!(found, Some((first.clone(), first)));
    let elsewhere = [slice(
        &json!([{"addresses": ["192.0.2.1"], "conditions": {}}]),
    )];
    assert_eq!(behind(&manual, &elsewhere, &Table::new(), true), None);
}

/// A Service without a selector that has the ports `web` and `admin`, and one that is not TCP's.
fn manual() -> Service {
    service(&json!({"selector": null, "ports": [
        {"name": "web", "port": 80}, {"name": "admin", "port": 81},
        {"name": "dns", "port": 53, "protocol": "UDP"},
    ]}))
}

/// The ports that hold, who takes calls, and whether the slices are at odds.
fn ported(service: &Service, slices: &[Slice]) -> (Vec<(String, u16)>, Vec<String>, bool) {
    let behind = service.behind(slices.iter(), &Table::new(), true).unwrap();
    let ready = behind.ready.into_iter().map(|name| name.name);
    (
        behind.ports.into_iter().collect(),
        ready.collect(),
        behind.at_odds,
    )
}

#[test]
fn slices_say_the_ports_of_a_service_without_a_selector() {
    let first = json!([endpoint("billing-1", "10.244.0.7", true)]);
    let web = |number: u16| (String::from("web"), number);
    let one = names(&["billing-1"]);
    for (ports, read) in [
        (json!([]), vec![]),
        (json!(null), vec![]),
        (json!([{"name": "web", "port": 9090}]), vec![web(9090)]),
        // All ports, another transport, no port at all, no port of the Service.
        (json!([{"name": "web"}]), vec![]),
        (
            json!([{"name": "web", "port": 9090, "protocol": "UDP"}]),
            vec![],
        ),
        (json!([{"name": "web", "port": 0}]), vec![]),
        (json!([{"name": "dns", "port": 53}]), vec![]),
        (
            json!([{"name": "other", "port": 9090}, {"port": 9091}]),
            vec![],
        ),
    ] {
        let slices = [slice_of(&first, &ports)];
        let expected = (read, one.clone(), false);
        assert_eq!(ported(&manual(), &slices), expected, "{ports}");
    }
    // One port need not have a name.
    let unnamed = service(&json!({"selector": null}));
    for name in [json!(null), json!("")] {
        let slices = [slice_of(&first, &json!([{"name": name, "port": 9090}]))];
        let expected = (vec![(String::new(), 9090)], one.clone(), false);
        assert_eq!(ported(&unnamed, &slices), expected, "{name}");
    }
    // Those of a selector come of targetPort.
    let slices = [slice_of(&first, &json!([{"port": 9090}]))];
    let expected = (vec![], one, false);
    assert_eq!(ported(&service(&json!({})), &slices), expected);
}

#[test]
fn slices_that_are_at_odds_lead_to_those_of_the_first() {
    let one = |ready| json!([endpoint("billing-1", "10.244.0.7", ready)]);
    let two = |ready| json!([endpoint("billing-2", "10.244.0.8", ready)]);
    let foreign = json!([{"addresses": ["192.0.2.1"], "conditions": {}}]);
    let web = |number: u16| json!([{"name": "web", "port": number}]);
    let admin = json!([{"name": "admin", "port": 9100}]);
    let both = json!([{"name": "web", "port": 9090}, {"name": "admin", "port": 9100}]);
    for (slices, ports, ready, at_odds) in [
        // The same, or about other ports: together.
        (
            vec![(one(true), web(8080)), (two(true), web(8080))],
            "web 8080",
            vec!["1", "2"],
            false,
        ),
        (
            vec![(one(true), web(8080)), (two(true), admin)],
            "admin 9100, web 8080",
            vec!["1", "2"],
            false,
        ),
        // The first counts, and of the other nothing.
        (
            vec![(one(true), web(8080)), (two(true), both)],
            "web 8080",
            vec!["1"],
            true,
        ),
        // Whoever is nobody's of the mesh says nothing, nor is it called.
        (
            vec![(foreign, web(7070)), (two(true), web(8080))],
            "web 8080",
            vec!["2"],
            false,
        ),
        // The first that takes calls, so that somebody does.
        (
            vec![(one(false), web(8080)), (two(true), web(9090))],
            "web 9090",
            vec!["2"],
            true,
        ),
        (
            vec![(one(false), web(8080)), (two(false), web(9090))],
            "web 8080",
            vec![],
            true,
        ),
    ] {
        let slices = slices.iter();
        let slices: Vec<Slice> = slices.map(|(who, ports)| slice_of(who, ports)).collect();
        let found = ported(&manual(), &slices);
        let said = found
            .0
            .iter()
            .map(|(name, number)| format!("{name} {number}"));
        assert_eq!(said.collect::<Vec<_>>().join(", "), ports);
        let ready: Vec<String> = ready
            .iter()
            .map(|which| format!("billing-{which}"))
            .collect();
        assert_eq!((found.1, found.2), (ready, at_odds), "{ports}");
        // Policies hold for all of them.
        let all = behind(&manual(), &slices, &Table::new(), true).unwrap().0;
        assert!(all.contains(&"billing-2".to_owned()), "{all:?}");
    }
}

fn addresses(service: &Service) -> Vec<ClusterIp> {
    match &service.entry.object {
        Some(Object::Service(service)) => {
            let spec = &service.spec;
            let all = spec.cluster_ips.iter().copied().chain(spec.cluster_ip);
            all.collect()
        }
        _ => panic!("{:?}", service.entry.problems),
    }
}

#[test]
fn addresses_are_read_in_every_form() {
    let ip = |text: &str| ClusterIp::Address(text.parse().unwrap());
    assert_eq!(addresses(&service(&json!({}))), [ip("10.96.0.9")]);
    let dual = json!({"clusterIPs": ["10.96.0.9", "fd00:96::9"]});
    let both = [ip("10.96.0.9"), ip("fd00:96::9")];
    assert_eq!(addresses(&service(&dual)), both);
    let headless = json!({"clusterIP": "None", "clusterIPs": ["None"]});
    assert_eq!(addresses(&service(&headless)), [ClusterIp::Headless]);
}

#[test]
fn what_kubernetes_may_add_is_not_in_the_way() {
    let much = service(&json!({
        "ports": [
            {"name": "web", "port": 80, "targetPort": "http", "nodePort": 30080,
             "appProtocol": "kubernetes.io/h2c", "protocol": "TCP"},
            {"name": "dns", "port": 53, "protocol": "UDP"},
        ],
        "type": "LoadBalancer", "internalTrafficPolicy": "Local", "sessionAffinity": "None",
    }));
    assert_eq!(much.entry.problems, []);
    let Some(Object::Service(read)) = &much.entry.object else {
        panic!("a Service");
    };
    assert_eq!(read.spec.ports.len(), 2);
    assert_eq!(
        read.spec.ports[0].app_protocol.as_deref(),
        Some("kubernetes.io/h2c")
    );
}
