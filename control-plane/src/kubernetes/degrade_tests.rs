use std::net::IpAddr;

use outrider_api::authorization::{self, Action};
use outrider_api::model::{Routes, Target};
use outrider_api::names::ServiceName;
use serde_json::{Value, json};

use super::*;
use crate::kubernetes::pods::tests::pod;
use crate::kubernetes::{objects, pods, services};

const OURS: &str = "outrider.mesh/v1alpha1";
const GATEWAY: &str = "gateway.networking.k8s.io/v1";

fn object(kind: Kind, name: &str, spec: &Value) -> Arc<Entry> {
    written(kind, ("shop", name, 1), spec)
}

fn written(
    kind: Kind,
    (namespace, name, generation): (&str, &str, i64),
    spec: &Value,
) -> Arc<Entry> {
    let version = match kind {
        Kind::HttpRoute | Kind::GrpcRoute | Kind::TcpRoute => GATEWAY,
        _ => OURS,
    };
    let object = json!({
        "metadata": {"name": name, "namespace": namespace, "uid": name, "generation": generation},
        "spec": spec,
    });
    let object = serde_json::from_value(object).unwrap();
    Arc::new(objects::read(kind, version, &object).unwrap())
}

/// One pod, and the Service that selects it.
fn shop() -> Vec<Arc<Entry>> {
    let containers = json!([{"name": "app", "image": "a", "ports": [{"containerPort": 8080}]}]);
    let (_, pod) = pods::read(&pod(
        "billing-1",
        &json!({"spec": {"containers": containers}}),
    ))
    .unwrap();
    let service = json!({
        "metadata": {"name": "billing", "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.9", "selector": {"app": "billing"},
                 "ports": [{"port": 80, "targetPort": 8080}]},
    });
    let service = services::read(&serde_json::from_value(service).unwrap()).unwrap();
    vec![Arc::new(pod), service.entry]
}

fn shop_and(more: &[Arc<Entry>]) -> Held {
    after(None, more)
}

fn after(before: Option<&Held>, more: &[Arc<Entry>]) -> Held {
    let mut entries = shop();
    entries.extend(more.iter().cloned());
    Held::after(before, entries.into_iter().collect())
}

fn mesh(held: &Held) -> (Mesh, Verdicts) {
    let Degraded { mesh, verdicts, .. } = degrade(held, None);
    (mesh.unwrap(), verdicts)
}

