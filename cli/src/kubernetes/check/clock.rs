//! How far two clocks are apart. Certificates and tokens are good from a moment to a moment, by the
//! clock of whoever looks at them. Pure.

use std::time::{Duration, SystemTime};

use super::finding::Finding;

const CHECK: &str = "clock";
/// A Date header has whole seconds, and an answer takes its time.
const RIGHT: Duration = Duration::from_secs(3);
/// Certificates are back-dated by five minutes; of that a part is spare.
const TOLERATED: Duration = Duration::from_secs(60);

/// How far `theirs`, read while ours went from `asked` to `answered`, is from ours.
pub(super) fn skew(theirs: SystemTime, asked: SystemTime, answered: SystemTime) -> Skew {
    // A second that has begun is cut off.
    let latest = theirs + Duration::from_secs(1);
    if let Ok(behind) = asked.duration_since(latest) {
        return Skew::Behind(behind);
    }
    match theirs.duration_since(answered) {
        Ok(ahead) => Skew::Ahead(ahead),
        Err(_) => Skew::None,
    }
}

/// Of their clock, seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Skew {
    None,
    Behind(Duration),
    Ahead(Duration),
}

impl Skew {
    fn size(self) -> Duration {
        match self {
            Self::None => Duration::ZERO,
            Self::Behind(size) | Self::Ahead(size) => size,
        }
    }

    fn said(self) -> String {
        match self {
            Self::None => "right".to_owned(),
            Self::Behind(size) => format!("{}s behind this machine's", size.as_secs()),
            Self::Ahead(size) => format!("{}s ahead of this machine's", size.as_secs()),
        }
    }
}

/// What it means that the clock of `whose` is off by `skew`.
pub(super) fn judge(whose: &str, skew: Skew) -> Finding {
    let remedy = "keep every node's clock, and this machine's, by NTP (`timedatectl`, `chronyc tracking`): \
                  certificates and tokens are judged by them";
    let message = format!("the clock of {whose} is {}", skew.said());
    match skew.size() {
        size if size <= RIGHT => Finding::ok(CHECK, message),
        size if size <= TOLERATED => Finding::warning(CHECK, message, remedy),
        _ => Finding::error(CHECK, message, remedy),
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::super::finding::Level;
    use super::*;

    fn at(millis: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(millis)
    }

    #[test]
    fn a_second_and_the_time_of_the_answer_are_no_skew() {
        assert_eq!(skew(at(10_000), at(10_900), at(11_500)), Skew::None);
        assert_eq!(skew(at(11_000), at(10_900), at(11_500)), Skew::None);
        assert_eq!(
            skew(at(5_000), at(10_000), at(10_100)),
            Skew::Behind(Duration::from_secs(4))
        );
        assert_eq!(
            skew(at(15_000), at(9_000), at(10_000)),
            Skew::Ahead(Duration::from_secs(5))
        );
    }

    #[test]
    fn a_minute_breaks_things() {
        let level = |skew| judge("the API server", skew).level;
        assert_eq!(level(Skew::None), Level::Ok);
        assert_eq!(level(Skew::Behind(Duration::from_secs(10))), Level::Warning);
        assert_eq!(level(Skew::Ahead(Duration::from_secs(90))), Level::Error);
    }
}
