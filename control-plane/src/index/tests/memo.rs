//! What was made before changes how long a fold takes, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use outrider_api::manifest::{Cause, Object};
use outrider_certs::authority::NewAuthority;
use outrider_certs::bundle::TrustBundle;
use outrider_certs::spiffe::TrustDomain;
use proptest::prelude::*;

use super::*;
use crate::index::{Beside, Endpoints, Memo, Shared, Shelves, WorkloadName, check, fold};

const WORKLOAD: &str = "{apiVersion: outrider.mesh/v1alpha1, kind: Workload, metadata: ";
const SERVICE: &str = "{apiVersion: v1, kind: Service, metadata: ";
const POLICY: &str = "{apiVersion: outrider.mesh/v1alpha1, kind: AuthorizationPolicy, metadata: ";
const OURS: &str = "{apiVersion: outrider.mesh/v1alpha1, kind: ";
const ROUTE: &str = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: ";

/// Objects, each with what it may say: nothing, something good, something that is bad together with
/// others.
fn objects() -> Vec<Vec<Option<String>>> {
    let workload = |name: &str, labels: &str, spec: &str| {
        Some(format!(
            "{WORKLOAD}{{name: {name}, namespace: shop, labels: {labels}}}, spec: {{serviceAccount: {name}, {spec}}}}}"
        ))
    };
    let service = |name: &str, spec: &str| {
        Some(format!(
            "{SERVICE}{{name: {name}, namespace: shop}}, spec: {spec}}}"
        ))
    };
    let policy = |spec: &str| {
        Some(format!(
            "{POLICY}{{name: allow, namespace: shop}}, spec: {spec}}}"
        ))
    };
    let ours = |kind: &str, spec: &str| {
        Some(format!(
            "{OURS}{kind}, metadata: {{name: default, namespace: shop}}, spec: {spec}}}"
        ))
    };
    let route = |spec: &str| {
        Some(format!(
            "{ROUTE}{{name: split, namespace: shop}}, spec: {spec}}}"
        ))
    };
    vec![
        vec![
            workload(
                "a-1",
                "{app: a}",
                "address: 10.0.0.1, ports: [{name: web, port: 8080}]",
            ),
            None,
            workload(
                "a-1",
                "{app: a}",
                "address: 10.0.0.3, ports: [{name: web, port: 8081}]",
            ),
            workload("a-1", "{app: b}", "address: 10.0.0.2"),
        ],
        vec![
            workload(
                "b-1",
                "{app: b}",
                "address: 10.0.0.2, ports: [{port: 8080, appProtocol: grpc}]",
            ),
            None,
            workload("b-1", "{app: a}", "address: 10.0.0.2, mtls: Permissive"),
        ],
        vec![
            service(
                "a",
                "{clusterIP: 10.96.0.1, selector: {app: a}, ports: [{port: 80, targetPort: 8080}]}",
            ),
            None,
            service(
                "a",
                "{clusterIP: 10.96.0.1, selector: {app: a}, ports: [{port: 80, targetPort: web}]}",
            ),
            service(
                "a",
                "{clusterIP: 10.0.0.1, selector: {app: b}, ports: [{port: 80, appProtocol: http}]}",
            ),
        ],
        vec![
            service(
                "b",
                "{clusterIP: 10.96.0.2, selector: {app: b}, ports: [{port: 80}]}",
            ),
            None,
        ],
        vec![
            None,
            policy("{targetRefs: [{group: '', kind: Pod, selector: {}}], rules: [{name: one}]}"),
            policy(
                "{targetRefs: [{group: '', kind: Service, name: a}], rules: [{networkAttributes: {ports: [8080]}}]}",
            ),
        ],
        vec![
            None,
            ours("MeshConfig", "{defaultDeny: true}"),
            ours(
                "MeshConfig",
                "{mtls: Permissive, traffic: {timeouts: {request: 7s}}}",
            ),
        ],
        vec![
            None,
            ours(
                "TrafficPolicy",
                "{targetRefs: [{group: '', kind: Service, name: b}], timeouts: {request: 3s}}",
            ),
        ],
        vec![
            None,
            ours(
                "RateLimitPolicy",
                "{targetRefs: [{group: '', kind: Service, name: a}], limits: [{name: x, requests: 5, interval: 1s}]}",
            ),
        ],
        vec![
            None,
            route(
                "{parentRefs: [{group: '', kind: Service, name: a}], rules: [{backendRefs: [{name: b, port: 80}]}]}",
            ),
            route(
                "{parentRefs: [{group: '', kind: Service, name: b}], rules: [{timeouts: {backendRequest: 5s}, backendRefs: [{name: b, port: 80}]}]}",
            ),
        ],
    ]
}

fn parsed(text: &str) -> Object {
    let mut objects = manifest::parse(Path::new("mesh.yaml"), text).expect(text);
    objects.remove(0)
}

/// Slots of changes after those of [`objects`].
const ENDPOINTS: usize = 9;
const TRUST: usize = 10;
const TOLERATED: usize = 11;

/// What is known beside the objects, each with nothing of it, too.
struct Around {
    endpoints: Vec<Option<Endpoints>>,
    trust: Vec<Option<TrustBundle>>,
    tolerated: Vec<&'static [Cause]>,
}

static AROUND: LazyLock<Around> = LazyLock::new(|| Around {
    endpoints: vec![
        None,
        Some(endpoints(&["a-1"], &["a-1"])),
        Some(endpoints(&["a-1", "b-1"], &[])),
        Some(endpoints(&[], &["b-1"])),
    ],
    trust: vec![None, Some(bundle()), Some(bundle())],
    tolerated: vec![&[], &[Cause::TargetNotFound, Cause::Conflicted]],
});