fn verdict<'v>(verdicts: &'v Verdicts, of: &Entry) -> (Outcome, Vec<(&'v str, Cause)>) {
    let verdict = &verdicts.0[&of.id];
    let problems = verdict.problems.iter();
    let problems = problems.map(|problem| (problem.field.as_str(), problem.cause));
    (verdict.outcome, problems.collect())
}

fn policies(mesh: &Mesh) -> Vec<authorization::Policy> {
    let workload = mesh.workload("shop", "billing-1").unwrap();
    workload.authorization.policies().to_vec()
}

#[test]
fn a_policy_that_cannot_be_read_denies_everything_at_its_targets() {
    let bad = object(
        Kind::AuthorizationPolicy,
        "allow",
        &json!({"targetRefs": [{"group": "", "kind": "Service", "name": "billing"}],
                "rules": [{"sauces": []}]}),
    );
    let (mesh, verdicts) = mesh(&shop_and(&[Arc::clone(&bad)]));
    let (outcome, problems) = verdict(&verdicts, &bad);
    assert_eq!(outcome, Outcome::Refusing);
    assert_eq!(problems, [("spec.rules[0].sauces", Cause::Invalid)]);
    let [policy] = &policies(&mesh)[..] else {
        panic!("one policy");
    };
    assert_eq!((policy.action, &*policy.name), (Action::Deny, "allow"));
    assert_eq!(policy.rules[0].name.as_deref(), Some("policy-is-invalid"));
    assert!(policy.rules[0].sources.is_none() && policy.rules[0].ports.is_empty());
}

/// The API server keeps it: nobody is to think that it is in force.
#[test]
fn a_field_beside_the_spec_is_not_passed_over() {
    let object = json!({
        "metadata": {"name": "p", "namespace": "shop", "generation": 1},
        "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "billing"}]},
        "action": "DENY",
        "status": {"anything": true},
    });
    let object = serde_json::from_value(object).unwrap();
    let entry = objects::read(Kind::AuthorizationPolicy, OURS, &object).unwrap();
    let fields: Vec<&str> = entry.problems.iter().map(|it| it.field.as_str()).collect();
    assert_eq!(fields, ["action"]);
}

#[test]
fn a_policy_of_which_nobody_knows_what_it_is_about_denies_its_namespace() {
    let bad = object(
        Kind::AuthorizationPolicy,
        "allow",
        &json!({"targetRefs": "all"}),
    );
    let elsewhere = written(
        Kind::AuthorizationPolicy,
        ("other", "allow", 1),
        &json!({"targetRefs": "all"}),
    );
    let (mesh, verdicts) = mesh(&shop_and(&[Arc::clone(&bad), elsewhere]));
    assert_eq!(verdict(&verdicts, &bad).0, Outcome::Refusing);
    let policies = policies(&mesh);
    assert_eq!(
        policies.len(),
        1,
        "that of the other namespace is not about it"
    );
    assert_eq!(policies[0].action, Action::Deny);
}

#[test]
fn what_a_policy_is_about_may_come_later() {
    let target = |name: &str| json!({"group": "", "kind": "Service", "name": name});
    let early = object(
        Kind::AuthorizationPolicy,
        "allow",
        &json!({"targetRefs": [target("later"), target("billing")],
                "rules": [{"networkAttributes": {"ports": [9999]}}]}),
    );
    let (mesh, verdicts) = mesh(&shop_and(&[Arc::clone(&early)]));
    let (outcome, problems) = verdict(&verdicts, &early);
    assert_eq!(outcome, Outcome::Applied);
    let expected = [
        ("spec.targetRefs[0].name", Cause::TargetNotFound),
        ("spec.rules[0].networkAttributes.ports[0]", Cause::NoEffect),
    ];
    for problem in expected {
        assert!(problems.contains(&problem), "{problems:?}");
    }
    assert_eq!(
        policies(&mesh).len(),
        1,
        "it holds for the target that there is"
    );
}

fn backends(mesh: &Mesh) -> Vec<Target> {
    let billing = ServiceName {
        namespace: "shop".to_owned(),
        name: "billing".to_owned(),
    };
    let destination = mesh.destination(&billing).unwrap();
    let groups = destination.routes.iter();
    let targets = groups.flat_map(|group| match &group.routes {
        Routes::Http(http) => {
            let rules = http.rules.iter();
            let backends = rules.flat_map(|rule| &rule.backends);
            backends.map(|backend| backend.target.clone()).collect()
        }
        Routes::Tcp(rule) => {
            let backends = rule.backends.iter();
            backends
                .map(|backend| backend.target.clone())
                .collect::<Vec<_>>()
        }
    });
    targets.collect()
}

#[test]
fn a_bad_route_refuses_its_traffic() {
    let parents = json!([{"group": "", "kind": "Service", "name": "billing"}]);
    let specs = [
        // The parser's to refuse, and the index's.
        (
            Kind::HttpRoute,
            json!({"parentRefs": parents, "rules": [{"matches": 1}]}),
        ),
        (
            Kind::HttpRoute,
            json!({"parentRefs": parents, "rules": [{"timeouts": {"request": "1h", "backendRequest": "2h"},
                "backendRefs": [{"name": "billing", "port": 80}]}]}),
        ),
        (
            Kind::GrpcRoute,
            json!({"parentRefs": parents, "rules": [{"matches": 1}]}),
        ),
        (
            Kind::TcpRoute,
            json!({"parentRefs": parents, "rules": [{"backendRefs": 1}]}),
        ),
    ];
    for (kind, spec) in specs {
        let bad = object(kind, "route", &spec);
        let (mesh, verdicts) = mesh(&shop_and(&[Arc::clone(&bad)]));
        assert_eq!(verdict(&verdicts, &bad).0, Outcome::Refusing, "{spec}");
        let backends = backends(&mesh);
        assert!(
            matches!(&backends[..], [Target::Invalid(_)]),
            "{backends:?}"
        );
    }
    let lost = object(Kind::HttpRoute, "route", &json!({"parentRefs": 1}));
    let (mesh, verdicts) = mesh(&shop_and(&[Arc::clone(&lost)]));
    assert_eq!(verdict(&verdicts, &lost).0, Outcome::LeftOut);
    assert!(backends(&mesh).is_empty());
}

#[test]
fn a_route_of_what_is_not_of_the_mesh_says_so_and_no_more() {
    let parents = json!([{"group": "", "kind": "Service", "name": "kubernetes"}]);
    let early = object(Kind::HttpRoute, "route", &json!({"parentRefs": parents}));
    let (_, verdicts) = mesh(&shop_and(&[Arc::clone(&early)]));
    let (outcome, problems) = verdict(&verdicts, &early);
    assert_eq!(outcome, Outcome::Applied);
    assert!(
        problems.contains(&("spec.parentRefs[0].name", Cause::TargetNotFound)),
        "{problems:?}"
    );
}

fn traffic(generation: i64, timeouts: &Value) -> Arc<Entry> {
    let targets = json!([{"group": "", "kind": "Service", "name": "billing"}]);
    let spec = json!({"targetRefs": targets, "timeouts": timeouts});
    written(Kind::TrafficPolicy, ("shop", "calm", generation), &spec)
}

#[test]
fn a_bad_traffic_policy_leaves_the_last_good_one() {
    let request = |mesh: &Mesh| {
        let destination = mesh.destinations().values().next().unwrap();
        destination.traffic.timeouts.request
    };
    let good = traffic(1, &json!({"request": "3s"}));
    let first = shop_and(&[Arc::clone(&good)]);
    let (applied, _) = mesh(&first);
    let three = request(&applied);

    let bad = traffic(2, &json!({"request": "soon"}));
    let second = after(Some(&first), &[Arc::clone(&bad)]);
    let (applied, verdicts) = mesh(&second);
    assert_eq!(verdict(&verdicts, &bad).0, Outcome::LastGood);
    assert_eq!(request(&applied), three);
    // For as long as it is bad.
    let third = after(Some(&second), &[Arc::clone(&bad)]);
    assert_eq!(request(&mesh(&third).0), three);

    // Deleted, it is forgotten; without a last good one it is left out.
    mesh(&after(Some(&third), &[]));
    let (applied, verdicts) = mesh(&after(Some(&third), &[Arc::clone(&bad)]));
    assert_eq!(verdict(&verdicts, &bad).0, Outcome::LeftOut);
    assert_ne!(request(&applied), three);
}

#[test]
fn of_two_traffic_policies_the_older_wins() {
    let policy = |name: &str, created: &str, timeout: &str| {
        let object = json!({
            "metadata": {"name": name, "namespace": "shop", "uid": name, "creationTimestamp": created},
            "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "billing"}],
                     "timeouts": {"request": timeout}},
        });
        let object = serde_json::from_value(object).unwrap();
        Arc::new(objects::read(Kind::TrafficPolicy, OURS, &object).unwrap())
    };
    let younger = policy("a", "2026-11-27T09:00:00Z", "1s");
    let older = policy("b", "2026-11-27T08:00:00Z", "2s");
    let (mesh, verdicts) = mesh(&shop_and(&[Arc::clone(&younger), Arc::clone(&older)]));
    assert_eq!(verdict(&verdicts, &older), (Outcome::Applied, Vec::new()));
    let expected = vec![("spec.targetRefs[0].name", Cause::Conflicted)];
    assert_eq!(verdict(&verdicts, &younger), (Outcome::Applied, expected));
    let destination = mesh.destinations().values().next().unwrap();
    let request = destination.traffic.timeouts.request;
    assert_eq!(request, Some(std::time::Duration::from_secs(2)));
}

