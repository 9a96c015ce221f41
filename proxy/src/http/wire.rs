//! What one sidecar tells the other about a request, beside the request: the port of the workload
//! that it is for, and the HTTP version that the app is to be spoken to with.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::refusal::Refusal;

/// Set by the outbound sidecar, removed by the inbound one: `<port>;h1` or `<port>;h2`.
pub const TARGET: HeaderName = HeaderName::from_static("x-outrider-target");

/// Set by the inbound sidecar on the answer of an app that did not switch protocols: its status. A
/// success status in answer to CONNECT would mean that it did (RFC 9113, section 8.5), so the
/// answer itself travels as [`DECLINED_STATUS`].
const DECLINED: HeaderName = HeaderName::from_static("x-outrider-declined");
pub const DECLINED_STATUS: StatusCode = StatusCode::UPGRADE_REQUIRED;

/// Marks an answer as one that declined an upgrade.
pub fn set_declined(status: StatusCode, headers: &mut HeaderMap) {
    headers.insert(DECLINED, HeaderValue::from(status.as_u16()));
}

/// The status of the app that declined an upgrade.
pub fn take_declined(headers: &mut HeaderMap) -> Option<StatusCode> {
    StatusCode::from_bytes(headers.remove(&DECLINED)?.as_bytes()).ok()
}

/// Set by the inbound sidecar on what it answers itself: the reason. What came from the app has none.
const REASON: HeaderName = HeaderName::from_static("x-outrider-reason");
/// Set by the inbound sidecar on an error answer of an app whose own call was retried already, nearer
/// the failure.
const RETRIED: HeaderName = HeaderName::from_static("x-outrider-retried");

/// Marks an answer as the sidecar's own.
pub fn set_reason(headers: &mut HeaderMap, refusal: Refusal) {
    headers.insert(REASON, HeaderValue::from_static(refusal.reason()));
}

/// Why the peer's sidecar answered instead of its app.
pub fn take_reason(headers: &mut HeaderMap) -> Option<Refusal> {
    Refusal::from_reason(headers.remove(&REASON)?.as_bytes())
}

/// Marks an error answer as one that was retried for already.
pub fn set_retried(headers: &mut HeaderMap) {
    headers.insert(RETRIED, HeaderValue::from_static("1"));
}

/// Whether the failure was retried for already, nearer to where it happened.
pub fn take_retried(headers: &mut HeaderMap) -> bool {
    headers.remove(&RETRIED).is_some()
}

/// The HTTP version between a sidecar and its app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AppVersion {
    Http1,
    Http2,
}

/// What [`TARGET`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub port: u16,
    pub version: AppVersion,
}

/// Why a request between sidecars cannot be told where to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("the request has no x-outrider-target")]
    Missing,
    #[error("the request has more than one x-outrider-target")]
    Repeated,
    #[error("x-outrider-target must be `<port>;h1` or `<port>;h2`")]
    Malformed,
}

impl Target {
    /// The header's value.
    pub fn to_value(self) -> Option<HeaderValue> {
        let version = match self.version {
            AppVersion::Http1 => "h1",
            AppVersion::Http2 => "h2",
        };
        HeaderValue::try_from(format!("{};{version}", self.port)).ok()
    }

    /// Takes the header out of `headers`.
    pub fn take(headers: &mut HeaderMap) -> Result<Self, TargetError> {
        if headers.get_all(&TARGET).iter().nth(1).is_some() {
            return Err(TargetError::Repeated);
        }
        let value = headers.remove(&TARGET).ok_or(TargetError::Missing)?;
        Self::try_from(value.as_bytes())
    }
}

impl TryFrom<&[u8]> for Target {
    type Error = TargetError;

    fn try_from(value: &[u8]) -> Result<Self, TargetError> {
        let (port, version) = match value {
            [port @ .., b';', b'h', b'1'] => (port, AppVersion::Http1),
            [port @ .., b';', b'h', b'2'] => (port, AppVersion::Http2),
            _ => return Err(TargetError::Malformed),
        };
        if !port.iter().all(u8::is_ascii_digit) {
            return Err(TargetError::Malformed);
        }
        let port = std::str::from_utf8(port)
            .ok()
            .and_then(|port| port.parse().ok());
        match port {
            None | Some(0) => Err(TargetError::Malformed),
            Some(port) => Ok(Self { port, version }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_survives_the_wire() {
        for target in [
            Target {
                port: 8080,
                version: AppVersion::Http1,
            },
            Target {
                port: 65535,
                version: AppVersion::Http2,
            },
        ] {
            let value = target.to_value().expect("a valid value");
            assert_eq!(Target::try_from(value.as_bytes()), Ok(target));
        }
    }

    #[test]
    fn nothing_else_is_a_target() {
        for bad in [
            "", ";h1", "0;h1", "65536;h1", "+80;h1", "80;h3", "80", "80;h1 ", " 80;h1", "-1;h2",
        ] {
            assert_eq!(
                Target::try_from(bad.as_bytes()),
                Err(TargetError::Malformed),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn two_targets_are_none() {
        let mut headers = HeaderMap::new();
        headers.append(TARGET, HeaderValue::from_static("1;h1"));
        headers.append(TARGET, HeaderValue::from_static("2;h1"));
        assert_eq!(Target::take(&mut headers), Err(TargetError::Repeated));
    }
}
