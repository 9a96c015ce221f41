//! What the control plane was asked about, and what it said last: one `watch` channel for each Service
//! and each address that a worker follows.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outrider_api::model::ModelError;
use outrider_api::sidecar::SUBSCRIPTIONS_MAX;
use tokio::sync::{oneshot, watch};

use super::{DestinationState, Inventoried, Subject};

/// A worker wants to know about something.
#[derive(Debug)]
pub struct Subscription {
    pub subject: Subject,
    pub reply: oneshot::Sender<watch::Receiver<DestinationState>>,
}

/// Why a snapshot was rejected.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    #[error("version {version} is older than version {applied}, which is applied")]
    Older { version: u64, applied: u64 },
    #[error("the snapshot is empty")]
    Empty,
    #[error(transparent)]
    Invalid(#[from] ModelError),
}

/// See the module. Written by discovery alone; whoever asks what is known looks into it.
#[derive(Clone, Debug, Default)]
pub struct Subjects(Arc<Mutex<HashMap<Subject, Known>>>);

#[derive(Debug)]
struct Known {
    state: watch::Sender<DestinationState>,
    version: u64,
}

impl Subjects {
    /// Of the control thread: nobody waits for it.
    fn all_known(&self) -> MutexGuard<'_, HashMap<Subject, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to ask the control plane about, if it was not known yet.
    /// Where there is no room, whoever wants to know is told so by the other half being dropped: one
    /// more would have the control plane end the stream, and every policy with it.
    pub fn subscribe(&mut self, subscription: Subscription) -> Option<Subject> {
        let Subscription { subject, reply } = subscription;
        let mut all = self.all_known();
        if !all.contains_key(&subject) && all.len() >= SUBSCRIPTIONS_MAX {
            return None;
        }
        let mut fresh = None;
        let known = all.entry(subject).or_insert_with_key(|subject| {
            fresh = Some(subject.clone());
            Known {
                state: watch::Sender::new(DestinationState::Pending),
                version: 0,
            }
        });
        // A worker that no longer waits has dropped the other half.
        let _ = reply.send(known.state.subscribe());
        fresh
    }

    /// Whether there is no room for another subject. The control plane counts Services and addresses
    /// apart, and so has room for whatever there is room for here.
    pub fn is_full(&self) -> bool {
        self.all_known().len() >= SUBSCRIPTIONS_MAX
    }

    /// Takes out what nobody follows any more.
    pub fn sweep(&mut self) -> Vec<Subject> {
        let unused = |known: &Known| known.state.receiver_count() == 0;
        self.all_known()
            .extract_if(|_, known| unused(known))
            .map(|(subject, _)| subject)
            .collect()
    }

    pub fn all(&self) -> Vec<Subject> {
        self.all_known().keys().cloned().collect()
    }

    /// A stream begins, whose versions have nothing to do with those of the last.
    pub fn begin(&mut self) {
        for known in self.all_known().values_mut() {
            known.version = 0;
        }
    }

    /// What the control plane says of something; where that cannot be used, the last good word stays.
    pub fn learn(
        &mut self,
        subject: &Subject,
        version: u64,
        said: Result<DestinationState, Rejection>,
    ) -> Result<(), Rejection> {
        let mut all = self.all_known();
        let Some(known) = all.get_mut(subject) else {
            // No longer subscribed to.
            return said.map(|_| ());
        };
        newer(version, known.version)?;
        match said {
            Ok(state) => {
                known.version = version;
                known.state.send_replace(state);
                Ok(())
            }
            Err(rejection) => {
                known.state.send_if_modified(|state| {
                    let unusable = matches!(state, DestinationState::Pending);
                    if unusable {
                        *state = DestinationState::Invalid;
                    }
                    unusable
                });
                Err(rejection)
            }
        }
    }

    pub fn inventory(&self) -> Vec<Inventoried> {
        let all = self.all_known();
        let known = all.iter().map(|(subject, known)| Inventoried {
            subject: subject.clone(),
            version: known.version,
            state: known.state.borrow().clone(),
        });
        known.collect()
    }
}

/// On one stream a snapshot never goes back behind one that is applied.
pub fn newer(version: u64, applied: u64) -> Result<(), Rejection> {
    if version < applied {
        Err(Rejection::Older { version, applied })
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn subscribe(
        subjects: &mut Subjects,
        number: usize,
    ) -> Option<watch::Receiver<DestinationState>> {
        let bits = u32::try_from(number).expect("few");
        let (reply, mut answer) = oneshot::channel();
        let subject = Subject::Address(IpAddr::V4(Ipv4Addr::from_bits(bits)));
        subjects.subscribe(Subscription { subject, reply });
        answer.try_recv().ok()
    }

    #[test]
    fn versions_count_within_one_stream() {
        let mut subjects = Subjects::default();
        let _followed = subscribe(&mut subjects, 1).expect("room");
        let subject = subjects.all().pop().expect("one");
        let learn = |subjects: &mut Subjects, version| {
            subjects.learn(&subject, version, Ok(DestinationState::Missing))
        };
        assert!(learn(&mut subjects, 9).is_ok());
        assert!(learn(&mut subjects, 8).is_err());
        // Another replica, which has seen fewer changes.
        subjects.begin();
        assert!(learn(&mut subjects, 8).is_ok());
        assert!(learn(&mut subjects, 7).is_err());
    }

    #[test]
    fn no_more_is_asked_than_the_control_plane_answers() {
        let mut subjects = Subjects::default();
        let mut followed: Vec<_> = (0..SUBSCRIPTIONS_MAX)
            .map(|number| subscribe(&mut subjects, number).expect("room"))
            .collect();
        assert!(subjects.is_full());
        assert!(subscribe(&mut subjects, SUBSCRIPTIONS_MAX).is_none());
        assert!(subscribe(&mut subjects, 0).is_some(), "it is known");
        followed.pop();
        assert_eq!(subjects.sweep().len(), 1);
        assert!(subscribe(&mut subjects, SUBSCRIPTIONS_MAX).is_some());
    }
}
