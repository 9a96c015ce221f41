//! Faults that are injected into a share of the requests, to see what becomes of them.

use std::time::Duration;

use outrider_api::model::traffic::{Fault, FaultKind};

/// Basis points of a whole.
const WHOLE: usize = 10_000;

/// What befalls one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drawn {
    /// First: all delays that were drawn. Zero: none.
    pub delay: Duration,
    /// Then: the first abort that was drawn.
    pub abort: Option<Abort>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort {
    pub status: u16,
    pub grpc: u8,
}

/// Draws each fault on its own. `random` gives a number below its argument.
pub fn draw(faults: &[Fault], mut random: impl FnMut(usize) -> usize) -> Drawn {
    let mut drawn = Drawn::default();
    for fault in faults {
        if random(WHOLE) >= usize::from(fault.basis_points) {
            continue;
        }
        match fault.kind {
            FaultKind::Delay(delay) => drawn.delay = drawn.delay.saturating_add(delay),
            FaultKind::Abort { status, grpc } => {
                drawn.abort = drawn.abort.or(Some(Abort { status, grpc }));
            }
        }
    }
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delay(basis_points: u16, milliseconds: u64) -> Fault {
        Fault {
            basis_points,
            kind: FaultKind::Delay(Duration::from_millis(milliseconds)),
        }
    }

    fn abort(basis_points: u16, status: u16) -> Fault {
        Fault {
            basis_points,
            kind: FaultKind::Abort { status, grpc: 14 },
        }
    }

    #[test]
    fn none_and_all() {
        let never = [delay(0, 5), abort(0, 503)];
        assert_eq!(draw(&never, |_| 0), Drawn::default());
        let always = [delay(10_000, 5), abort(10_000, 503)];
        let drawn = draw(&always, |below| below - 1);
        assert_eq!(drawn.delay, Duration::from_millis(5));
        assert_eq!(drawn.abort.map(|abort| abort.status), Some(503));
    }

    #[test]
    fn delays_add_up_and_the_first_abort_counts() {
        let faults = [
            abort(10_000, 500),
            delay(10_000, 1),
            delay(10_000, 2),
            abort(10_000, 503),
        ];
        let drawn = draw(&faults, |_| 0);
        assert_eq!(drawn.delay, Duration::from_millis(3));
        assert_eq!(drawn.abort.map(|abort| abort.status), Some(500));
    }

    #[test]
    fn each_is_drawn_on_its_own_in_its_share() {
        let faults = [delay(2_500, 1), abort(1, 503)];
        let mut rng = fastrand::Rng::with_seed(7);
        let (mut delayed, mut aborted, mut both) = (0, 0, 0);
        for _ in 0..400_000 {
            let drawn = draw(&faults, |below| rng.usize(..below));
            delayed += u32::from(!drawn.delay.is_zero());
            aborted += u32::from(drawn.abort.is_some());
            both += u32::from(!drawn.delay.is_zero() && drawn.abort.is_some());
        }
        assert!((98_000..102_000).contains(&delayed), "{delayed}");
        assert!((15..80).contains(&aborted), "{aborted}");
        assert!(both < aborted);
    }
}
