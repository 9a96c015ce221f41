//! There is one spelling of an identity: what is accepted is written back as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrider_certs::spiffe::SpiffeId;

fuzz_target!(|text: &str| {
    let Ok(id) = text.parse::<SpiffeId>() else { return };
    assert_eq!(id.to_string(), text);
    assert!(text.len() <= 2048 && text.is_ascii());
    let [namespace, account] = [id.namespace(), id.service_account()];
    assert!(text.ends_with(&format!("/ns/{namespace}/sa/{account}")));
});
