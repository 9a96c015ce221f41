//! Headers in rules. Bytes, not UTF-8.

use http::HeaderName;

use super::matches::{Doubt, MatchError, TEXT_MAX};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderValueMatch {
    Exact(Vec<u8>),
    Prefix(Vec<u8>),
    /// Whatever its value.
    Present,
}

/// A header, in bytes. To allow, the header must be there and each of its values must match whole;
/// to refuse, any value or any element of a comma-separated one suffices.
///
/// `x_team` counts as `x-team` where that refuses: there are apps that do not tell them apart
/// (RFC 3875 section 4.1.18).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    name: HeaderName,
    value: HeaderValueMatch,
}

impl HeaderMatch {
    /// # Errors
    /// `name` is not that of a header, or is "host"; or the value is an empty prefix or too long.
    pub fn new(name: &str, value: HeaderValueMatch) -> Result<Self, MatchError> {
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| MatchError::HeaderName(name.to_owned()))?;
        if name == http::header::HOST {
            return Err(MatchError::HostHeader);
        }
        match &value {
            HeaderValueMatch::Prefix(prefix) if prefix.is_empty() => return Err(MatchError::Empty),
            HeaderValueMatch::Prefix(bytes) | HeaderValueMatch::Exact(bytes)
                if bytes.len() > TEXT_MAX =>
            {
                return Err(MatchError::TooLong(bytes.len(), TEXT_MAX));
            }
            _ => {}
        }
        Ok(Self { name, value })
    }

    #[must_use]
    pub fn name(&self) -> &HeaderName {
        &self.name
    }

    #[must_use]
    pub fn value(&self) -> &HeaderValueMatch {
        &self.value
    }

    pub(super) fn matches(&self, headers: &http::HeaderMap, doubt: Doubt) -> bool {
        let mut like = headers.iter().filter(|(name, _)| self.is_like(name));
        match doubt {
            Doubt::Matches => like.any(|(_, value)| self.matches_any_element(value.as_bytes())),
            Doubt::DoesNotMatch => {
                headers.contains_key(&self.name)
                    && like.all(|(_, value)| self.matches_value(value.as_bytes()))
            }
        }
    }

    fn is_like(&self, name: &HeaderName) -> bool {
        let dashed = |b: u8| if b == b'_' { b'-' } else { b };
        let (ours, theirs) = (self.name.as_str(), name.as_str());
        ours.len() == theirs.len() && ours.bytes().map(dashed).eq(theirs.bytes().map(dashed))
    }

    fn matches_any_element(&self, value: &[u8]) -> bool {
        let mut elements = value.split(|b| *b == b',').map(<[u8]>::trim_ascii);
        self.matches_value(value) || elements.any(|element| self.matches_value(element))
    }

    fn matches_value(&self, value: &[u8]) -> bool {
        match &self.value {
            HeaderValueMatch::Exact(expected) => value == expected,
            HeaderValueMatch::Prefix(prefix) => value.starts_with(prefix),
            HeaderValueMatch::Present => true,
        }
    }
}
