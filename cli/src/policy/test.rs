//! `outrider policy test`: would this call be allowed, and by which rule?

use std::fmt;
use std::process::ExitCode;

use outrider_api::authorization::{Denial, Grant, Verdict};
use outrider_control_plane::index::Mesh;
use serde::Serialize;
use serde_json::json;

use super::load;
use super::question::{Question, Target};
use crate::args::TestArgs;
use crate::output::{self, Format};
use crate::{REFUSED, UNUSABLE};

/// What one workload says.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    workload: String,
    port: u16,
    allowed: bool,
    /// Of the closed set that sidecars put in `Proxy-Status`; absent when allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// The rule that decided; absent when none did.
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    /// The verdict in words.
    verdict: String,
    /// The AUDIT policy that would refuse it.
    #[serde(skip_serializing_if = "Option::is_none")]
    audit: Option<String>,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} port {}: {}", self.workload, self.port, self.verdict)?;
        match &self.audit {
            Some(policy) => write!(f, "; AUDIT policy {policy} would refuse it"),
            None => Ok(()),
        }
    }
}

pub(crate) fn run(args: &TestArgs) -> ExitCode {
    let mesh = match load(&args.directory) {
        Ok(mesh) => mesh,
        Err(problems) => {
            problems.iter().for_each(output::note);
            return ExitCode::from(UNUSABLE);
        }
    };
    let question = match Question::new(args, &mesh) {
        Ok(question) => question,
        Err(error) => {
            output::note(format_args!("outrider: {error}"));
            return ExitCode::from(UNUSABLE);
        }
    };
    if let Some(id) = question.from.as_ref().filter(|id| !mesh.has_identity(id)) {
        output::note(format_args!(
            "note: no Workload in {} is {id}",
            args.directory.display()
        ));
    }
    let answers = answers(&mesh, &question);
    let allowed = !answers.is_empty() && answers.iter().all(|answer| answer.allowed);
    print(args.output, &question, &answers, allowed);
    ExitCode::from(if allowed { 0 } else { REFUSED })
}

/// What each workload behind the Service says.
pub(super) fn answers(mesh: &Mesh, question: &Question) -> Vec<Answer> {
    let targets = question.targets.iter();
    targets
        .filter_map(|target| answer(mesh, question, target))
        .collect()
}

fn answer(mesh: &Mesh, question: &Question, target: &Target) -> Option<Answer> {
    let workload = mesh.workload(&target.namespace, &target.workload)?;
    let decision = workload.authorization.authorize(&question.call(target));
    let (reason, rule) = match &decision.verdict {
        Verdict::Allowed(Grant::Rule(rule)) => (None, Some(rule.to_string())),
        Verdict::Allowed(Grant::NoPolicy) => (None, None),
        Verdict::Denied(denial) => {
            let rule = match denial {
                Denial::Rule(rule) => Some(rule.to_string()),
                Denial::NoRule
                | Denial::DefaultDeny
                | Denial::AmbiguousPath
                | Denial::AmbiguousMethod => None,
            };
            (Some(denial.reason()), rule)
        }
    };
    Some(Answer {
        workload: format!("{}/{}", target.namespace, target.workload),
        port: target.port,
        allowed: decision.is_allowed(),
        reason,
        rule,
        verdict: decision.verdict.to_string(),
        audit: decision.audit.map(|policy| policy.to_string()),
    })
}

fn print(format: Format, question: &Question, answers: &[Answer], allowed: bool) {
    let from = question
        .from
        .as_ref()
        .map_or("someone without an identity", |id| id.as_str());
    match format {
        Format::Json => output::json(&json!({
            "allowed": allowed,
            "from": question.from.as_ref().map(|id| id.as_str()),
            "call": question.what(),
            "answers": answers,
        })),
        Format::Text => {
            output::line(format_args!("{} from {from}", question.what()));
            for answer in answers {
                output::line(format_args!("  {answer}"));
            }
        }
    }
}
