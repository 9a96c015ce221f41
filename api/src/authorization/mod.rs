//! THE authorization evaluator: the sidecar, `outrider policy test` and the admission webhook all
//! call [`PolicySet::authorize`], so that what is tested is what is enforced.
//!
//! What it decides, in this order:
//!
//! 1. A path or method that apps read differently is refused when a rule that could apply looks at
//!    paths or methods: [`Denial::AmbiguousPath`], [`Denial::AmbiguousMethod`]. A rule could apply
//!    when its sources and ports match. What "differently" means: [`path`], [`Method`].
//! 2. A DENY rule that matches refuses.
//! 3. Where an ALLOW policy selects the workload, one of its rules must match.
//! 4. Where none does, the mesh's default decides.
//!
//! Doubt refuses: of what cannot be known (an opaque connection has no method, a malformed
//! authority no host), an ALLOW rule takes that it does not match, a DENY rule that it does.
//!
//! AUDIT policies are ALLOW policies in a dry run. They change no verdict; of a call that is
//! allowed, [`Decision::audit`] says that no rule of any AUDIT policy matches it, hence that it
//! would be refused if the AUDIT policies were the workload's only ALLOW policies.
//!
//! Identities are taken as verified: that the peer is of the mesh's own trust domain, TLS has seen
//! to before. Nothing here allocates while deciding, and nothing is a regular expression.

mod call;
mod evaluate;
mod header;
mod host;
mod matches;
pub mod path;
mod policy;
mod verdict;
mod wire;

pub use call::{Call, HttpCall};
pub use header::{HeaderMatch, HeaderValueMatch};
pub use host::HostMatch;
pub use matches::{GrpcMatch, HttpMatch, MatchError, Method, PathMatch, PathMatchKind};
pub use policy::{Action, IpBlock, Policy, PolicySet, Rule, Source};
pub use verdict::{Decision, Denial, Grant, PolicyRef, RuleRef, Verdict};