/// Behind the Service `b`, though nothing selects them, and ready behind `a`.
fn endpoints(behind_b: &[&str], ready_behind_a: &[&str]) -> Endpoints {
    let names = |names: &[&str]| -> BTreeSet<WorkloadName> {
        let names = names.iter().map(|name| WorkloadName::new("shop", *name));
        names.collect()
    };
    Endpoints {
        members: Shared::new(BTreeMap::from([(service("b"), names(behind_b))])),
        ready: Shared::new(BTreeMap::from([(
            service("a"),
            Shared::new(names(ready_behind_a)),
        )])),
    }
}

fn bundle() -> TrustBundle {
    let domain: TrustDomain = crate::index::DEFAULT_TRUST_DOMAIN.parse().unwrap();
    let lifetime = Duration::from_secs(60);
    let new = NewAuthority::generate(&domain, lifetime, SystemTime::now()).unwrap();
    TrustBundle::from_pem(domain, new.certificate.as_bytes()).unwrap()
}

fn folded(shelves: &Shelves, memo: &mut Memo) -> Result<Mesh, Vec<Problem>> {
    fold(shelves, Beside::default(), memo)
}

fn one_of<T>(choices: &[T], choice: usize) -> &T {
    &choices[choice % choices.len()]
}

proptest! {
    #[test]
    fn a_fold_says_the_same_whatever_was_folded_before(
        changes in prop::collection::vec((0..=TOLERATED, 0..4_usize), 1..40),
    ) {
        let choices = objects();
        let mut held: Vec<Option<Object>> = choices
            .iter()
            .map(|choice| choice[0].as_deref().map(parsed))
            .collect();
        let mut beside = Beside::default();
        let mut memo = Memo::default();
        for (slot, choice) in changes {
            match slot {
                ENDPOINTS => beside.endpoints = one_of(&AROUND.endpoints, choice).as_ref(),
                TRUST => beside.trust = one_of(&AROUND.trust, choice).as_ref(),
                TOLERATED => beside.tolerated = *one_of(&AROUND.tolerated, choice),
                _ => held[slot] = one_of(&choices[slot], choice).as_deref().map(parsed),
            }
            let shelves: Shelves = held.iter().flatten().cloned().collect();
            let now = fold(&shelves, beside, &mut memo);
            let anew = fold(&shelves, beside, &mut Memo::default());
            match (now, anew) {
                (Ok(now), Ok(anew)) => {
                    prop_assert_eq!(now.workloads(), anew.workloads());
                    prop_assert_eq!(now.destinations(), anew.destinations());
                    prop_assert_eq!(now.addresses(), anew.addresses());
                    prop_assert_eq!(now.settings(), anew.settings());
                    prop_assert_eq!(now.warnings(), anew.warnings());
                    for workload in now.workloads().values() {
                        prop_assert!(now.has_identity(&workload.id));
                    }
                    let all = ("shop".to_owned(), "allow".to_owned());
                    prop_assert_eq!(now.policy_targets(&all), anew.policy_targets(&all));
                }
                (Err(now), Err(anew)) => prop_assert_eq!(now, anew),
                (now, anew) => prop_assert!(false, "{:?}\n{:?}", now.err(), anew.err()),
            }
            let now = check(&shelves, beside, &mut memo.of_ground());
            let anew = check(&shelves, beside, &mut Memo::default());
            prop_assert_eq!(now, anew);
        }
    }
}

#[test]
fn what_a_change_does_not_touch_is_the_very_same() {
    let choices = objects();
    let first =
        |choice: &Vec<Option<String>>| choice.iter().flatten().next().map(|text| parsed(text));
    let mut held: Vec<Option<Object>> = choices.iter().map(first).collect();
    let mut memo = Memo::default();
    let mut mesh = |held: &[Option<Object>]| {
        folded(&held.iter().flatten().cloned().collect(), &mut memo).unwrap()
    };
    let before = mesh(&held);
    // The pod of one Service.
    held[0] = choices[0][2].as_deref().map(parsed);
    let after = mesh(&held);
    let same = |name: &str| {
        let of = |mesh: &Mesh| Arc::clone(mesh.workload("shop", name).unwrap());
        Arc::ptr_eq(&of(&before), &of(&after))
    };
    assert!(!same("a-1") && same("b-1"));
    let same = |name: &str| {
        let of = |mesh: &Mesh| Arc::clone(mesh.destination(&service(name)).unwrap());
        Arc::ptr_eq(&of(&before), &of(&after))
    };
    assert!(!same("a") && same("b"));
    let address = "10.0.0.2".parse().unwrap();
    assert!(Arc::ptr_eq(
        &before.addresses()[&address],
        &after.addresses()[&address]
    ));
}

#[test]
fn what_services_and_pods_mean_is_lent() {
    let choices = objects();
    let first =
        |choice: &Vec<Option<String>>| choice.iter().flatten().next().map(|text| parsed(text));
    let held: Shelves = choices.iter().filter_map(first).collect();
    let (mut memo, endpoints) = (Memo::default(), Endpoints::default());
    let beside = Beside {
        endpoints: Some(&endpoints),
        ..Beside::default()
    };
    let mesh = fold(&held, beside, &mut memo).unwrap();
    let other = Shelves {
        policies: Default::default(),
        ..held
    };
    let other = fold(&other, beside, &mut memo.of_ground()).unwrap();
    assert!(mesh.ground == other.ground && mesh.policies != other.policies);
}
