//! No panic, and nothing beyond the cap is looked at.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrider_certs::csr::VerifiedRequest;

fuzz_target!(|bytes: &[u8]| {
    let read = VerifiedRequest::try_from(bytes);
    assert!(read.is_err() || bytes.len() <= 16 * 1024);
});
