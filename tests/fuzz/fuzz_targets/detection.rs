//! A decision stands, whatever comes after the bytes that it was made by.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrider_proxy::detect::{Detected, detect};

fuzz_target!(|bytes: &[u8]| {
    let mut decided = Detected::Undecided;
    for length in 0..=bytes.len() {
        let now = detect(&bytes[..length]);
        assert!(decided == Detected::Undecided || decided == now, "{decided:?}, then {now:?}");
        decided = now;
    }
});