#[test]
fn without_its_settings_there_is_no_mesh_and_with_the_last_good_ones_there_is() {
    let config = |generation, spec: &Value| {
        written(
            Kind::MeshConfig,
            ("outrider-system", "default", generation),
            spec,
        )
    };
    let bad = config(2, &json!({"defaultDenny": true}));
    let refused = degrade(&shop_and(&[Arc::clone(&bad)]), None);
    assert!(
        refused.mesh.is_err(),
        "the default would allow what is to be denied"
    );

    let first = shop_and(&[config(1, &json!({"defaultDeny": true}))]);
    mesh(&first);
    let (applied, verdicts) = mesh(&after(Some(&first), &[Arc::clone(&bad)]));
    assert!(applied.settings().default_deny);
    assert_eq!(verdict(&verdicts, &bad).0, Outcome::LastGood);
}

#[test]
fn nobody_is_let_in_unless_somebody_says_so() {
    let own = ("outrider-system", "default", 1);
    for (config, denies) in [
        (None, true),
        (Some(json!({"accessLog": true})), true),
        (Some(json!({"defaultDeny": false})), false),
    ] {
        let config = config.map(|spec| written(Kind::MeshConfig, own, &spec));
        let (mesh, _) = mesh(&shop_and(config.as_slice()));
        assert_eq!(mesh.settings().default_deny, denies, "{config:?}");
        let billing = mesh.workload("shop", "billing-1").unwrap();
        assert_eq!(billing.authorization.default_deny(), denies);
    }
}

