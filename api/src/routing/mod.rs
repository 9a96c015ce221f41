//! Which rule of a Service's routes a request meets, and what its filters make of it. Pure, and the
//! same in the sidecar, in `outrider policy test` and in `outrider explain`.
//!
//! | module | owns |
//! |---|---|
//! | `router` | [`Router`]: from a request to a rule |
//! | `paths` | the index of paths that a [`Router`] looks into |
//! | `conditions` | method, headers and query of a match |
//! | `query` | names and values of a query, decoded |
//! | `pattern` | [`Pattern`]: regular expressions |

mod conditions;
mod paths;
mod pattern;
mod query;
mod router;

pub use pattern::{Pattern, PatternError};
pub use router::{RouteHit, RouteRequest, Router};
