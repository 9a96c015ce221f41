//! `outrider inject`: what the API server stores of what the command has written is what it stores where the
//! webhook does the work, byte for byte, and the webhook changes nothing of it.

use anyhow::{Context, Result};
use mesh_tests::kubernetes::{Namespace, PATIENCE};
use mesh_tests::process::{command, run_with_input};
use mesh_tests::programs::outrider;
use serde_json::{Value, json};

use super::injector::{IMAGE, Injector, annotated, created, created_of, pod};
use crate::kubernetes_common::documents;

/// Of the objects below.
const NAMES: [&str; 4] = ["web", "work", "classic", "nightly"];
/// What controllers make of chance or of the template's text.
const CHANCE: [&str; 3] = [
    "pod-template-hash",
    "controller-uid",
    "batch.kubernetes.io/controller-uid",
];

struct Way {
    injector: Injector,
    /// The webhook is asked.
    meshed: Namespace,
    /// Nobody is.
    plain: Namespace,
}

impl Way {
    fn start() -> Result<Self> {
        let injector = Injector::start()?;
        let meshed = injector.namespace("webhook", Some("enabled"))?;
        let plain = injector.namespace("command", None)?;
        Ok(Self {
            injector,
            meshed,
            plain,
        })
    }

    /// What the command makes of a manifest.
    fn injected(&self, manifest: &str, options: &[&str]) -> Result<String> {
        let mut inject = command(&outrider()?)?;
        inject.args(["inject", "-f", "-", "--image", IMAGE]);
        inject.args(["--image-pull-policy", "Never"]);
        inject.args(["--mesh-namespace", self.injector.home.name()]);
        inject.args(options);
        let injected = run_with_input(&mut inject, manifest.as_bytes(), PATIENCE)?;
        Ok(injected.success()?.stdout)
    }
}

#[test]
fn the_command_makes_of_pods_what_the_webhook_makes() -> Result<()> {
    let way = Way::start()?;
    for pod in [
        pod("plain", json!({})),
        annotated(
            "bounded",
            json!({"outrider.mesh/exclude-outbound-ports": "3306",
            "outrider.mesh/cpu-limit": "1", "outrider.mesh/log-level": "info,outrider_proxy=debug",
            "outrider.mesh/drain-timeout": "3s", "outrider.mesh/workers": "2"}),
        ),
        annotated("classic", json!({"outrider.mesh/sidecar": "classic"})),
        annotated(
            "tproxy",
            json!({"outrider.mesh/interception-mode": "TProxy"}),
        ),
        much(),
    ] {
        let by_webhook = written(&created(&way.meshed, &pod)?);
        let injected = way.injected(&pod.to_string(), &[])?;
        let by_command = written(&created_of(&way.plain, &injected)?);
        assert_eq!(by_command, by_webhook);
        let again = written(&created_of(&way.meshed, &injected)?);
        assert_eq!(again, by_command, "the webhook has changed something");
    }
    // As in a cluster that takes no other kind: there the webhook does it without being told.
    let told = annotated("older", json!({"outrider.mesh/sidecar": "classic"}));
    let mut by_webhook = created(&way.meshed, &told)?;
    let annotations = by_webhook["metadata"]["annotations"].as_object_mut();
    annotations
        .context("annotations")?
        .remove("outrider.mesh/sidecar");
    let older = way.injected(
        &pod("older", json!({})).to_string(),
        &["--sidecar", "classic"],
    )?;
    let by_command = created_of(&way.plain, &older)?;
    assert_eq!(written(&by_command), written(&by_webhook));
    Ok(())
}

/// A pod of most of what the sidecar has to do with.
fn much() -> Value {
    let probe = |way: Value| json!({"periodSeconds": 7, "initialDelaySeconds": 1}).merged(way);
    pod(
        "much",
        json!({
            "metadata": {"annotations": {"kubectl.kubernetes.io/default-container": "second"}},
            "spec": {
                "restartPolicy": "OnFailure",
                "automountServiceAccountToken": false,
                "initContainers": [{"name": "before", "image": "a", "command": ["true"]}],
                "volumes": [{"name": "data", "emptyDir": {}}],
                "containers": [
                    {
                        "name": "first", "image": "a",
                        "ports": [{"name": "db", "containerPort": 5432}],
                        "livenessProbe": probe(json!({"tcpSocket": {"port": "db"}})),
                        "readinessProbe": probe(json!({"httpGet": {"port": 8443, "path": "/a?b=c", "scheme": "HTTPS"}})),
                        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                    },
                    {
                        "name": "second", "image": "b:1", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
                        "startupProbe": probe(json!({"httpGet": {"port": 8080}})),
                        "lifecycle": {"preStop": {"exec": {"command": ["true"]}}},
                    },
                ],
            },
        }),
    )
}

