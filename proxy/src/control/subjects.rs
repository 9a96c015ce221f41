//! What the control plane was asked about, and what it said last: one `watch` channel for each Service
//! and each address that a worker follows.

use std::collections::HashMap;

use outrider_api::model::ModelError;
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

/// See the module.
#[derive(Debug, Default)]
pub struct Subjects(HashMap<Subject, Known>);

#[derive(Debug)]
struct Known {
    state: watch::Sender<DestinationState>,
    version: u64,
}

impl Subjects {
    /// What to ask the control plane about, if it was not known yet.
    pub fn subscribe(&mut self, subscription: Subscription) -> Option<Subject> {
        let Subscription { subject, reply } = subscription;
        let mut fresh = None;
        let known = self.0.entry(subject).or_insert_with_key(|subject| {
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

    /// Takes out what nobody follows any more.
    pub fn sweep(&mut self) -> Vec<Subject> {
        let unused = |known: &Known| known.state.receiver_count() == 0;
        self.0
            .extract_if(|_, known| unused(known))
            .map(|(subject, _)| subject)
            .collect()
    }

    pub fn all(&self) -> impl Iterator<Item = &Subject> {
        self.0.keys()
    }

    /// What the control plane says of something; where that cannot be used, the last good word stays.
    pub fn learn(
        &mut self,
        subject: &Subject,
        version: u64,
        said: Result<DestinationState, Rejection>,
    ) -> Result<(), Rejection> {
        let Some(known) = self.0.get_mut(subject) else {
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
        let known = self.0.iter().map(|(subject, known)| Inventoried {
            subject: subject.clone(),
            version: known.version,
            state: known.state.borrow().clone(),
        });
        known.collect()
    }
}

/// A snapshot never goes back behind one that is applied.
pub fn newer(version: u64, applied: u64) -> Result<(), Rejection> {
    if version < applied {
        Err(Rejection::Older { version, applied })
    } else {
        Ok(())
    }
}
