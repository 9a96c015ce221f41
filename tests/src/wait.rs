//! Waiting for conditions. Nothing in the tests sleeps for a fixed time and hopes.

use std::fmt::Debug;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Between two looks at a condition.
const INTERVAL: Duration = Duration::from_millis(10);

/// What a condition may take on a busy machine of two cores, where nothing says how long.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Looks until `condition` gives a value, and fails naming `what` when `deadline` has passed.
/// An error of the condition means "not yet", and is told when the deadline has passed.
pub fn eventually<T>(
    what: &str,
    deadline: Duration,
    condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    eventually_every(INTERVAL, what, deadline, condition)
}

/// Like [`eventually`], with more time between two looks: for a condition that is dear to look at.
pub fn eventually_every<T>(
    interval: Duration,
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        let last = condition();
        if let Ok(Some(value)) = last {
            return Ok(value);
        }
        if start.elapsed() >= deadline {
            match last {
                Err(error) => bail!("after {deadline:?}, still not: {what}: {error:#}"),
                _ => bail!("after {deadline:?}, still not: {what}"),
            }
        }
        thread::sleep(interval);
    }
}

/// Like [`eventually`], for a condition that is true or not.
pub fn until(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<()> {
    eventually(what, deadline, || Ok(condition()?.then_some(())))
}

/// Waits until `read` gives exactly `expected`, and fails telling what it gave last.
pub fn becomes<T: PartialEq + Debug>(
    what: &str,
    expected: &T,
    mut read: impl FnMut() -> Result<T>,
) -> Result<()> {
    let mut last = None;
    let reached = until(what, PATIENCE, || {
        let value = read()?;
        let same = value == *expected;
        last = Some(value);
        Ok(same)
    });
    match (reached, last) {
        (Ok(()), _) => Ok(()),
        (Err(error), Some(last)) => bail!("{error:#}: expected {expected:?}, last was {last:?}"),
        (Err(error), None) => Err(error),
    }
}

/// Watches that a condition stays true for `period`: for what must not happen.
pub fn holds(
    what: &str,
    period: Duration,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < period {
        if !condition()? {
            bail!("after {:?}, no longer: {what}", start.elapsed());
        }
        thread::sleep(INTERVAL);
    }
    Ok(())
}
