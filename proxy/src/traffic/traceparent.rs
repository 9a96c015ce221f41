//! W3C `traceparent`. Trace libraries forward `tracestate` only along with it, so a request that has
//! none gets one: of a trace that nobody samples.
//!
//! One that is well-formed stays as it is: we record no spans, so the app's own stay each other's
//! parents.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::tracestate::TRACESTATE;

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Version, trace id, parent id and flags with their dashes.
const LENGTH: usize = 55;

/// Makes one where there is none, or none that is well-formed: then the trace begins anew, and the
/// state of another trace goes (Trace Context, section 4.3). `random` gives a number below its
/// argument.
pub fn ensure(headers: &mut HeaderMap, random: impl FnMut(usize) -> usize) {
    let mut values = headers.get_all(TRACEPARENT).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if is_well_formed(value.as_bytes()) => return,
        (None, _) => {}
        _ => {
            headers.remove(TRACESTATE);
        }
    }
    if let Ok(value) = HeaderValue::from_bytes(&generate(random)) {
        headers.insert(TRACEPARENT, value);
    }
}

/// `00-<trace id>-<parent id>-<flags>`, in lowercase hexadecimal digits, neither id zero. Later
/// versions may be longer (section 3.2.4).
pub fn is_well_formed(value: &[u8]) -> bool {
    let Some((known, rest)) = value.split_at_checked(LENGTH) else {
        return false;
    };
    let is_hex = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    let dashes = [2, 35, 52];
    let form = known.iter().enumerate().all(|(index, b)| {
        if dashes.contains(&index) {
            *b == b'-'
        } else {
            is_hex(b)
        }
    });
    let is_zero = |id: &[u8]| id.iter().all(|b| *b == b'0');
    let version = match &known[..2] {
        b"ff" => false,
        b"00" => rest.is_empty(),
        _ => matches!(rest.first(), None | Some(b'-')),
    };
    form && version && !is_zero(&known[3..35]) && !is_zero(&known[36..52])
}

/// Of version 00, with random ids and the flags 00: not sampled.
pub fn generate(mut random: impl FnMut(usize) -> usize) -> [u8; LENGTH] {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    for start in [3, 11, 19, 27, 36, 44] {
        // Never zero in any part, hence in no id.
        let part = random(u32::MAX as usize) + 1;
        for (place, digit) in text[start..start + 8].iter_mut().enumerate() {
            *digit = b"0123456789abcdef"[part >> (4 * place) & 0xf];
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_is_well_formed() {
        assert!(is_well_formed(GOOD.as_bytes()));
        assert!(is_well_formed(GOOD.replacen("00", "01", 1).as_bytes()));
        assert!(is_well_formed(
            format!("{}-more", GOOD.replacen("00", "cc", 1)).as_bytes()
        ));
    }

    #[test]
    fn what_is_not() {
        for bad in [
            "",
            &GOOD[..54],
            &format!("{GOOD}-more"),
            &GOOD.replacen("00", "ff", 1),
            &format!("{}x", GOOD.replacen("00", "01", 1)),
            &GOOD.to_uppercase(),
            &GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &GOOD.replace('-', "_"),
        ] {
            assert!(!is_well_formed(bad.as_bytes()), "{bad:?}");
        }
    }

    #[test]
    fn a_trace_of_the_app_stays_and_a_broken_one_begins_anew() {
        let state = HeaderValue::from_static("a=1");
        let mut headers = HeaderMap::from_iter([
            (TRACEPARENT, HeaderValue::from_static(GOOD)),
            (TRACESTATE, state),
        ]);
        ensure(&mut headers, |_| 7);
        assert_eq!(headers[TRACEPARENT], GOOD);
        assert!(headers.contains_key(TRACESTATE));
        headers.append(TRACEPARENT, HeaderValue::from_static(GOOD));
        ensure(&mut headers, |_| 7);
        assert_eq!(headers.get_all(TRACEPARENT).iter().count(), 1);
        assert_ne!(headers[TRACEPARENT], GOOD);
        assert!(!headers.contains_key(TRACESTATE));
    }

    proptest! {
        #[test]
        fn what_is_made_is_well_formed_and_not_sampled(seed: u64) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut headers = HeaderMap::new();
            ensure(&mut headers, |below| rng.usize(..below));
            let made = headers[TRACEPARENT].as_bytes();
            prop_assert!(is_well_formed(made) && made.ends_with(b"-00"));
        }
    }
}
