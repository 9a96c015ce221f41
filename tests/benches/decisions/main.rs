//! What each decision on the path of a request costs: `cargo bench -p mesh-tests --bench decisions`.
//!
//! One module for each topic. The figures are printed; none is judged.

use std::time::Duration;

use criterion::Criterion;

#[path = "../shared/endpoints.rs"]
mod endpoints;
mod routes;
mod whole;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    routes::bench(&mut criterion);
    whole::bench(&mut criterion);
    criterion.final_summary();
}
