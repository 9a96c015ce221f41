//! What is read is at most eight digits and a unit, and written again it says the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrider_proxy::traffic::grpc_timeout::{format, parse};

fuzz_target!(|bytes: &[u8]| {
    let Ok(timeout) = parse(bytes) else { return };
    assert!((2..=9).contains(&bytes.len()));
    assert_eq!(parse(format(timeout).as_bytes()), Ok(timeout));
});
