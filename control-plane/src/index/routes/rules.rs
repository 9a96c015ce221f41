//! Rules: what their parts are together.

use std::time::Duration;

use outrider_api::duration;
use outrider_api::kinds::gateway::httproutes::{
    HttpRouteRules, HttpRouteRulesMatches, HttpRouteRulesMatchesPathType, HttpRouteRulesRetry,
};
use outrider_api::model::{
    Filter, HttpRule, PathEdit, RouteMatch, RuleOrigin, RuleRetry, RuleTimeouts, Timeout,
};

use super::super::objects::Objects;
use super::super::report::Report;
use super::backends::Backends;
use super::filters::{self, Of};
use super::matches::{self, Precedence, twice};
use super::written::{Kind, Matches, Route, Rule};

/// At most this many rules in a route (HTTPRoute's CRD).
const RULES_MAX: usize = 16;
/// Nobody waits for longer.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);
const BACKOFF_MAX: Duration = Duration::from_secs(60);
const ATTEMPTS_MAX: i64 = 10;

/// A rule, and its matches with their places in the order of all.
pub(super) struct Read {
    pub(super) rule: HttpRule,
    pub(super) matches: Vec<(Precedence, RouteMatch)>,
}

/// The rules of a route, in their order; the matches' `rule` counts within the route.
pub(super) fn read(route: &Route<'_>, objects: &Objects, report: &mut Report<'_>) -> Vec<Read> {
    report.at_most("spec.rules", route.rules.len(), RULES_MAX);
    for (index, rule) in route.rules.iter().enumerate() {
        let name = rule.common.name.as_ref();
        let mut before = route.rules[..index].iter();
        if let Some(name) = name
            && before.any(|other| other.common.name.as_ref() == Some(name))
        {
            twice("rule", name, &format!("spec.rules[{index}].name"), report);
        }
    }
    let backends = Backends {
        objects,
        namespace: &route.object.metadata().namespace,
    };
    let rules = route.rules.iter().enumerate();
    rules
        .map(|(index, rule)| one(route, index, rule, &backends, report))
        .collect()
}

fn one(
    route: &Route<'_>,
    index: usize,
    rule: &Rule,
    backends: &Backends<'_>,
    report: &mut Report<'_>,
) -> Read {
    let field = format!("spec.rules[{index}]");
    let common = &rule.common;
    let written = common.filters.as_deref().unwrap_or_default();
    let filters = filters::read(written, Of::Rule, &field, backends, report);
    check_filters(&filters, rule, &field, report);
    if common.session_persistence.is_some() {
        let message = "is not supported and left out: use loadBalancing of a TrafficPolicy";
        report.warning(format!("{field}.sessionPersistence"), message);
    }
    let read = backends.read(
        common.backend_refs.as_deref().unwrap_or_default(),
        &field,
        report,
    );
    let redirects = |filter: &Filter| matches!(filter, Filter::Redirect(_));
    if common.backend_refs.as_ref().is_none_or(Vec::is_empty) && !filters.iter().any(redirects) {
        let answer = match route.kind {
            Kind::Tcp => "what it is meant for is refused",
            Kind::Http | Kind::Grpc => "what it matches answers 500",
        };
        let message = format!("is missing or empty: {answer}");
        report.warning(format!("{field}.backendRefs"), message);
    }
    Read {
        matches: matches::read(&rule.matches, index, &field, report),
        rule: HttpRule {
            origin: origin(route, common.name.as_deref(), index),
            filters,
            backends: read,
            timeouts: timeouts(common, &field, report),
            retry: common
                .retry
                .as_ref()
                .and_then(|written| retry(written, &format!("{field}.retry"), report)),
        },
    }
}

/// Where a rule comes from, for people.
pub(super) fn origin(route: &Route<'_>, name: Option<&str>, index: usize) -> RuleOrigin {
    let metadata = route.object.metadata();
    RuleOrigin {
        kind: route.object.kind().to_owned(),
        namespace: metadata.namespace.clone(),
        name: metadata.name.clone(),
        rule: name.map_or_else(|| index.to_string(), str::to_owned),
    }
}

