//! How the bytes arrive does not matter: in one piece, or one by one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrider_proxy::http::framing::{Framing, Stop};

/// How many bytes pass, and whether the next is refused; no upgrade is agreed to. What does not
/// pass is given again with more, as a connection does.
fn passed(bytes: &[u8], piece: usize) -> (usize, bool) {
    let mut framing = Framing::default();
    let (mut passed, mut end) = (0, 0);
    while end < bytes.len() {
        end = bytes.len().min(end + piece);
        loop {
            let progress = framing.advance(&bytes[passed..end]);
            passed += progress.passed;
            match progress.stop {
                Stop::Violation(_) => return (passed, true),
                Stop::Undecided => framing.decide(false),
                Stop::End | Stop::Incomplete => break,
            }
        }
    }
    (passed, false)
}

fuzz_target!(|bytes: &[u8]| {
    let whole = passed(bytes, usize::MAX / 2);
    assert_eq!(whole, passed(bytes, 1));
    assert_eq!(whole, passed(bytes, 7));
});
