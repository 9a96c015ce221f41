//! What holds of every pod.

use proptest::prelude::*;

use super::*;

fn name() -> impl Strategy<Value = String> {
    "[a-z]([a-z0-9-]{0,8}[a-z0-9])?"
}

fn containers(least: usize) -> impl Strategy<Value = Value> {
    let port = prop_oneof![Just(8080), 1..20000];
    let container = (name(), proptest::collection::vec(port, 0..2)).prop_map(|(name, ports)| {
        let ports: Vec<Value> = ports
            .iter()
            .map(|port| json!({"containerPort": port}))
            .collect();
        json!({"name": name, "ports": ports, "image": "x"})
    });
    proptest::collection::vec(container, least..4).prop_map(Value::Array)
}

fn annotations() -> impl Strategy<Value = Value> {
    let all = vec![
        ("outrider.mesh/workers", "2"),
        ("outrider.mesh/sidecar", "classic"),
        ("outrider.mesh/interception-mode", "TProxy"),
        ("outrider.mesh/exclude-outbound-ports", "3306,6379"),
        ("outrider.mesh/mtls", "Stric"),
        ("example.com/a", "b"),
    ];
    proptest::sample::subsequence(all, 0..=3).prop_map(|pairs| {
        let pairs = pairs.into_iter();
        Value::Object(
            pairs
                .map(|(key, value)| (key.to_owned(), json!(value)))
                .collect(),
        )
    })
}

fn pods() -> impl Strategy<Value = Value> {
    let policy = prop_oneof![Just("Always"), Just("Never"), Just("OnFailure")];
    (
        containers(1),
        containers(0),
        annotations(),
        policy,
        any::<bool>(),
    )
        .prop_map(|(containers, init, annotations, policy, host)| {
            json!({
                "metadata": {"annotations": annotations},
                "spec": {
                    "containers": containers,
                    "initContainers": init,
                    "restartPolicy": policy,
                    "hostNetwork": host,
                },
            })
        })
}

fn kinds() -> impl Strategy<Value = SidecarKind> {
    prop_oneof![Just(SidecarKind::Native), Just(SidecarKind::Classic)]
}

fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z]{0,6}".prop_map(Value::from)
    ];
    let key = prop_oneof![
        "[a-z]{0,6}",
        Just("metadata".to_owned()),
        Just("spec".to_owned()),
        Just("containers".to_owned()),
        Just("initContainers".to_owned()),
        Just("name".to_owned()),
        Just("annotations".to_owned()),
        Just("kind".to_owned()),
        Just("items".to_owned()),
    ];
    leaf.prop_recursive(5, 64, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            proptest::collection::btree_map(key.clone(), inner, 0..5).prop_map(|map| json!(map)),
        ]
    })
}

proptest! {
    /// Also where the first and the second time are of different clusters.
    #[test]
    fn twice_is_as_good_as_once(pod in pods(), first in kinds(), second in kinds()) {
        if let Ok(Outcome::Injected { patch, .. }) = outcome(&pod, first) {
            let mut once = pod.clone();
            apply(&mut once, &patch).unwrap();
            prop_assert_eq!(outcome(&once, second), Ok(Outcome::Left(Left::AlreadyInjected)));
        }
    }

    #[test]
    fn containers_of_the_pod_keep_their_order_and_their_words(pod in pods(), kind in kinds()) {
        if let Ok(Outcome::Injected { patch, .. }) = outcome(&pod, kind) {
            let mut after = pod.clone();
            apply(&mut after, &patch).unwrap();
            for list in ["containers", "initContainers"] {
                let own = |container: &&Value| {
                    container["name"] != INIT_CONTAINER && container["name"] != SIDECAR_CONTAINER
                };
                let kept = after["spec"][list].as_array().unwrap().iter().filter(own).cloned();
                let kept: Vec<Value> = match list {
                    "containers" => kept.map(|container| own_words(&container)).collect(),
                    _ => kept.collect(),
                };
                prop_assert_eq!(&kept, pod["spec"][list].as_array().unwrap());
            }
        }
    }

    #[test]
    fn no_value_makes_it_panic(value in anything(), kind in kinds()) {
        let _ = outcome(&value, kind);
        let mut report = template::Report::default();
        let _ = template::inject_object(&mut value.clone(), "shop", &settings(kind), &mut report);
    }
}
