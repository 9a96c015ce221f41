//! Policies, as the evaluator wants them.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use outrider_certs::spiffe::SpiffeId;

use super::matches::{GrpcMatch, HttpMatch, MatchError};

/// What a policy does with a call that one of its rules matches.
///
/// In the order of evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// Refuses it, whatever else allows it.
    Deny,
    /// Allows it, and refuses what no ALLOW rule matches.
    Allow,
    /// Says what it would refuse as ALLOW; changes nothing.
    Audit,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deny => "DENY",
            Self::Allow => "ALLOW",
            Self::Audit => "AUDIT",
        })
    }
}

/// One AuthorizationPolicy; which workloads it selects was decided before. Displays as
/// `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub namespace: String,
    pub name: String,
    pub action: Action,
    /// One of them must match.
    pub rules: Vec<Rule>,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// All of sources, ports and protocol must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    pub name: Option<String>,
    /// One of them must match. `None`: anyone; empty: nobody (GEP-3779).
    pub sources: Option<Vec<Source>>,
    /// Of the app. Empty: every port.
    pub ports: Vec<u16>,
    /// One of `http` and `grpc` must match; both empty: any protocol.
    pub http: Vec<HttpMatch>,
    pub grpc: Vec<GrpcMatch>,
}

impl Rule {
    /// Whether it has conditions that an opaque connection cannot meet.
    pub(super) fn looks_at_requests(&self) -> bool {
        !self.http.is_empty() || !self.grpc.is_empty()
    }

    pub(super) fn looks_at_paths(&self) -> bool {
        !self.grpc.is_empty() || self.http.iter().any(|http| !http.paths.is_empty())
    }

    pub(super) fn looks_at_methods(&self) -> bool {
        self.http.iter().any(|http| !http.methods.is_empty())
    }
}

/// Who calls. Names are compared whole and are never patterns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    ServiceAccount {
        namespace: String,
        name: String,
    },
    /// Every ServiceAccount of the namespace.
    Namespace(String),
    Spiffe(SpiffeId),
    IpBlock(IpBlock),
}

/// The addresses of a CIDR block, without those of some smaller ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpBlock {
    cidr: IpNet,
    except: Vec<IpNet>,
}

impl IpBlock {
    /// # Errors
    /// An exception is not within the block, or IPv4 is written as IPv6.
    pub fn new(cidr: IpNet, except: Vec<IpNet>) -> Result<Self, MatchError> {
        let mapped =
            |net: &&IpNet| matches!(net, IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some());
        if let Some(net) = [&cidr].into_iter().chain(&except).find(mapped) {
            return Err(MatchError::MappedBlock(*net));
        }
        if let Some(outside) = except.iter().find(|net| !cidr.contains(*net)) {
            return Err(MatchError::ExceptOutside(*outside, cidr));
        }
        Ok(Self { cidr, except })
    }

    #[must_use]
    pub fn cidr(&self) -> IpNet {
        self.cidr
    }

    #[must_use]
    pub fn except(&self) -> &[IpNet] {
        &self.except
    }

    /// An IPv4 address that arrived on an IPv6 socket (`::ffff:10.0.0.1`) is the IPv4 address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.cidr.contains(&address) && !self.except.iter().any(|net| net.contains(&address))
    }
}

/// Every policy that selects one workload, compiled. Immutable, and cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySet {
    default_deny: bool,
    /// DENY, ALLOW, AUDIT; as given within each.
    policies: Arc<Vec<Policy>>,
    /// Where the ALLOW policies begin.
    allow: usize,
    /// Where the AUDIT policies begin.
    audit: usize,
    /// Whether any rule needs a path that has one reading.
    pub(super) looks_at_paths: bool,
    pub(super) looks_at_methods: bool,
}

impl PolicySet {
    /// `default_deny`: what becomes of a call when no ALLOW policy is among `policies`.
    #[must_use]
    pub fn new(default_deny: bool, mut policies: Vec<Policy>) -> Self {
        policies.sort_by_key(|policy| policy.action);
        let begin = |action| policies.partition_point(|policy| policy.action < action);
        let mut rules = policies.iter().flat_map(|policy| &policy.rules);
        Self {
            default_deny,
            allow: begin(Action::Allow),
            audit: begin(Action::Audit),
            looks_at_paths: rules.clone().any(Rule::looks_at_paths),
            looks_at_methods: rules.any(Rule::looks_at_methods),
            policies: Arc::new(policies),
        }
    }

    #[must_use]
    pub fn default_deny(&self) -> bool {
        self.default_deny
    }

    /// Every policy: first those that deny, then those that allow, then those that audit.
    #[must_use]
    pub fn policies(&self) -> &[Policy] {
        &self.policies
    }

    pub(super) fn deny(&self) -> &[Policy] {
        &self.policies[..self.allow]
    }

    pub(super) fn allow(&self) -> &[Policy] {
        &self.policies[self.allow..self.audit]
    }

    /// Those that can refuse.
    pub(super) fn enforced(&self) -> &[Policy] {
        &self.policies[..self.audit]
    }

    pub(super) fn audit(&self) -> &[Policy] {
        &self.policies[self.audit..]
    }
}
