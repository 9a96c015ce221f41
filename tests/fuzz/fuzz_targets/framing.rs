//! How the bytes arrive does not matter: in one piece, or one by one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrider_proxy::http::framing::Framing;

/// How many bytes pass, and whether the next is refused; no upgrade is agreed to.
fn passed(bytes: &[u8], piece: usize) -> (usize, bool) {
    let mut framing = Framing::default();
    let mut at = 0;
    while at < bytes.len() {
        let end = bytes.len().min(at + piece);
        match framing.advance(&bytes[at..end]) {
            Ok(taken) => at += taken,
            Err(_) => return (0, true),
        }
        framing.decide(false);
    }
    (at, false)
}

fuzz_target!(|bytes: &[u8]| {
    let whole = passed(bytes, usize::MAX / 2);
    assert_eq!(whole, passed(bytes, 1));
    assert_eq!(whole, passed(bytes, 7));
});
