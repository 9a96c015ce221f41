//! How long nothing may happen. A timer is made only once there is something to wait for.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// Watches something that makes progress now and then.
#[derive(Debug)]
pub struct Idle {
    limit: Duration,
    waiting_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Idle {
    pub fn new(limit: Duration) -> Self {
        Self {
            limit,
            waiting_since: None,
            timer: None,
        }
    }

    /// Something happened.
    pub fn progressed(&mut self) {
        self.waiting_since = None;
    }

    /// Nothing happened in this poll. Ready once that has been so for the limit.
    pub fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        let deadline = since + self.limit;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= deadline {
                return Poll::Ready(());
            }
            // It was set before the last progress.
            timer.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn expires_after_the_last_progress() {
        let limit = Duration::from_secs(10);
        let mut idle = Idle::new(limit);
        let begun = Instant::now();
        let mut pending = tokio::time::interval(Duration::from_secs(4));
        pending.tick().await;
        let mut progress = 3;
        poll_fn(|cx| {
            while progress > 0 && pending.poll_tick(cx).is_ready() {
                progress -= 1;
                idle.progressed();
            }
            idle.poll_expired(cx)
        })
        .await;
        assert_eq!(begun.elapsed(), Duration::from_secs(12) + limit);
    }
}
