//! `grpc-timeout`: one to eight digits and a unit (gRPC over HTTP/2, *Requests*). The caller's own
//! words about how long it waits.
//!
//! One that is malformed refuses the call, as `bad_timeout` (400, and INTERNAL for gRPC): that is
//! what grpc-go answers with, and a call whose limit is not understood must not be one without.
//! Zero is a limit that is over: DEADLINE_EXCEEDED. Old gRPC-Java clients send it.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

const DIGITS_MAX: usize = 8;
const MOST: u64 = 99_999_999;
/// Nanoseconds of each unit, the finest first.
const UNITS: [(u8, u64); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60_000_000_000),
    (b'H', 3_600_000_000_000),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "grpc-timeout is malformed, expected once at most eight digits with a unit H, M, S, m, u or n"
)]
pub struct Malformed;

/// What `headers` say; `None` if nothing.
///
/// # Errors
/// It is malformed, or there are several.
pub fn of(headers: &HeaderMap) -> Result<Option<Duration>, Malformed> {
    let mut values = headers.get_all(GRPC_TIMEOUT).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => parse(value.as_bytes()).map(Some),
        (Some(_), Some(_)) => Err(Malformed),
    }
}

/// # Errors
/// It is not one to eight digits and a unit.
pub fn parse(value: &[u8]) -> Result<Duration, Malformed> {
    let (unit, digits) = value.split_last().ok_or(Malformed)?;
    if digits.is_empty() || digits.len() > DIGITS_MAX || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Malformed);
    }
    let number = digits
        .iter()
        .fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    let (_, nanoseconds) = UNITS
        .into_iter()
        .find(|(name, _)| name == unit)
        .ok_or(Malformed)?;
    // In parts: so many hours are more nanoseconds than 64 bits hold.
    Ok(match nanoseconds.checked_mul(number) {
        Some(total) => Duration::from_nanos(total),
        None => Duration::from_secs(nanoseconds / 1_000_000_000 * number),
    })
}

/// In the finest unit that has room, rounded down: nobody has more time than there is.
pub fn format(timeout: Duration) -> HeaderValue {
    let fits = |(number, _): &(u64, u8)| *number <= MOST;
    // 64 bits hold 584 years of nanoseconds; of more, seconds are enough.
    let found = match u64::try_from(timeout.as_nanos()) {
        Ok(nanoseconds) => {
            let mut units = UNITS.into_iter();
            units.find_map(|(unit, scale)| Some((nanoseconds / scale, unit)).filter(fits))
        }
        Err(_) => {
            let mut units = UNITS[3..].iter();
            units.find_map(|(unit, scale)| {
                Some((timeout.as_secs() / (scale / 1_000_000_000), *unit)).filter(fits)
            })
        }
    };
    let (number, unit) = found.unwrap_or((MOST, b'H'));
    let mut text = [0; DIGITS_MAX + 1];
    text[DIGITS_MAX] = unit;
    let (mut rest, mut start) = (number, DIGITS_MAX);
    loop {
        start -= 1;
        text[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    HeaderValue::from_bytes(&text[start..]).unwrap_or(HeaderValue::from_static("0n"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn units() {
        for (text, expected) in [
            ("1n", Duration::from_nanos(1)),
            ("20u", Duration::from_micros(20)),
            ("1500m", Duration::from_millis(1500)),
            ("3S", Duration::from_secs(3)),
            ("2M", Duration::from_secs(120)),
            ("1H", Duration::from_secs(3600)),
            ("0S", Duration::ZERO),
            ("00000007S", Duration::from_secs(7)),
            ("99999999H", Duration::from_secs(3600 * 99_999_999)),
        ] {
            assert_eq!(parse(text.as_bytes()), Ok(expected), "{text}");
        }
    }

    #[test]
    fn garbage_is_an_error() {
        for text in [
            "",
            "S",
            "1",
            "1s",
            "-1S",
            "+1S",
            "1.5S",
            "1 S",
            " 1S",
            "123456789n",
            "1SS",
            "0x1S",
        ] {
            assert_eq!(parse(text.as_bytes()), Err(Malformed), "{text:?}");
        }
    }

    #[test]
    fn two_are_garbage_even_if_they_agree() {
        let mut headers = HeaderMap::new();
        assert_eq!(of(&headers), Ok(None));
        headers.append(GRPC_TIMEOUT, HeaderValue::from_static("1S"));
        assert_eq!(of(&headers), Ok(Some(Duration::from_secs(1))));
        headers.append(GRPC_TIMEOUT, HeaderValue::from_static("1S"));
        assert_eq!(of(&headers), Err(Malformed));
    }

    #[test]
    fn the_finest_unit_that_has_room_is_written() {
        for (timeout, expected) in [
            (Duration::ZERO, "0n"),
            (Duration::from_nanos(99_999_999), "99999999n"),
            (Duration::from_millis(1500), "1500000u"),
            (Duration::from_secs(15), "15000000u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_secs(86_400 * 365), "31536000S"),
            (Duration::MAX, "99999999H"),
        ] {
            assert_eq!(format(timeout), expected);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_a_little_shorter(seconds in 0u64..360_000_000_000, nanoseconds in 0u32..1_000_000_000) {
            let timeout = Duration::new(seconds, nanoseconds);
            let read = parse(format(timeout).as_bytes()).expect("well-formed");
            prop_assert!(read <= timeout);
            // Eight digits, of which the first is not lost to the coarser unit.
            prop_assert!(timeout - read <= timeout / 1_000_000);
        }

        #[test]
        fn what_is_read_writes_back(number in 0u64..=MOST, unit in proptest::sample::select(b"HMSmun".to_vec())) {
            let read = parse(format!("{number}{}", unit as char).as_bytes()).expect("well-formed");
            prop_assert_eq!(parse(super::format(read).as_bytes()), Ok(read));
        }
    }
}