#[test]
fn only_one_mesh_config_is_read() {
    let other = object(Kind::MeshConfig, "default", &json!({"defaultDeny": false}));
    let (mesh, verdicts) = mesh(&shop_and(&[Arc::clone(&other)]));
    assert!(
        mesh.settings().default_deny,
        "what is left out says nothing"
    );
    let expected = vec![("metadata.name", Cause::Invalid)];
    assert_eq!(verdict(&verdicts, &other), (Outcome::LeftOut, expected));
}

#[test]
fn a_bad_pod_is_left_out() {
    let ports = json!([{"containerPort": 15008}]);
    let more = json!({
        "spec": {"containers": [{"name": "app", "image": "a", "ports": ports}]},
        "status": {"podIP": "10.244.0.8", "podIPs": [{"ip": "10.244.0.8"}]},
    });
    let (_, bad) = pods::read(&pod("billing-2", &more)).unwrap();
    let bad = Arc::new(bad);
    let (mesh, verdicts) = mesh(&shop_and(&[Arc::clone(&bad)]));
    assert_eq!(verdict(&verdicts, &bad).0, Outcome::LeftOut);
    assert_eq!(mesh.workloads().len(), 1);
    let address: IpAddr = "10.244.0.8".parse().unwrap();
    assert!(!mesh.addresses().contains_key(&address));
}

#[test]
fn one_bad_object_among_a_thousand_changes_nothing_for_the_others() {
    let policies = (0..1000).map(|number| {
        let rules = if number == 500 { json!(7) } else { json!([{}]) };
        let spec =
            json!({"targetRefs": [{"group": "", "kind": "Pod", "selector": {}}], "rules": rules});
        object(Kind::AuthorizationPolicy, &format!("allow-{number}"), &spec)
    });
    let policies: Vec<Arc<Entry>> = policies.collect();
    let (mesh, verdicts) = mesh(&shop_and(&policies));
    let workload = mesh.workload("shop", "billing-1").unwrap();
    assert_eq!(workload.authorization.policies().len(), 1000);
    let bad = verdicts
        .0
        .values()
        .filter(|one| one.outcome != Outcome::Applied);
    assert_eq!(bad.count(), 1);
}

