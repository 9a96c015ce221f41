//! What a sidecar that shows its token is told while the API server cannot review it.

use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_tests::faulty_server::Fault;
use mesh_tests::metrics::Metrics;
use mesh_tests::pki::{AUDIENCE, signing_request};
use mesh_tests::sign::{Signed, sign_at};
use mesh_tests::wait::eventually_every;

use crate::kubernetes_watched::{RECOVERED, Watched};

const OK: u16 = 0;
const UNAVAILABLE: u16 = 14;

/// One address may show two tokens in a second.
const AGAIN: Duration = Duration::from_millis(500);
/// A pod of this machine, for which a token is good that this machine shows.
const ADDRESS: &str = "127.0.0.1";

#[test]
fn while_a_token_cannot_be_reviewed_its_pod_is_told_to_come_again() -> Result<()> {
    let watched = Watched::start()?;
    watched.run("billing-1", "billing", ADDRESS)?;
    let token = watched.api.kubectl(
        &format!(
            "--namespace shop create token billing --audience {AUDIENCE} --bound-object-kind Pod \
             --bound-object-name billing-1"
        ),
        "",
    )?;
    let request = signing_request(&[], false)?;
    let ask = || sign_at(&watched.listen, Some(token.trim()), &request);
    let unavailable = || counted(&watched, "review_unavailable");
    signed("it has a certificate", &ask)?;
    assert_eq!(unavailable()?, 0.0);

    let faults = [
        Fault::Answer(500),
        Fault::Answer(429),
        Fault::Closed,
        Fault::Silent,
    ];
    for fault in faults {
        let before = unavailable()?;
        watched.faults.set(fault);
        let refused = ask()?;
        assert_eq!(refused.code, UNAVAILABLE, "{fault:?}: {}", refused.message);
        let expected = "the API server cannot be asked about the token";
        ensure!(
            refused.message.replace("%20", " ").contains(expected),
            "{fault:?}: {}",
            refused.message
        );
        assert!(refused.chain.is_empty(), "{fault:?}: a certificate");
        assert_eq!(unavailable()? - before, 1.0, "{fault:?}");

        watched.faults.set(Fault::None);
        signed(&format!("after {fault:?} it has one again"), &ask)?;
    }
    // It was never the token that was at fault.
    assert_eq!(counted(&watched, "token_rejected")?, 0.0);
    Ok(())
}

fn signed(what: &str, ask: &dyn Fn() -> Result<Signed>) -> Result<()> {
    eventually_every(AGAIN, what, RECOVERED, || {
        let answer = ask()?;
        ensure!(answer.code == OK, "{}: {}", answer.code, answer.message);
        ensure!(!answer.chain.is_empty(), "no certificate");
        Ok(Some(()))
    })
}

fn counted(watched: &Watched, reason: &str) -> Result<f64> {
    let name = "outrider_control_plane_certificates_refused_total";
    Ok(Metrics::scrape(watched.admin)?.sum(name, &[("reason", reason)]))
}
