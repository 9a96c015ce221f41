//! One at a time makes what many wait for.

use std::cell::Cell;
use std::time::Instant;

use tokio::sync::Mutex;

use crate::refusal::Refusal;

#[derive(Debug, Default)]
pub struct Turns {
    turn: Mutex<()>,
    failed: Cell<Option<(Instant, Refusal)>>,
}

impl Turns {
    /// What there `is`, or else what is made. Whoever comes meanwhile waits for it, and shares its
    /// failure.
    pub async fn take<T>(
        &self,
        is: impl Fn() -> Option<T>,
        made: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        let arrived = Instant::now();
        let _turn = self.turn.lock().await;
        if let Some(there) = is() {
            return Ok(there);
        }
        if let Some((failed, refusal)) = self.failed.get()
            && failed >= arrived
        {
            return Err(refusal);
        }
        let made = made.await;
        if let Err(refusal) = &made {
            self.failed.set(Some((Instant::now(), *refusal)));
        }
        made
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;

    /// How often one of three that come at once makes it, and what they get.
    async fn three(result: Result<u32, Refusal>) -> (u32, Vec<Result<u32, Refusal>>) {
        let turns = Turns::default();
        let (made, there) = (Cell::new(0), Cell::new(None));
        let make = || async {
            made.set(made.get() + 1);
            tokio::task::yield_now().await;
            there.set(result.ok());
            result
        };
        let all = (0..3).map(|_| turns.take(|| there.get(), make()));
        let all = join_all(all).await;
        (made.get(), all)
    }

    #[tokio::test]
    async fn it_is_made_once() {
        assert_eq!(three(Ok(7)).await, (1, vec![Ok(7); 3]));
        let failed = Err(Refusal::ConnectFailed);
        assert_eq!(three(failed).await, (1, vec![failed; 3]));
    }

    #[tokio::test]
    async fn a_failure_is_not_that_of_who_comes_later() {
        let turns = Turns::default();
        let failed: Result<u32, _> = turns
            .take(|| None, async { Err(Refusal::ConnectFailed) })
            .await;
        assert_eq!(failed, Err(Refusal::ConnectFailed));
        assert_eq!(turns.take(|| None, async { Ok(7) }).await, Ok(7));
    }
}