#[test]
fn the_command_says_the_trust_domain_where_no_mesh_config_does() {
    let domain = |held: &Held| mesh(held).0.settings().trust_domain.to_string();
    let own = ("outrider-system", "default", 1);
    let silent = written(Kind::MeshConfig, own, &json!({"defaultDeny": true}));
    let other = json!({"trustDomain": "bank.example"});
    let other = written(Kind::MeshConfig, own, &other);
    assert_eq!(domain(&shop_and(&[])), "cluster.local");
    for (config, expected) in [
        (vec![], "shop.example"),
        (vec![silent.clone()], "shop.example"),
        (vec![other], "bank.example"),
    ] {
        let held = shop_and(&config).of_domain("shop.example");
        assert_eq!(domain(&held), expected);
    }
    // It is the same for the authority that runs: nothing has to be said twice.
    let dir = tempfile::tempdir().unwrap();
    let authority = outrider_certs::authority::CertificateAuthority::load_or_create(
        dir.path(),
        &"shop.example".parse().unwrap(),
        std::time::SystemTime::now(),
    );
    let trust = authority.unwrap().trust_bundle();
    let held = shop_and(&[silent]).of_domain("shop.example");
    let mesh = degrade(&held, Some(&trust)).mesh;
    assert!(mesh.is_ok(), "{:?}", mesh.err());
}

/// Each by itself is good; what is wrong with the policy is the fault of the settings.
#[test]
fn bad_settings_take_no_policy_with_them() {
    let config = |generation, timeouts: &Value| {
        let spec = json!({"traffic": {"timeouts": timeouts}});
        written(
            Kind::MeshConfig,
            ("outrider-system", "default", generation),
            &spec,
        )
    };
    let policy = traffic(1, &json!({"connect": "1s"}));
    let good = config(1, &json!({"request": "9s"}));
    let first = shop_and(&[Arc::clone(&policy), good]);
    mesh(&first);
    let bad = config(2, &json!({"request": "1s", "backendRequest": "5s"}));
    let second = after(Some(&first), &[Arc::clone(&policy), Arc::clone(&bad)]);
    let (applied, verdicts) = mesh(&second);
    assert_eq!(verdict(&verdicts, &bad).0, Outcome::LastGood);
    assert_eq!(verdict(&verdicts, &policy), (Outcome::Applied, Vec::new()));
    let destination = applied.destinations().values().next().unwrap();
    let timeouts = &destination.traffic.timeouts;
    let nine = Some(std::time::Duration::from_secs(9));
    assert_eq!(timeouts.request, nine);

    // What is written next is judged beside the same.
    assert_eq!(checked(&second, &traffic(2, &json!({"connect": "2s"}))), []);
}

/// What is wrong with an object that is not there yet, beside what stands.
fn checked(held: &Held, new: &Entry) -> Vec<(String, Cause)> {
    held.judge(None).unwrap();
    held.settle();
    let standing = held.standing().borrow().clone().unwrap();
    let shelves = standing.shelves.clone().with(new.object.as_ref().unwrap());
    let beside = Beside {
        default_deny: DEFAULT_DENY,
        endpoints: Some(&standing.endpoints),
        tolerated: TOLERATED,
        ..Beside::default()
    };
    let mut memo = standing.memo.of_ground();
    let problems = index::check(&shelves, beside, &mut memo).into_iter();
    problems.map(|it| (it.field, it.cause)).collect()
}

#[test]
fn what_is_applied_is_what_others_are_judged_beside() {
    let held = shop_and(&[]);
    let standing = held.standing();
    assert!(standing.borrow().is_none());
    held.judge(None).unwrap();
    assert!(standing.borrow().is_none(), "judged, but not applied");
    held.settle();
    assert!(standing.borrow().is_some());

    let about = |service: &str| {
        let target = json!([{"group": "", "kind": "Service", "name": service}]);
        let rules = json!([{"name": "all"}]);
        object(
            Kind::AuthorizationPolicy,
            "new",
            &json!({"targetRefs": target, "rules": rules}),
        )
    };
    assert_eq!(checked(&held, &about("billing")), []);
    let missing = ("spec.targetRefs[0].name".to_owned(), Cause::TargetNotFound);
    assert_eq!(checked(&held, &about("orders")), [missing]);
    let calm = shop_and(&[traffic(1, &json!({"request": "1s"}))]);
    let second = json!({"targetRefs": [{"group": "", "kind": "Service", "name": "billing"}]});
    let second = object(Kind::TrafficPolicy, "second", &second);
    let conflicted = ("spec.targetRefs[0].name".to_owned(), Cause::Conflicted);
    assert_eq!(checked(&calm, &second), [conflicted]);
}