/// Filters that are good alone and wrong together, or with the rest of their rule.
fn check_filters(filters: &[Filter], rule: &Rule, field: &str, report: &mut Report<'_>) {
    let redirect = filters.iter().find_map(|filter| match filter {
        Filter::Redirect(redirect) => Some(redirect),
        _ => None,
    });
    let rewrite = filters.iter().find_map(|filter| match filter {
        Filter::Rewrite(rewrite) => Some(rewrite),
        _ => None,
    });
    let filters_field = format!("{field}.filters");
    let has_backends = |rule: &HttpRouteRules| {
        let backends = rule.backend_refs.as_ref();
        backends.is_some_and(|backends| !backends.is_empty())
    };
    if redirect.is_some() && rewrite.is_some() {
        let message = "has RequestRedirect and URLRewrite, expected one of them";
        report.error(&filters_field, message);
    }
    if redirect.is_some() && has_backends(&rule.common) {
        let message = "has RequestRedirect, which answers itself, expected no \"backendRefs\"";
        report.error(&filters_field, message);
    }
    let edits = [
        redirect.and_then(|redirect| redirect.path.as_ref()),
        rewrite.and_then(|rewrite| rewrite.path.as_ref()),
    ];
    let is_prefix = |edit: &&PathEdit| matches!(edit, PathEdit::Prefix(_));
    if edits.iter().flatten().any(is_prefix) && !has_one_prefix(&rule.matches) {
        let message = "has ReplacePrefixMatch, expected exactly one match, of type PathPrefix";
        report.error(&filters_field, message);
    }
}

/// Whether it is known which prefix is replaced.
fn has_one_prefix(matches: &Matches) -> bool {
    let is_prefix = |one: &HttpRouteRulesMatches| match &one.path {
        None => true,
        Some(path) => matches!(
            path.r#type,
            None | Some(HttpRouteRulesMatchesPathType::PathPrefix)
        ),
    };
    match matches {
        Matches::Http(matches) => match matches.as_slice() {
            [] => true,
            [one] => is_prefix(one),
            _ => false,
        },
        Matches::Grpc(_) => false,
    }
}

fn timeouts(rule: &HttpRouteRules, field: &str, report: &mut Report<'_>) -> RuleTimeouts {
    let Some(written) = &rule.timeouts else {
        return RuleTimeouts::default();
    };
    let field = format!("{field}.timeouts");
    let mut timeout = |text: &Option<String>, name: &str| {
        let field = format!("{field}.{name}");
        let duration = span(text.as_deref()?, TIMEOUT_MAX, &field, report)?;
        Some(Timeout::from(duration))
    };
    let read = RuleTimeouts {
        request: timeout(&written.request, "request"),
        backend_request: timeout(&written.backend_request, "backendRequest"),
    };
    if let (Some(Timeout::After(whole)), Some(Timeout::After(attempt))) =
        (read.request, read.backend_request)
        && attempt > whole
    {
        let [attempt, whole] = [attempt, whole].map(duration::format);
        report.error(
            format!("{field}.backendRequest"),
            format!("is {attempt}, longer than request, which is {whole}; expected at most that"),
        );
    }
    read
}

fn span(text: &str, most: Duration, field: &str, report: &mut Report<'_>) -> Option<Duration> {
    let read = report.good(field, duration::parse(text))?;
    if read <= most {
        return Some(read);
    }
    let [read, most] = [read, most].map(duration::format);
    report.error(field, format!("is {read}, expected at most {most}"));
    None
}

fn retry(written: &HttpRouteRulesRetry, field: &str, report: &mut Report<'_>) -> Option<RuleRetry> {
    let mut attempts = None;
    if let Some(written) = written.attempts {
        attempts = u32::try_from(written).ok();
        if !(0..=ATTEMPTS_MAX).contains(&written) {
            let message = format!("is {written}, expected 0 to {ATTEMPTS_MAX}");
            report.error(format!("{field}.attempts"), message);
        }
    }
    let mut codes = Vec::new();
    for (index, code) in written.codes.iter().flatten().enumerate() {
        let field = format!("{field}.codes[{index}]");
        match u16::try_from(*code) {
            Ok(code) if codes.contains(&code) => twice("code", &code.to_string(), &field, report),
            Ok(code @ 400..=599) => codes.push(code),
            _ => report.error(field, format!("is {code}, expected 400 to 599")),
        }
    }
    let backoff = match &written.backoff {
        None => None,
        Some(text) => {
            let field = format!("{field}.backoff");
            Some(span(text, BACKOFF_MAX, &field, report)?)
        }
    };
    Some(RuleRetry {
        attempts,
        codes: written.codes.as_ref().map(|_| codes),
        backoff,
    })
}
