//! Moments and how far away they are, for people. Pure.

use std::time::{SystemTime, UNIX_EPOCH};

use k8s_openapi::jiff::Timestamp;

/// Seconds since 1970; negative before.
pub(crate) fn unix(time: SystemTime) -> i64 {
    let seconds = |since: std::time::Duration| i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => seconds(since),
        Err(before) => -seconds(before.duration()),
    }
}

/// "2026-11-27T08:00:00Z".
pub(crate) fn moment(unix: i64) -> String {
    let known = Timestamp::from_second(unix);
    known.map_or_else(|_| unix.to_string(), |moment| moment.to_string())
}

/// "23h", "12m", "9s": the largest unit of which there are two, or "expired 3h ago".
pub(crate) fn left(seconds: i64) -> String {
    match seconds {
        1.. => span(seconds),
        _ => format!("expired {} ago", span(seconds.saturating_neg())),
    }
}

/// The largest unit of which there are two.
pub(crate) fn span(seconds: i64) -> String {
    const UNITS: [(i64, &str); 4] = [(365 * 86_400, "y"), (86_400, "d"), (3600, "h"), (60, "m")];
    let unit = UNITS.iter().find(|(unit, _)| seconds / unit >= 2);
    match unit {
        Some((unit, name)) => format!("{}{name}", seconds / unit),
        None => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_and_spans() {
        assert_eq!(moment(784_111_777), "1994-11-06T08:49:37Z");
        for (seconds, expected) in [
            (9, "9s"),
            (119, "119s"),
            (120, "2m"),
            (86_399, "23h"),
            (3 * 86_400, "3d"),
            (10 * 365 * 86_400, "10y"),
            (0, "expired 0s ago"),
            (-7200, "expired 2h ago"),
        ] {
            assert_eq!(left(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn seconds_since_1970() {
        let second = std::time::Duration::from_secs(1);
        assert_eq!(unix(UNIX_EPOCH + second), 1);
        assert_eq!(unix(UNIX_EPOCH - second), -1);
    }
}