trait Merged {
    fn merged(self, other: Value) -> Value;
}

impl Merged for Value {
    fn merged(mut self, other: Value) -> Value {
        if let (Some(into), Value::Object(other)) = (self.as_object_mut(), other) {
            into.extend(other);
        }
        self
    }
}

/// Controllers make pods of templates: those are compared as they are stored.
#[test]
fn the_command_makes_of_templates_what_the_webhook_makes_of_their_pods() -> Result<()> {
    let way = Way::start()?;
    let again = way.injector.namespace("again", Some("enabled"))?;
    let manifest = documents(&templates());
    let injected = way.injected(&manifest, &[])?;
    let all = [
        (&way.meshed, &manifest),
        (&way.plain, &injected),
        (&again, &injected),
    ];
    for (namespace, manifest) in all {
        namespace.apply(manifest)?;
        namespace.kubectl(&["create", "job", "nightly", "--from", "cronjob/nightly"])?;
    }
    for name in NAMES {
        let stored = |namespace| stored(namespace, name);
        let by_webhook = stored(&way.meshed)?;
        assert!(by_webhook.contains("outrider-proxy"), "{by_webhook}");
        assert_eq!(stored(&way.plain)?, by_webhook);
        assert_eq!(
            stored(&again)?,
            by_webhook,
            "the webhook has changed something"
        );
    }
    Ok(())
}

/// A Deployment, a Job with each kind of sidecar, and a CronJob.
fn templates() -> [Value; 4] {
    let template = |name: &str, change: Value| {
        let mut template = pod(name, change);
        if let Some(fields) = template.as_object_mut() {
            fields.retain(|key, _| key == "metadata" || key == "spec");
        }
        template["metadata"]["name"] = Value::Null;
        template
    };
    let never = json!({"spec": {"restartPolicy": "Never"}});
    let classic = json!({
        "metadata": {"annotations": {"outrider.mesh/sidecar": "classic"}},
        "spec": {"restartPolicy": "Never"},
    });
    let object = |group: &str, kind: &str, name: &str, spec: Value| json!({"apiVersion": group, "kind": kind, "metadata": {"name": name}, "spec": spec});
    [
        object(
            "apps/v1",
            "Deployment",
            "web",
            json!({
                "selector": {"matchLabels": {"app": "web"}},
                "template": template("web", json!({})),
            }),
        ),
        object(
            "batch/v1",
            "Job",
            "work",
            json!({"template": template("work", never.clone())}),
        ),
        object(
            "batch/v1",
            "Job",
            "classic",
            json!({"template": template("classic", classic)}),
        ),
        object(
            "batch/v1",
            "CronJob",
            "nightly",
            json!({
                "schedule": "0 3 1 1 *",
                "jobTemplate": {"spec": {"template": template("nightly", never)}},
            }),
        ),
    ]
}

/// The one pod of this name that a controller has made.
fn stored(namespace: &Namespace, name: &str) -> Result<String> {
    let selector = format!("app={name}");
    let of_name = ["pods", "--selector", &selector];
    let mut pod = namespace.eventually("there is a pod", &of_name, |pods| {
        Some(pods["items"].as_array()?.first()?.clone())
    })?;
    let labels = pod["metadata"]["labels"].as_object_mut();
    labels
        .context("labels")?
        .retain(|label, _| !CHANCE.contains(&label.as_str()));
    // The scheduler's.
    pod["spec"]["nodeName"] = Value::Null;
    Ok(written(&pod))
}

/// What whoever makes a pod decides: labels, annotations and spec.
fn written(pod: &Value) -> String {
    let metadata = &pod["metadata"];
    let mut spec = pod["spec"].clone();
    // The API server adds a volume with a token of its own: before the webhook is asked, under a name
    // made of chance.
    let volumes = spec["volumes"].as_array().into_iter().flatten();
    let name = |volume: &Value| volume["name"].as_str().map(str::to_owned);
    let added = volumes
        .filter_map(name)
        .find(|name| name.starts_with("kube-api-access-"));
    if let Some(volumes) = spec["volumes"].as_array_mut() {
        volumes.sort_by_key(name);
    }
    let [labels, annotations] = ["labels", "annotations"].map(|field| &metadata[field]);
    let text = json!({"labels": labels, "annotations": annotations, "spec": spec}).to_string();
    added.map_or(text.clone(), |added| {
        text.replace(&added, "kube-api-access")
    })
}
