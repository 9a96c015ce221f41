//! How a sidecar goes without a call being lost: its endpoint is withdrawn while it still serves, and
//! only then does its app hear that it is to end, or does the sidecar take nothing more.

use std::sync::Arc;
use std::time::Duration;

use outrider_api::sidecar::withdrawal_limit;
use tokio::sync::watch;

use crate::control::WorkloadState;
use crate::telemetry::metrics::Metrics;
use crate::worker;

/// Whoever asks to hold the app knows that the pod goes, and the control plane hears of it at about the
/// same time; it takes a second or two to say so in a large mesh. After so long only a container of the
/// pod ends, and not the pod.
const WORD: Duration = Duration::from_secs(4);
/// The control plane that this sidecar is connected to knows when the sidecars of its own streams have
/// taken the change. Those of its replicas get it at about the same time.
const REPLICAS: Duration = Duration::from_millis(500);

/// The end of a sidecar, before anything is closed.
#[derive(Clone, Debug)]
pub struct Departure {
    /// The sidecar has been told to end.
    pub told: watch::Sender<bool>,
    /// The control plane says that the workload goes.
    pub terminating: watch::Receiver<bool>,
    /// Whoever called this workload has learned that it goes, or cannot be told.
    pub withdrawn: watch::Receiver<bool>,
    pub workload: watch::Receiver<WorkloadState>,
    pub metrics: Arc<Metrics>,
    pub drain_timeout: Option<Duration>,
}

/// What an app waits for before it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Nobody calls it any more.
    Withdrawn,
    /// Its pod stays, or there is nobody who would know.
    Stays,
    /// Somebody may not know yet, and it has waited for long enough.
    TooLong,
}

impl Departure {
    /// Whether it goes, whoever says so.
    pub fn is_under_way(&self) -> bool {
        *self.told.borrow() || *self.terminating.borrow()
    }

    /// Has the endpoint withdrawn, and resolves when whoever calls it has learned so: until then
    /// connections are taken as ever, so that no call meets a closed port.
    pub async fn announced(mut self) {
        self.told.send_replace(true);
        if self.metrics.control_plane_connected.get() == 0 {
            return;
        }
        let limit = self.limit();
        match self.spread(limit).await {
            true => tracing::info!("withdrawn: nobody calls this workload any more"),
            false => tracing::warn!(
                ?limit,
                "not everybody has learned yet that this workload goes"
            ),
        }
    }

    /// Resolves when the app may end, for a hook of its container. Announces nothing: anybody may ask
    /// the sidecar's telemetry, and only the control plane knows that the pod goes.
    pub async fn hold(mut self) -> Hold {
        let hold = self.held().await;
        tracing::info!(?hold, "somebody asked whether the app may end");
        hold
    }

    async fn held(&mut self) -> Hold {
        let mut told = self.told.subscribe();
        let word = async {
            tokio::select! {
                heard = self.terminating.wait_for(|terminating| *terminating) => heard.is_ok(),
                heard = told.wait_for(|told| *told) => heard.is_ok(),
            }
        };
        if !matches!(tokio::time::timeout(WORD, word).await, Ok(true)) {
            return Hold::Stays;
        }
        let limit = self.limit();
        match self.spread(limit).await {
            true => Hold::Withdrawn,
            false => Hold::TooLong,
        }
    }

    fn limit(&self) -> Duration {
        let workload = self.workload.borrow();
        withdrawal_limit(worker::drain_timeout(
            self.drain_timeout,
            workload.as_deref(),
        ))
    }

    async fn spread(&mut self, limit: Duration) -> bool {
        let spread = self.withdrawn.wait_for(|withdrawn| *withdrawn);
        let has_spread = tokio::time::timeout(limit, spread).await.is_ok();
        // Only a cluster says so, and only there are replicas.
        if has_spread && *self.terminating.borrow() {
            tokio::time::sleep(REPLICAS).await;
        }
        has_spread
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    struct Sides {
        departure: Departure,
        terminating: watch::Sender<bool>,
        withdrawn: watch::Sender<bool>,
        _workload: watch::Sender<WorkloadState>,
    }

    fn sides() -> Sides {
        let (withdrawn, withdrawn_state) = watch::channel(false);
        let (terminating, terminating_state) = watch::channel(false);
        let (workload, workload_state) = watch::channel(None);
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        metrics.control_plane_connected.set(1);
        let departure = Departure {
            told: watch::Sender::new(false),
            terminating: terminating_state,
            withdrawn: withdrawn_state,
            workload: workload_state,
            metrics,
            drain_timeout: Some(Duration::from_secs(6)),
        };
        Sides {
            departure,
            terminating,
            withdrawn,
            _workload: workload,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_app_is_held_until_nobody_calls_it() {
        let sides = sides();
        let held = tokio::spawn(sides.departure.clone().hold());
        tokio::time::sleep(Duration::from_secs(1)).await;
        sides.terminating.send_replace(true);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(!held.is_finished());
        sides.withdrawn.send_replace(true);
        assert_eq!(held.await.expect("a result"), Hold::Withdrawn);
    }

    #[tokio::test(start_paused = true)]
    async fn an_app_whose_pod_stays_is_not_held_for_long() {
        let sides = sides();
        let begun = Instant::now();
        assert_eq!(sides.departure.clone().hold().await, Hold::Stays);
        assert_eq!(begun.elapsed(), WORD);
        assert!(!sides.departure.is_under_way(), "nothing was announced");
    }

    #[tokio::test(start_paused = true)]
    async fn an_app_is_held_for_half_of_the_drain_timeout_at_most() {
        let sides = sides();
        sides.terminating.send_replace(true);
        let begun = Instant::now();
        assert_eq!(sides.departure.clone().hold().await, Hold::TooLong);
        assert_eq!(begun.elapsed(), Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_control_plane_a_sidecar_ends_at_once() {
        let sides = sides();
        sides.departure.metrics.control_plane_connected.set(0);
        let begun = Instant::now();
        sides.departure.clone().announced().await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert!(sides.departure.is_under_way());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_is_being_opened_again_is_waited_for() {
        let sides = sides();
        sides.departure.metrics.control_plane_connected.set(0);
        let held = tokio::spawn(sides.departure.clone().hold());
        tokio::time::sleep(Duration::from_secs(1)).await;
        sides.terminating.send_replace(true);
        sides.withdrawn.send_replace(true);
        assert_eq!(held.await.expect("a result"), Hold::Withdrawn);
    }
}
