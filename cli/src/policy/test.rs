//! `outrider policy test`: would this call be allowed, and by which rule?

use std::fmt;
use std::process::ExitCode;

use outrider_api::authorization::{Denial, Grant, Verdict};
use outrider_api::model::Mtls;
use outrider_control_plane::index::Mesh;
use serde::Serialize;
use serde_json::json;

use super::asked;
use super::question::{Question, Target};
use crate::args::TestArgs;
use crate::output::{self, Format};
use crate::{REFUSED, UNUSABLE};

/// As the evaluator says it of a rule.
const PROBE: &str = "allowed as a probe that the Workload declares";
const PLAINTEXT_REFUSED: &str = "refused (plaintext_refused): this port is Strict, and it is none of the probes that the Workload declares for it";

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
    /// What becomes of plaintext there.
    mtls: &'static str,
    /// The AUDIT policy that would refuse it.
    #[serde(skip_serializing_if = "Option::is_none")]
    audit: Option<String>,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} port {}: {}", self.workload, self.port, self.verdict)?;
        if let Some(policy) = &self.audit {
            write!(f, "; AUDIT policy {policy} would refuse it")?;
        }
        if self.mtls == word(Mtls::Permissive) {
            f.write_str("; Permissive, plaintext comes in, too")?;
        }
        Ok(())
    }
}

pub(crate) async fn run(args: &TestArgs) -> ExitCode {
    let Some((_, mesh)) = asked(args.directory.as_deref(), &args.cluster).await else {
        return ExitCode::from(UNUSABLE);
    };
    let question = match Question::new(args, &mesh) {
        Ok(question) => question,
        Err(error) => {
            output::note(format_args!("outrider: {error}"));
            return ExitCode::from(UNUSABLE);
        }
    };
    if let Some(id) = question.from.as_ref().filter(|id| !mesh.has_identity(id)) {
        let place = args.directory.as_ref();
        let place = place.map_or_else(|| "the cluster".to_owned(), |dir| dir.display().to_string());
        output::note(format_args!("note: no Workload in {place} is {id}"));
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
    let mtls = outrider_proxy::intercept::mtls(workload, target.port);
    let before_policy = match mtls {
        _ if !question.plaintext => None,
        _ if question.is_probe(target, workload) => Some((true, None, PROBE)),
        Mtls::Strict => Some((false, Some("plaintext_refused"), PLAINTEXT_REFUSED)),
        Mtls::Permissive => None,
    };
    if let Some((allowed, reason, verdict)) = before_policy {
        return Some(Answer {
            workload: format!("{}/{}", target.namespace, target.workload),
            port: target.port,
            allowed,
            reason,
            rule: None,
            verdict: verdict.to_owned(),
            mtls: word(mtls),
            audit: None,
        });
    }
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
        mtls: word(mtls),
        audit: decision.audit.map(|policy| policy.to_string()),
    })
}

fn word(mtls: Mtls) -> &'static str {
    match mtls {
        Mtls::Strict => "Strict",
        Mtls::Permissive => "Permissive",
    }
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
            "plaintext": question.plaintext,
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;
    use outrider_api::manifest;
    use outrider_control_plane::index;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: TestArgs,
    }

    const MESH: &str = "
{apiVersion: v1, kind: Service, metadata: {name: billing}, spec: {selector: {app: billing}, ports: [{name: http, port: 80, targetPort: 8080}, {name: grpc, port: 81, targetPort: 8081}, {port: 82}]}}
---
apiVersion: outrider.mesh/v1alpha1
kind: Workload
metadata: {name: billing-1, labels: {app: billing}}
spec:
  serviceAccount: billing
  ports: [{port: 8080}, {port: 8081}, {port: 82, mtls: Permissive}]
  probes: [{httpGet: {path: /live?all, port: 8080}}, {grpc: {port: 8081}}, {tcpSocket: {port: 8080}}]
---
apiVersion: outrider.mesh/v1alpha1
kind: AuthorizationPolicy
metadata: {name: billing}
spec:
  targetRefs: [{group: '', kind: Service, name: billing}]
  rules: [{http: [{paths: [{type: Exact, value: /open}]}]}]
";

    /// What the one workload says.
    fn asked(words: &str) -> String {
        let objects = manifest::parse(Path::new("mesh.yaml"), MESH).unwrap();
        let mesh = index::build(&objects, None).unwrap();
        let words = ["test", "mesh/"].into_iter().chain(words.split(' '));
        let Command { args } = Command::try_parse_from(words).unwrap();
        let question = Question::new(&args, &mesh).unwrap();
        let [answer] = answers(&mesh, &question).try_into().unwrap();
        assert_eq!(answer.allowed, answer.reason.is_none());
        answer.to_string()
    }

    #[test]
    fn plaintext_reaches_probes_and_what_is_permissive() {
        let table = [
            (
                "--plaintext --to default/billing:80 --path /live?all",
                PROBE,
            ),
            (
                "--plaintext --to default/billing:80 --path /live",
                PLAINTEXT_REFUSED,
            ),
            (
                "--plaintext --to default/billing:80 --path /open",
                PLAINTEXT_REFUSED,
            ),
            (
                "--plaintext --to default/billing:80 --method HEAD --path /live?all",
                PLAINTEXT_REFUSED,
            ),
            ("--plaintext --to default/billing:80", PLAINTEXT_REFUSED),
            (
                "--plaintext --to default/billing:81 --path /live?all",
                PLAINTEXT_REFUSED,
            ),
            (
                "--plaintext --to default/billing:81 --path /grpc.health.v1.Health/Check",
                PROBE,
            ),
            (
                "--plaintext --to default/billing:81 --path /grpc.health.v1.Health/Watch",
                PLAINTEXT_REFUSED,
            ),
            (
                "--plaintext --to default/billing:82 --path /open",
                "allowed by default/billing rule 0",
            ),
            (
                "--plaintext --to default/billing:82 --path /live?all",
                "refused (authorization_denied)",
            ),
            // In the mesh a probe is a request like any other.
            (
                "--to default/billing:80 --path /open",
                "allowed by default/billing rule 0",
            ),
            (
                "--to default/billing:80 --path /live?all",
                "refused (authorization_denied)",
            ),
        ];
        for (words, expected) in table {
            let answer = asked(words);
            assert!(answer.contains(expected), "{words}: {answer}");
            let permissive = answer.ends_with("; Permissive, plaintext comes in, too");
            assert_eq!(permissive, words.contains(":82"), "{answer}");
        }
    }
}
