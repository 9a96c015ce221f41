//! `/inject`: a pod that is created gets its sidecar.

use serde_json::Value;

use super::review::{Answer, Operation, Request};
use crate::inject::{self, Left, Outcome, Settings};

/// What became of a pod.
#[derive(Debug)]
pub(super) struct Mutated {
    pub(super) answer: Answer,
    /// For the metric.
    pub(super) result: &'static str,
    /// It was not given a sidecar, and somebody is to be told.
    pub(super) told: Option<Left>,
}

impl Mutated {
    fn new(result: &'static str, answer: Answer) -> Self {
        Self {
            answer,
            result,
            told: None,
        }
    }
}

/// That it was asked says that the pod is to have a sidecar: the API server selects by the labels of
/// the namespace and of the pod.
pub(super) fn mutate(request: &Request, settings: &Settings) -> Mutated {
    let pod = request.kind.group.is_empty() && request.kind.kind == "Pod";
    if !pod || request.operation != Operation::Create {
        return Mutated::new("other", Answer::allowed());
    }
    match inject::inject(&request.object, &request.namespace, settings) {
        Ok(Outcome::Injected { patch, warnings }) => {
            let answer = Answer {
                patch: Some(patch),
                warnings,
                ..Answer::allowed()
            };
            Mutated::new("injected", answer)
        }
        Ok(Outcome::Left(left)) => {
            let warnings = left.warning().map(ToOwned::to_owned);
            let answer = Answer {
                warnings: warnings.into_iter().collect(),
                ..Answer::allowed()
            };
            Mutated {
                told: left.warning().map(|_| left),
                ..Mutated::new("left", answer)
            }
        }
        Err(refusal) => Mutated::new("refused", Answer::refused(refusal.to_string())),
    }
}

/// Who is to be told of a pod that has no name yet: its controller.
pub(super) fn controller(pod: &Value) -> Option<&Value> {
    let owners = pod.pointer("/metadata/ownerReferences")?.as_array()?;
    owners.iter().find(|owner| owner["controller"] == true)
}

#[cfg(test)]
mod tests {
    use outrider_api::annotations::SidecarKind;
    use serde_json::json;

    use super::*;

    fn settings() -> Settings {
        Settings {
            image: Settings::default_image(None),
            image_pull_policy: None,
            control_plane: Settings::default_control_plane("outrider-system"),
            trust_domain: "shop.example".parse().unwrap(),
            namespace: "outrider-system".to_owned(),
            sidecar: SidecarKind::Native,
        }
    }

    fn request(change: Value) -> Request {
        let mut request = json!({
            "uid": "u-1",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "namespace": "shop",
            "operation": "CREATE",
            "object": {"metadata": {}, "spec": {"containers": [{"name": "order"}]}},
        });
        json_patch::merge(&mut request, &change);
        serde_json::from_value(request).unwrap()
    }

    fn result(change: Value) -> &'static str {
        mutate(&request(change), &settings()).result
    }

    #[test]
    fn the_webhook_makes_what_the_command_makes() {
        let request = request(json!({}));
        let Mutated {
            answer,
            result,
            told,
        } = mutate(&request, &settings());
        let mut by_webhook = request.object.clone();
        inject::apply(&mut by_webhook, &answer.patch.unwrap()).unwrap();
        let mut by_command = request.object.clone();
        by_command["apiVersion"] = json!("v1");
        by_command["kind"] = json!("Pod");
        let mut report = inject::template::Report::default();
        inject::template::inject_object(&mut by_command, "shop", &settings(), &mut report).unwrap();
        for field in ["apiVersion", "kind"] {
            by_command.as_object_mut().unwrap().remove(field);
        }
        assert_eq!(by_webhook.to_string(), by_command.to_string());
        assert_eq!((result, told), ("injected", None));
    }

    #[test]
    fn only_pods_that_are_created_are_changed() {
        assert_eq!(result(json!({})), "injected");
        assert_eq!(result(json!({"operation": "UPDATE"})), "other");
        assert_eq!(
            result(json!({"operation": "DELETE", "object": null})),
            "other"
        );
        assert_eq!(result(json!({"kind": {"kind": "Service"}})), "other");
        assert_eq!(result(json!({"kind": {"group": "example.com"}})), "other");
    }

    #[test]
    fn who_asked_is_told() {
        let host = json!({"object": {"spec": {"hostNetwork": true}}});
        let Mutated {
            answer,
            result: left,
            told,
        } = mutate(&request(host), &settings());
        assert_eq!((left, told), ("left", Some(Left::HostNetwork)));
        assert!(answer.patch.is_none() && answer.refusal.is_none());
        assert!(answer.warnings[0].contains("hostNetwork"));

        let out = json!({"object": {"metadata": {"labels": {"outrider.mesh/inject": "false"}}}});
        let mutated = mutate(&request(out), &settings());
        assert_eq!((mutated.told, mutated.answer), (None, Answer::allowed()));

        let wrong =
            json!({"object": {"metadata": {"annotations": {"outrider.mesh/workers": "0"}}}});
        let refusal = mutate(&request(wrong), &settings()).answer.refusal.unwrap();
        assert!(
            refusal.starts_with("annotation outrider.mesh/workers: "),
            "{refusal}"
        );
        assert_eq!(result(json!({"object": null})), "refused");
    }

    #[test]
    fn the_controller_of_a_pod_is_found() {
        let owners = json!([{"uid": "a"}, {"uid": "b", "controller": true}]);
        let pod = json!({"metadata": {"ownerReferences": owners}});
        assert_eq!(controller(&pod).unwrap()["uid"], "b");
        assert_eq!(controller(&json!({"metadata": {}})), None);
    }
}
