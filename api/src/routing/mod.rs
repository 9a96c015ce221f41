//! Which rule of a Service's routes a request meets, and what its filters make of it. Pure, and the
//! same in the sidecar, in `outrider policy test` and in `outrider explain`.
//!
//! | module | owns |
//! |---|---|
//! | `router` | [`Router`]: from a request to a rule |
//! | `paths`, `patterns` | the indices of paths and of regular expressions that a [`Router`] looks into |
//! | `group` | matches at one place of these, found by what else they ask for |
//! | `conditions` | method, headers and query of a match |
//! | `query` | names and values of a query, decoded |
//! | `pattern` | [`Pattern`]: regular expressions |
//! | `edit` | edits of headers and paths, and when they are none ([`EditError`]) |
//! | `redirect`, `rewrite` | where a request is sent instead |
//! | `cors` | what browsers of other origins are told |

mod conditions;
mod cors;
mod edit;
mod group;
mod paths;
mod pattern;
mod patterns;
mod query;
mod redirect;
mod rewrite;
mod router;

pub use edit::{EditError, check_path, is_editable};
pub use pattern::{Pattern, PatternError};
pub use redirect::RedirectedRequest;
pub use router::{RouteHit, RouteRequest, Router};
