//! What the status of an object says: pure, but for when a condition became what it is.

use std::collections::BTreeSet;

use outrider_api::kinds::status::CONTROLLER_NAME;
use outrider_api::manifest::{Cause, Problem};
use serde_json::{Value, json};

use super::super::degrade::{Outcome, Verdict};
use super::super::kinds::Kind;
use super::super::objects::ObjectId;
use super::progress::Count;

/// At most this many ancestors of a policy (GEP-713) and parents of a route (Gateway API).
const ANCESTORS_MAX: usize = 16;
const PARENTS_MAX: usize = 32;
/// So many problems are quoted.
const QUOTED: usize = 5;
/// A condition's message is no longer, bytes.
const MESSAGE_MAX: usize = 1024;

/// What is to be said of one object.
pub(super) struct Said<'s> {
    pub(super) id: &'s ObjectId,
    pub(super) verdict: &'s Verdict,
    pub(super) count: Count,
    /// Namespaces whose Services are ours to speak of.
    pub(super) meshed: &'s BTreeSet<String>,
    /// RFC 3339.
    pub(super) now: &'s str,
}

impl Said<'_> {
    /// The status as it is to be, from the object as it is; `None`: there is nothing to say.
    pub(super) fn status(&self, object: &Value) -> Option<Value> {
        let spec = &object["spec"];
        match self.id.kind {
            Kind::MeshConfig => {
                let before = &object["status"]["conditions"];
                Some(json!({ "conditions": self.conditions(None, before) }))
            }
            Kind::AuthorizationPolicy | Kind::TrafficPolicy | Kind::RateLimitPolicy => {
                Some(self.policy(spec, &object["status"]))
            }
            Kind::HttpRoute | Kind::GrpcRoute | Kind::TcpRoute => {
                self.route(spec, &object["status"])
            }
            Kind::Pod | Kind::Service | Kind::EndpointSlice | Kind::Namespace | Kind::Node => None,
        }
    }

    fn policy(&self, spec: &Value, before: &Value) -> Value {
        let targets = spec["targetRefs"].as_array().cloned().unwrap_or_default();
        let targets = targets.iter().take(ANCESTORS_MAX).enumerate();
        let ancestors = targets.map(|(index, target)| {
            let name = match target["name"].as_str() {
                Some(name) => name,
                // Pods that labels select have none.
                None => &self.id.namespace,
            };
            let reference = json!({
                "group": target["group"].as_str().unwrap_or_default(),
                "kind": target["kind"].as_str().unwrap_or("Pod"),
                "name": name,
            });
            let known = ours(&before["ancestors"], "ancestorRef", &reference);
            json!({
                "ancestorRef": reference,
                "controllerName": CONTROLLER_NAME,
                "conditions": self.conditions(Some(("spec.targetRefs", index)), known),
            })
        });
        let ancestors: Vec<Value> = ancestors.collect();
        json!({ "ancestors": ancestors })
    }

    /// What others say of it stays.
    fn route(&self, spec: &Value, before: &Value) -> Option<Value> {
        let written = spec["parentRefs"].as_array().cloned().unwrap_or_default();
        let others = before["parents"].as_array().cloned().unwrap_or_default();
        let had = others.len();
        let mut parents: Vec<Value> = others
            .into_iter()
            .filter(|parent| parent["controllerName"] != CONTROLLER_NAME)
            .collect();
        let had_own = had != parents.len();
        let mut has_own = false;
        for (index, parent) in written.iter().enumerate() {
            if !self.is_ours(parent) || parents.len() >= PARENTS_MAX {
                continue;
            }
            has_own = true;
            let known = ours(&before["parents"], "parentRef", parent);
            parents.push(json!({
                "parentRef": parent,
                "controllerName": CONTROLLER_NAME,
                "conditions": self.conditions(Some(("spec.parentRefs", index)), known),
            }));
        }
        (has_own || had_own).then(|| json!({ "parents": parents }))
    }

    /// A Service of a namespace that is not of the mesh may be another mesh's.
    fn is_ours(&self, parent: &Value) -> bool {
        let is_service = parent["group"] == "" && parent["kind"] == "Service";
        let namespace = parent["namespace"].as_str().unwrap_or(&self.id.namespace);
        is_service && self.meshed.contains(namespace)
    }

    /// Of one target, by its field and its place in it; or of the object.
    fn conditions(&self, target: Option<(&str, usize)>, before: &Value) -> Vec<Value> {
        let mut conditions = vec![self.accepted(target)];
        if matches!(
            self.id.kind,
            Kind::HttpRoute | Kind::GrpcRoute | Kind::TcpRoute
        ) {
            conditions.push(self.resolved());
        }
        conditions.push(self.programmed());
        let made = conditions
            .into_iter()
            .map(|(kind, holds, reason, message)| {
                let status = if holds { "True" } else { "False" };
                json!({
                    "type": kind,
                    "status": status,
                    "reason": reason,
                    "message": shortened(&message),
                    "observedGeneration": self.verdict.generation,
                    "lastTransitionTime": self.since(kind, status, before),
                })
            });
        made.collect()
    }

    /// When it became so: that stays for as long as the status does.
    fn since(&self, kind: &str, status: &str, before: &Value) -> String {
        let mut conditions = before.as_array().into_iter().flatten();
        let same = conditions.find(|one| one["type"] == kind && one["status"] == status);
        let since = same.and_then(|same| same["lastTransitionTime"].as_str());
        since.unwrap_or(self.now).to_owned()
    }

    fn accepted(&self, target: Option<(&str, usize)>) -> Condition {
        let is_route = matches!(
            self.id.kind,
            Kind::HttpRoute | Kind::GrpcRoute | Kind::TcpRoute
        );
        let invalid = if is_route {
            "UnsupportedValue"
        } else {
            "Invalid"
        };
        let instead = match self.verdict.outcome {
            Outcome::Applied => None,
            Outcome::Refusing if is_route => Some("what it is for is refused"),
            Outcome::Refusing => Some("it denies everything"),
            Outcome::LastGood => Some("what it said when it was last good holds"),
            Outcome::LeftOut => Some("nothing of it holds"),
        };
        if let Some(instead) = instead {
            let message = format!("{instead}: {}", quoted(self.verdict.problems.iter()));
            return ("Accepted", false, invalid, message);
        }
        let of_target = |problem: &&Problem| match target {
            None => true,
            Some((field, index)) => problem.field.starts_with(&format!("{field}[{index}]")),
        };
        let here = || self.verdict.problems.iter().filter(of_target);
        let because = |cause| here().find(|problem| problem.cause == cause);
        if let Some(missing) = because(Cause::TargetNotFound) {
            let reason = if is_route {
                "NoMatchingParent"
            } else {
                "TargetNotFound"
            };
            return ("Accepted", false, reason, missing.message.clone());
        }
        if let Some(conflict) = because(Cause::Conflicted) {
            return ("Accepted", false, "Conflicted", conflict.message.clone());
        }
        // What is said of another target is said there.
        let is_general = |problem: &&Problem| match target {
            None => true,
            Some((field, _)) => !problem.field.starts_with(field),
        };
        let all = self.verdict.problems.iter();
        let remarks: Vec<&Problem> = all
            .filter(|problem| is_general(problem) || of_target(problem))
            .collect();
        let message = match remarks.is_empty() {
            true => "it holds as it is written".to_owned(),
            false => format!("it holds, but: {}", quoted(remarks.into_iter())),
        };
        ("Accepted", true, "Accepted", message)
    }

    fn resolved(&self) -> Condition {
        let of_backend = |problem: &&Problem| {
            problem.field.contains(".backendRefs[") || problem.field.contains(".requestMirror.")
        };
        let bad: Vec<&Problem> = self.verdict.problems.iter().filter(of_backend).collect();
        let Some(first) = bad.first() else {
            let message = "every backend is known".to_owned();
            return ("ResolvedRefs", true, "ResolvedRefs", message);
        };
        let reason = if first.field.ends_with(".kind") {
            "InvalidKind"
        } else {
            "BackendNotFound"
        };
        ("ResolvedRefs", false, reason, quoted(bad.into_iter()))
    }

    fn programmed(&self) -> Condition {
        let Count {
            concerned,
            programmed,
            unread,
            ..
        } = self.count;
        let generation = self.verdict.generation;
        if matches!(self.verdict.outcome, Outcome::LastGood | Outcome::LeftOut) {
            let message = format!("generation {generation} is on no sidecar");
            return ("Programmed", false, "Invalid", message);
        }
        let message = format!("{programmed} of {concerned} sidecars at generation {generation}");
        if unread > 0 {
            let message =
                format!("{message}; {unread} replicas of the control plane have not read it");
            return ("Programmed", false, "Reconciling", message);
        }
        match programmed {
            _ if programmed >= concerned => ("Programmed", true, "Programmed", message),
            0 => ("Programmed", false, "Reconciling", message),
            _ => ("Programmed", false, "PartiallyProgrammed", message),
        }
    }
}

/// Type, whether it holds, reason, message.
type Condition = (&'static str, bool, &'static str, String);

/// What was said by us of one reference.
fn ours<'v>(list: &'v Value, field: &str, reference: &Value) -> &'v Value {
    let entries = list.as_array().map_or(&[][..], Vec::as_slice);
    let known = entries
        .iter()
        .find(|one| one["controllerName"] == CONTROLLER_NAME && one[field] == *reference);
    known.map_or(&Value::Null, |known| &known["conditions"])
}

/// Without its place, which is in a text that nobody has seen.
fn quoted<'p>(problems: impl Iterator<Item = &'p Problem>) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut more = 0;
    for problem in problems {
        if texts.len() == QUOTED {
            more += 1;
            continue;
        }
        texts.push(match problem.field.as_str() {
            "" => problem.message.clone(),
            field => format!("{field}: {}", problem.message),
        });
    }
    if more > 0 {
        texts.push(format!("and {more} more"));
    }
    texts.join("; ")
}

fn shortened(message: &str) -> String {
    crate::logging::one_line(message, MESSAGE_MAX)
}

#[cfg(test)]
#[path = "conditions_tests.rs"]
mod tests;
