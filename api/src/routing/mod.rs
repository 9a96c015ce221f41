//! Which rule of a Service's routes a request meets, and what its filters make of it. Pure, and the
//! same in the sidecar, in `outrider policy test` and in `outrider explain`.

mod pattern;

pub use pattern::{Pattern, PatternError};
