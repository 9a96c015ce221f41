//! The decision itself. Allocates nothing, locks nothing, reads no clock.

use super::call::{Call, HttpCall};
use super::host::host_of;
use super::matches::{Doubt, Method};
use super::path::check_canonical;
use super::policy::{Policy, PolicySet, Rule, Source};
use super::verdict::{Decision, Denial, Grant, PolicyRef, RuleRef, Verdict};

impl PolicySet {
    /// Whether `call` is allowed, and by which rule. Allocates nothing.
    #[must_use]
    pub fn authorize<'s>(&'s self, call: &Call<'_>) -> Decision<'s> {
        let request = call
            .http
            .map(|http| Request::new(http, self.looks_at_paths));
        let request = request.as_ref();
        let verdict = self.verdict(call, request);
        let audit = match verdict {
            Verdict::Allowed(_) => self.would_refuse(call, request),
            Verdict::Denied(_) => None,
        };
        Decision { verdict, audit }
    }

    fn verdict<'s>(&'s self, call: &Call<'_>, request: Option<&Request<'_>>) -> Verdict<'s> {
        if let Some(denial) = self.ambiguity(call, request) {
            return Verdict::Denied(denial);
        }
        if let Some(rule) = find(self.deny(), call, request, Doubt::Matches) {
            return Verdict::Denied(Denial::Rule(rule));
        }
        if let Some(rule) = find(self.allow(), call, request, Doubt::DoesNotMatch) {
            return Verdict::Allowed(Grant::Rule(rule));
        }
        if !self.allow().is_empty() {
            return Verdict::Denied(Denial::NoRule);
        }
        if self.default_deny() {
            return Verdict::Denied(Denial::DefaultDeny);
        }
        Verdict::Allowed(Grant::NoPolicy)
    }

    fn ambiguity<'s>(
        &'s self,
        call: &Call<'_>,
        request: Option<&Request<'_>>,
    ) -> Option<Denial<'s>> {
        let request = request?;
        let path = self.looks_at_paths && request.path.is_none();
        let method =
            self.looks_at_methods && request.method.bytes().any(|b| b.is_ascii_lowercase());
        if !path && !method {
            return None;
        }
        let rules = self.enforced().iter().flat_map(|policy| &policy.rules);
        let mut rules = rules.filter(|rule| rule.could_apply(call));
        if path && rules.clone().any(Rule::looks_at_paths) {
            return Some(Denial::AmbiguousPath);
        }
        if method && rules.any(|rule| rule.has_method_in_another_case(request.method)) {
            return Some(Denial::AmbiguousMethod);
        }
        None
    }

    fn would_refuse<'s>(
        &'s self,
        call: &Call<'_>,
        request: Option<&Request<'_>>,
    ) -> Option<PolicyRef<'s>> {
        let policy = self.audit().first()?;
        match find(self.audit(), call, request, Doubt::DoesNotMatch) {
            Some(_) => None,
            None => Some(PolicyRef { policy }),
        }
    }
}

/// The first rule of `policies` that matches.
fn find<'s>(
    policies: &'s [Policy],
    call: &Call<'_>,
    request: Option<&Request<'_>>,
    doubt: Doubt,
) -> Option<RuleRef<'s>> {
    policies.iter().find_map(|policy| {
        let matches = |rule: &&Rule| rule.could_apply(call) && rule.matches_request(request, doubt);
        let rule = policy.rules.iter().find(matches)?;
        Some(RuleRef { policy, rule })
    })
}

impl Rule {
    /// Whether everything matches that is known of a connection: sources and ports.
    fn could_apply(&self, call: &Call<'_>) -> bool {
        let port = self.ports.is_empty() || self.ports.contains(&call.port);
        let source = match &self.sources {
            None => true,
            Some(sources) => sources.iter().any(|source| source.matches(call)),
        };
        port && source
    }

    /// Methods are case-sensitive (RFC 9110 section 9.1), but there are apps to which they are not.
    fn has_method_in_another_case(&self, method: &str) -> bool {
        let methods = self.http.iter().flat_map(|http| &http.methods);
        methods
            .clone()
            .any(|known| known.is_another_case_of(method))
            || (methods.clone().next().is_some() && Method::is_standard_in_another_case(method))
    }

    fn matches_request(&self, request: Option<&Request<'_>>, doubt: Doubt) -> bool {
        if !self.looks_at_requests() {
            return true;
        }
        let Some(request) = request else {
            return doubt.matches();
        };
        self.http.iter().any(|http| http.matches(request, doubt))
            || self.grpc.iter().any(|grpc| grpc.matches(request, doubt))
    }
}

impl Source {
    /// Whether it is this who calls. A peer without an identity is only of its address.
    #[must_use]
    pub fn matches(&self, call: &Call<'_>) -> bool {
        let peer =
            |is: &dyn Fn(&outrider_certs::spiffe::SpiffeId) -> bool| call.peer.is_some_and(is);
        match self {
            Self::ServiceAccount { namespace, name } => {
                peer(&|id| id.namespace() == namespace && id.service_account() == name)
            }
            Self::Namespace(namespace) => peer(&|id| id.namespace() == namespace),
            Self::Spiffe(expected) => peer(&|id| id == expected),
            Self::IpBlock(block) => block.contains(call.source),
        }
    }
}

/// What of a request is the same for every rule.
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    /// Without the query. `None`: it has several readings, or no rule looks at paths.
    pub(super) path: Option<&'a [u8]>,
    /// Without port and trailing dot. `None`: the authority is malformed.
    pub(super) host: Option<&'a str>,
    pub(super) headers: &'a http::HeaderMap,
}

impl<'a> Request<'a> {
    fn new(http: HttpCall<'a>, looks_at_paths: bool) -> Self {
        let path = http.path.as_bytes();
        let end = path.iter().position(|b| *b == b'?').unwrap_or(path.len());
        let path = path.get(..end).filter(|_| looks_at_paths);
        Self {
            method: http.method,
            path: path.filter(|path| check_canonical(path).is_ok()),
            host: host_of(http.authority),
            headers: http.headers,
        }
    }
}
