//! What became of the failures of one request, as its access log and its answer tell it.

use std::borrow::Cow;

use crate::traffic::retry::{NoRetry, RetryReason};

/// The most retries of one request that are told apart. Policy allows 10 (`retry.attempts`); what
/// was only tried elsewhere because a connection failed comes on top.
const TOLD_MAX: usize = 16;

/// See the module. Allocates nothing for a request that is not sent again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retries {
    made: Vec<RetryReason>,
    not_made: Option<NoRetry>,
}

impl Retries {
    /// The request is sent again, for this reason.
    pub fn made(&mut self, why: RetryReason) {
        if self.made.len() < TOLD_MAX {
            self.made.push(why);
        }
    }

    /// The failure stands, for this reason.
    pub fn not_made(&mut self, why: NoRetry) {
        self.not_made = Some(why);
    }

    /// Why it was sent again each time, in order, with spaces between.
    pub fn retried(&self) -> Option<Cow<'static, str>> {
        match self.made.as_slice() {
            [] => None,
            [one] => Some(Cow::Borrowed(one.label())),
            several => {
                let labels: Vec<&str> = several.iter().map(|why| why.label()).collect();
                Some(Cow::Owned(labels.join(" ")))
            }
        }
    }

    /// Why the last failure stands.
    pub fn not_retried(&self) -> Option<NoRetry> {
        self.not_made
    }
}
