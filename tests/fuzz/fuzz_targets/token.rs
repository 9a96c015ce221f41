//! Nobody guesses a token.
#![no_main]

use std::sync::LazyLock;
use std::time::SystemTime;

use libfuzzer_sys::fuzz_target;
use outrider_certs::token::{TokenIssuer, TokenVerifier};

static VERIFIER: LazyLock<TokenVerifier> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(format!("outrider-fuzz-{}", std::process::id()));
    let issuer = TokenIssuer::load_or_create(&folder).expect("a key in the temporary folder");
    issuer.verifier()
});

fuzz_target!(|token: &str| {
    assert!(VERIFIER.verify(token, SystemTime::now()).is_err());
});
