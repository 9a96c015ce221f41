//! What the evaluator answers, and how people and metrics read it.

use std::fmt;

use super::policy::{Policy, Rule};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision<'s> {
    pub verdict: Verdict<'s>,
    /// The call is allowed, but AUDIT policies, of which this is the first, would refuse it.
    pub audit: Option<PolicyRef<'s>>,
}

impl Decision<'_> {
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        matches!(self.verdict, Verdict::Allowed(_))
    }
}

/// Displays as `allowed by shop/billing rule order-charges` or
/// `refused (authorization_denied): no ALLOW rule matches`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'s> {
    Allowed(Grant<'s>),
    Denied(Denial<'s>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant<'s> {
    Rule(RuleRef<'s>),
    /// No ALLOW policy selects the workload, and the mesh allows by default.
    NoPolicy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial<'s> {
    /// A DENY rule.
    Rule(RuleRef<'s>),
    /// ALLOW policies select the workload; none of their rules matches.
    NoRule,
    /// No ALLOW policy selects the workload, and the mesh denies by default.
    DefaultDeny,
    AmbiguousPath,
    AmbiguousMethod,
}

impl Denial<'_> {
    /// Of the closed set that responses, metrics and logs name.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Rule(_) | Self::NoRule | Self::DefaultDeny => "authorization_denied",
            Self::AmbiguousPath => "ambiguous_path",
            Self::AmbiguousMethod => "ambiguous_method",
        }
    }
}

/// A rule and its policy. Displays as `shop/billing rule order-charges`, or with the rule's index
/// where it has no name: `shop/billing rule 0`.
#[derive(Clone, Copy, Debug)]
pub struct RuleRef<'s> {
    pub policy: &'s Policy,
    pub rule: &'s Rule,
}

/// The very same rule, not one that reads alike.
impl PartialEq for RuleRef<'_> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.rule, other.rule)
    }
}

impl Eq for RuleRef<'_> {}

/// Displays as `shop/billing`.
#[derive(Clone, Copy, Debug)]
pub struct PolicyRef<'s> {
    pub policy: &'s Policy,
}

/// The very same policy, not one that reads alike.
impl PartialEq for PolicyRef<'_> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.policy, other.policy)
    }
}

impl Eq for PolicyRef<'_> {}

impl fmt::Display for PolicyRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.policy.fmt(f)
    }
}

impl fmt::Display for RuleRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rule ", self.policy)?;
        let this = |rule: &Rule| std::ptr::eq(rule, self.rule);
        match (&self.rule.name, self.policy.rules.iter().position(this)) {
            (Some(name), _) => f.write_str(name),
            (None, Some(index)) => write!(f, "{index}"),
            (None, None) => f.write_str("?"),
        }
    }
}

impl fmt::Display for Grant<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(rule) => write!(f, "by {rule}"),
            Self::NoPolicy => f.write_str("by default: no ALLOW policy selects this workload"),
        }
    }
}

impl fmt::Display for Denial<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({})", self.reason())?;
        match self {
            Self::Rule(rule) => write!(f, " by {rule}"),
            Self::NoRule => f.write_str(": no rule of the ALLOW policies matches"),
            Self::DefaultDeny => f.write_str(
                ": no ALLOW policy selects this workload, and the mesh denies by default",
            ),
            Self::AmbiguousPath => {
                f.write_str(": apps read this path differently, and a rule looks at paths")
            }
            Self::AmbiguousMethod => {
                f.write_str(": the method is written in another case, and a rule looks at methods")
            }
        }
    }
}

impl fmt::Display for Verdict<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allowed(grant) => write!(f, "allowed {grant}"),
            Self::Denied(denial) => write!(f, "refused {denial}"),
        }
    }
}
