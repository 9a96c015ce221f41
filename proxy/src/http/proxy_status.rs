//! `Proxy-Status` (RFC 9209): what this sidecar had to do with an answer.
//!
//! The field is a list with one member for each intermediary, the one nearest the app first. What
//! came with an answer stays as it is, and what we have to say stands behind it as a member of our
//! own. An answer that we have nothing to say of has none.
//!
//! `retried` and `not_retried` are parameters of ours, named as in the access log; whoever does not
//! know them ignores them (section 2).

use std::fmt::Write;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::refusal::Row;
use crate::telemetry::retries::Retries;
use crate::traffic::retry::NoRetry;

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
const OURSELVES: &str = "outrider";

/// Says of an answer of our own why we made it.
pub fn refused(headers: &mut HeaderMap, row: &Row, retries: &Retries) {
    let Row {
        proxy_error,
        reason,
        ..
    } = row;
    let ours = format!("{OURSELVES}; error={proxy_error}; details=\"{reason}\"");
    if let Ok(value) = HeaderValue::try_from(ours + &parameters(retries)) {
        headers.insert(PROXY_STATUS, value);
    }
}

/// Says of somebody else's answer what we did before it came, if that is anything.
pub fn passed_on(headers: &mut HeaderMap, retries: &Retries) {
    let parameters = parameters(retries);
    if parameters.is_empty() {
        return;
    }
    if let Ok(value) = HeaderValue::try_from(format!("{OURSELVES}{parameters}")) {
        headers.append(PROXY_STATUS, value);
    }
}

/// Mostly the empty text. `not_covered` is not said: it would stand in each error of an app that no
/// policy means to retry.
fn parameters(retries: &Retries) -> String {
    let mut text = String::new();
    let mut say = |name: &str, value: &str| {
        // Into a text, which cannot fail.
        let _ = write!(text, "; {name}=\"{value}\"");
    };
    if let Some(reasons) = retries.retried() {
        say("retried", &reasons);
    }
    let not_retried = retries.not_retried();
    if let Some(why) = not_retried.filter(|why| *why != NoRetry::NotCovered) {
        say("not_retried", why.label());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal::Refusal;
    use crate::traffic::retry::RetryReason;

    fn values(headers: &HeaderMap) -> Vec<&str> {
        let values = headers.get_all(PROXY_STATUS).iter();
        values.map(|value| value.to_str().expect("text")).collect()
    }

    #[test]
    fn an_answer_without_a_story_has_none() {
        let mut headers = HeaderMap::new();
        passed_on(&mut headers, &Retries::default());
        let mut not_covered = Retries::default();
        not_covered.not_made(NoRetry::NotCovered);
        passed_on(&mut headers, &not_covered);
        assert_eq!(values(&headers), [] as [&str; 0]);
    }

    #[test]
    fn what_others_said_stays_before_ours() {
        let mut headers = HeaderMap::new();
        let theirs = HeaderValue::from_static("cache.example; details=\"x\"");
        headers.insert(PROXY_STATUS, theirs);
        let mut retries = Retries::default();
        retries.made(RetryReason::Status);
        passed_on(&mut headers, &retries);
        assert_eq!(
            values(&headers),
            [
                "cache.example; details=\"x\"",
                "outrider; retried=\"status\""
            ]
        );
    }

    #[test]
    fn a_refusal_tells_its_story_in_the_same_member() {
        let mut headers = HeaderMap::new();
        let mut retries = Retries::default();
        retries.made(RetryReason::ConnectFailed);
        retries.made(RetryReason::AttemptTimeout);
        retries.not_made(NoRetry::AttemptsExhausted);
        refused(&mut headers, &Refusal::AttemptTimeout.row(), &retries);
        assert_eq!(
            values(&headers),
            [
                "outrider; error=http_response_timeout; details=\"attempt_timeout\"; \
                 retried=\"connect_failed attempt_timeout\"; not_retried=\"attempts_exhausted\""
            ]
        );
    }

    #[test]
    fn what_is_told_is_bounded() {
        let mut retries = Retries::default();
        for _ in 0..1_000 {
            retries.made(RetryReason::ConnectFailed);
        }
        let told = retries.retried().expect("reasons");
        assert_eq!(told.split(' ').count(), 16);
    }

    /// RFC 9651, section 3.3.3: what stands between the quotes needs no escape.
    #[test]
    fn each_label_is_a_plain_string() {
        let made = RetryReason::ALL.iter().map(|why| why.label());
        let not_made = NoRetry::ALL.iter().map(|why| why.label());
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
        for label in made.chain(not_made) {
            assert!(label.bytes().all(plain), "{label}");
        }
    }
}
