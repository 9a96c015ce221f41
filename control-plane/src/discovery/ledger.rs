//! What one sidecar was sent and what it has answered. Pure; the clock is an argument.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use outrider_api::names::ServiceName;

/// Something that has versions on a stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Resource {
    /// The sidecar's own workload.
    Workload,
    /// A Service it calls.
    Destination(ServiceName),
    /// An address it connects to.
    Address(IpAddr),
}

/// An answer to a version that the sidecar cannot have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("version {version} was never sent on this stream; the newest that was is {newest}")]
pub(crate) struct NeverSent {
    version: u64,
    newest: u64,
}

/// What an acknowledgement says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Acknowledged {
    /// The newest version that this sidecar has acknowledged.
    pub(crate) newest: u64,
    /// How long the change took to get there; absent where the resource was new to the sidecar, or
    /// where it has been sent a newer version meanwhile.
    pub(crate) propagation: Option<Duration>,
}

/// The versions sent on one stream, and the answers.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    newest_sent: u64,
    newest_acknowledged: u64,
    sent: HashMap<Resource, Sent>,
}

#[derive(Debug, Default)]
struct Sent {
    /// Zero: it was asked for, and nothing has gone out yet.
    version: u64,
    /// The oldest version that the sidecar may still go by: the newest that it has acknowledged. Zero
    /// before that: it may have connected again, and go by what an earlier stream has brought.
    oldest: u64,
    /// When the change was noticed that is not acknowledged yet.
    noticed: Option<Instant>,
}

impl Ledger {
    /// The sidecar has asked for `resource`.
    pub(crate) fn asked(&mut self, resource: Resource) {
        self.sent.entry(resource).or_default();
    }

    /// `resource` goes out at `version`.
    pub(crate) fn sent(&mut self, resource: Resource, version: u64, noticed: Instant) {
        self.newest_sent = self.newest_sent.max(version);
        let sent = self.sent.entry(resource).or_default();
        sent.noticed = (sent.version > 0).then_some(noticed);
        sent.version = version;
    }

    /// The sidecar has applied `version`.
    ///
    /// # Errors
    /// It was never sent one.
    pub(crate) fn acknowledge(
        &mut self,
        resource: &Resource,
        version: u64,
        now: Instant,
    ) -> Result<Acknowledged, NeverSent> {
        self.check(version)?;
        self.newest_acknowledged = self.newest_acknowledged.max(version);
        let sent = self.sent.get_mut(resource);
        let noticed = sent.and_then(|sent| {
            sent.oldest = sent.oldest.max(version.min(sent.version));
            (sent.version == version).then(|| sent.noticed.take())?
        });
        let propagation = noticed.map(|noticed| now.saturating_duration_since(noticed));
        Ok(Acknowledged {
            newest: self.newest_acknowledged,
            propagation,
        })
    }

    /// The sidecar has rejected `version`.
    ///
    /// # Errors
    /// It was never sent one.
    pub(crate) fn reject(&mut self, resource: &Resource, version: u64) -> Result<(), NeverSent> {
        self.check(version)?;
        if let Some(sent) = self.sent.get_mut(resource)
            && sent.version == version
        {
            sent.noticed = None;
        }
        Ok(())
    }

    /// The newest version that went out.
    pub(crate) fn newest_sent(&self) -> u64 {
        self.newest_sent
    }

    /// Something goes out at `version` that is no resource.
    pub(crate) fn said(&mut self, version: u64) {
        self.newest_sent = self.newest_sent.max(version);
    }

    /// Whether the sidecar goes by `version` of `resource` or a later one, or by none at all.
    pub(crate) fn is_past(&self, resource: &Resource, version: u64) -> bool {
        let sent = self.sent.get(resource);
        sent.is_none_or(|sent| sent.oldest >= version)
    }

    /// The sidecar has unsubscribed. Answers that are on their way are still in order.
    pub(crate) fn forget(&mut self, resource: &Resource) {
        self.sent.remove(resource);
    }

    fn check(&self, version: u64) -> Result<(), NeverSent> {
        if version == 0 || version > self.newest_sent {
            return Err(NeverSent {
                version,
                newest: self.newest_sent,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination(name: &str) -> Resource {
        Resource::Destination(ServiceName {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
        })
    }

    #[test]
    fn propagation_is_that_of_a_change_and_counted_once() {
        let mut ledger = Ledger::default();
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        ledger.sent(Resource::Workload, 7, start);
        let first = ledger.acknowledge(&Resource::Workload, 7, at(1)).unwrap();
        assert_eq!((first.newest, first.propagation), (7, None));

        ledger.sent(Resource::Workload, 8, at(100));
        let change = ledger.acknowledge(&Resource::Workload, 8, at(130)).unwrap();
        assert_eq!(change.propagation, Some(Duration::from_millis(30)));
        let again = ledger.acknowledge(&Resource::Workload, 8, at(140)).unwrap();
        assert_eq!(again.propagation, None);
    }

    #[test]
    fn an_answer_to_an_older_version_is_in_order() {
        let mut ledger = Ledger::default();
        let now = Instant::now();
        ledger.sent(destination("billing"), 3, now);
        ledger.sent(destination("billing"), 4, now);
        let older = ledger.acknowledge(&destination("billing"), 3, now).unwrap();
        assert_eq!((older.newest, older.propagation), (3, None));
        let newer = ledger.acknowledge(&destination("billing"), 4, now).unwrap();
        assert_eq!((newer.newest, newer.propagation), (4, Some(Duration::ZERO)));
    }

    #[test]
    fn a_sidecar_goes_by_what_it_has_acknowledged() {
        let mut ledger = Ledger::default();
        let now = Instant::now();
        let billing = destination("billing");
        assert!(ledger.is_past(&billing, 9), "it knows nothing of it");
        ledger.asked(billing.clone());
        assert!(
            !ledger.is_past(&billing, 3),
            "it may go by what an earlier stream has brought"
        );
        ledger.sent(billing.clone(), 3, now);
        assert!(!ledger.is_past(&billing, 3));
        ledger.acknowledge(&billing, 3, now).unwrap();
        assert!(ledger.is_past(&billing, 3) && !ledger.is_past(&billing, 4));
        ledger.sent(billing.clone(), 5, now);
        assert!(
            !ledger.is_past(&billing, 5),
            "it may not have read that yet"
        );
        ledger.reject(&billing, 5).unwrap();
        assert!(!ledger.is_past(&billing, 5), "it keeps the last good one");
        ledger.sent(billing.clone(), 6, now);
        ledger.sent(Resource::Address([10, 0, 0, 1].into()), 8, now);
        ledger.acknowledge(&billing, 8, now).unwrap();
        assert!(ledger.is_past(&billing, 6) && !ledger.is_past(&billing, 7));
        ledger.forget(&billing);
        assert!(ledger.is_past(&billing, 9));
    }

    #[test]
    fn what_was_never_sent_cannot_be_answered() {
        let mut ledger = Ledger::default();
        let now = Instant::now();
        assert!(ledger.acknowledge(&Resource::Workload, 1, now).is_err());
        ledger.sent(Resource::Workload, 5, now);
        assert!(ledger.acknowledge(&Resource::Workload, 6, now).is_err());
        assert!(ledger.reject(&Resource::Workload, 0).is_err());
        ledger.sent(destination("billing"), 6, now);
        ledger.forget(&destination("billing"));
        assert!(ledger.acknowledge(&destination("billing"), 6, now).is_ok());
    }
}
