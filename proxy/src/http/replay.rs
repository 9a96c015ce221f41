//! A request body that can be sent again: what has passed is kept while it is small, and given to
//! the next attempt before the rest of the source.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use std::time::Instant;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::mpsc;

use super::body::{BodyError, passed_on};

/// The most that is kept of one body, bytes.
pub const REPLAY_MAX: usize = 64 * 1024;
/// What each part of a body that is kept counts at least, bytes: about what keeping it costs. A body in
/// parts of a byte each would take a hundred times its size.
const PART_COST: usize = 128;
/// Parts of a body that a mirror may be behind; one that is slower gets no more.
const MIRROR_LAG: usize = 32;

/// What all attempts of one request share.
#[derive(Debug)]
struct Shared<B> {
    source: B,
    ended: bool,
    /// The attempt that may read on; those before have been given up.
    attempt: u32,
    /// What has passed, where all of it is kept.
    frames: Vec<Frame<Bytes>>,
    bytes: usize,
    keeping: bool,
    mirrors: Vec<mpsc::Sender<Part>>,
    /// Of the attempt that waits for the source.
    waiting: Option<Waker>,
    moved: Moved,
}

/// When something of a body last passed, its end included; `None` before that.
pub type Moved = Rc<Cell<Option<Instant>>>;

/// A part of a body; `None`: its end, so that a copy that breaks off is not taken for a whole one.
type Part = Option<Frame<Bytes>>;

/// The right to send a body again.
#[derive(Debug)]
pub struct Replay<B = Incoming>(Rc<RefCell<Shared<B>>>);

/// The body of one attempt.
#[derive(Debug)]
pub struct Attempt<B = Incoming> {
    shared: Rc<RefCell<Shared<B>>>,
    number: u32,
    /// How many of the kept frames have been sent.
    sent: usize,
}

/// A copy of a body as it passes, for a mirror.
#[derive(Debug)]
pub struct Copied(mpsc::Receiver<Part>);

impl<B> Replay<B> {
    pub fn new(source: B) -> Self {
        Self(Rc::new(RefCell::new(Shared {
            source,
            ended: false,
            attempt: 0,
            frames: Vec::new(),
            bytes: 0,
            keeping: true,
            mirrors: Vec::new(),
            waiting: None,
            moved: Moved::default(),
        })))
    }

    /// The body from its beginning, for the next attempt; those before read nothing more. `None`:
    /// something that has passed was not kept.
    pub fn attempt(&self) -> Option<Attempt<B>> {
        let mut shared = self.0.borrow_mut();
        if !shared.keeping {
            return None;
        }
        shared.supersede();
        Some(Attempt {
            shared: Rc::clone(&self.0),
            number: shared.attempt,
            sent: 0,
        })
    }

    /// The attempts so far read nothing more: what they would read until there is another may be too
    /// much to be kept.
    pub fn stop(&self) {
        self.0.borrow_mut().supersede();
    }

    pub fn moved(&self) -> Moved {
        Rc::clone(&self.0.borrow().moved)
    }

    /// Whether [`Replay::attempt`] gives one.
    pub fn is_possible(&self) -> bool {
        self.0.borrow().keeping
    }

    /// There will be no further attempt: nothing more is kept.
    pub fn release(&self) {
        self.0.borrow_mut().keeping = false;
    }

    /// A copy of what passes from now on.
    pub fn copied(&self) -> Copied {
        let (sender, receiver) = mpsc::channel(MIRROR_LAG);
        self.0.borrow_mut().mirrors.push(sender);
        Copied(receiver)
    }
}

impl<B> Shared<B> {
    /// The attempts so far find out at once, and reset their streams.
    fn supersede(&mut self) {
        self.attempt += 1;
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
    }

    fn ends(&mut self) {
        self.ended = true;
        for mirror in self.mirrors.drain(..) {
            // One that is too slow finds that it lacks the end.
            let _ = mirror.try_send(None);
        }
    }

    fn passes(&mut self, frame: &Frame<Bytes>) {
        self.mirrors
            .retain(|mirror| mirror.try_send(Some(copy(frame))).is_ok());
        if !self.keeping {
            return;
        }
        match frame.data_ref() {
            // Nobody misses it.
            Some(data) if data.is_empty() => return,
            Some(data) => self.bytes += data.len().max(PART_COST),
            None => {}
        }
        if self.bytes > REPLAY_MAX {
            self.keeping = false;
            self.frames = Vec::new();
        } else {
            self.frames.push(copy(frame));
        }
    }
}

/// Another handle to the same bytes.
fn copy(frame: &Frame<Bytes>) -> Frame<Bytes> {
    match frame.trailers_ref() {
        Some(trailers) => Frame::trailers(trailers.clone()),
        None => Frame::data(frame.data_ref().cloned().unwrap_or_default()),
    }
}

impl<B: Body<Data = Bytes, Error = hyper::Error> + Unpin> Attempt<B> {
    pub fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let shared = &mut *self.shared.borrow_mut();
        if shared.attempt != self.number {
            return Poll::Ready(Some(Err(BodyError::Superseded)));
        }
        if let Some(frame) = shared.frames.get(self.sent) {
            let frame = copy(frame);
            self.sent += 1;
            return Poll::Ready(Some(Ok(frame)));
        }
        if shared.ended {
            return Poll::Ready(None);
        }
        let polled = match std::pin::Pin::new(&mut shared.source).poll_frame(cx) {
            Poll::Ready(polled) => polled,
            Poll::Pending => {
                let known = shared.waiting.as_ref();
                if !known.is_some_and(|waiting| waiting.will_wake(cx.waker())) {
                    shared.waiting = Some(cx.waker().clone());
                }
                return Poll::Pending;
            }
        };
        shared.moved.set(Some(Instant::now()));
        let polled = polled.map(|result| passed_on(result?));
        match &polled {
            Some(Ok(frame)) => {
                shared.passes(frame);
                // Nobody asks for more then.
                if shared.source.is_end_stream() {
                    shared.ends();
                }
            }
            Some(Err(_)) => shared.keeping = false,
            None => shared.ends(),
        }
        self.sent = shared.frames.len();
        Poll::Ready(polled)
    }
}

impl<B: Body> Attempt<B> {
    pub fn is_end_stream(&self) -> bool {
        let shared = self.shared.borrow();
        self.sent >= shared.frames.len() && (shared.ended || shared.source.is_end_stream())
    }

    pub fn size_hint(&self) -> SizeHint {
        let shared = self.shared.borrow();
        let mut hint = shared.source.size_hint();
        let kept: usize = shared
            .frames
            .iter()
            .skip(self.sent)
            .filter_map(Frame::data_ref)
            .map(Bytes::len)
            .sum();
        let kept = kept as u64;
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + kept);
        }
        hint.set_lower(hint.lower() + kept);
        hint
    }
}

impl Copied {
    pub fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.0.poll_recv(cx).map(|part| match part {
            Some(frame) => frame.map(Ok),
            None => Some(Err(BodyError::Lost)),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::pin::Pin;
    use std::task::Waker;

    use super::*;

    /// A body of given parts.
    struct Parts(VecDeque<Bytes>);

    impl Parts {
        fn of(parts: &[usize]) -> Self {
            Self(parts.iter().map(|&len| Bytes::from(vec![7; len])).collect())
        }
    }

    impl Body for Parts {
        type Data = Bytes;
        type Error = hyper::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
            Poll::Ready(self.0.pop_front().map(|part| Ok(Frame::data(part))))
        }

        fn is_end_stream(&self) -> bool {
            self.0.is_empty()
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.0.iter().map(|part| part.len() as u64).sum())
        }
    }

    fn next(attempt: &mut Attempt<Parts>) -> Option<Result<usize, BodyError>> {
        let mut cx = Context::from_waker(Waker::noop());
        match attempt.poll_next(&mut cx) {
            Poll::Ready(frame) => {
                frame.map(|frame| frame.map(|frame| frame.data_ref().map_or(0, Bytes::len)))
            }
            Poll::Pending => panic!("the parts are all there"),
        }
    }

    fn rest(attempt: &mut Attempt<Parts>) -> Vec<usize> {
        std::iter::from_fn(|| next(attempt).map(|part| part.expect("no error"))).collect()
    }

    #[test]
    fn the_next_attempt_gets_all_of_it() {
        let replay = Replay::new(Parts::of(&[10, 20, 30]));
        let mut first = replay.attempt().expect("the first");
        assert!(matches!(next(&mut first), Some(Ok(10))));
        assert!(matches!(next(&mut first), Some(Ok(20))));
        let mut second = replay.attempt().expect("the second");
        assert_eq!(second.size_hint().exact(), Some(60));
        assert!(matches!(next(&mut first), Some(Err(BodyError::Superseded))));
        assert_eq!(rest(&mut second), [10, 20, 30]);
        assert!(second.is_end_stream());
        let mut third = replay.attempt().expect("the third");
        assert!(!third.is_end_stream());
        assert_eq!(rest(&mut third), [10, 20, 30]);
    }

    #[test]
    fn what_is_too_large_passes_once() {
        let replay = Replay::new(Parts::of(&[REPLAY_MAX, 1, 5]));
        let mut only = replay.attempt().expect("the first");
        assert!(matches!(next(&mut only), Some(Ok(REPLAY_MAX))));
        assert!(replay.is_possible());
        assert!(matches!(next(&mut only), Some(Ok(1))));
        assert!(!replay.is_possible() && replay.attempt().is_none());
        assert_eq!(rest(&mut only), [5]);
    }

    #[test]
    fn what_comes_in_too_many_parts_passes_once() {
        let many = REPLAY_MAX / PART_COST;
        for (count, is_kept) in [(many, true), (many + 1, false)] {
            let replay = Replay::new(Parts::of(&vec![1; count]));
            let mut first = replay.attempt().expect("the first");
            assert_eq!(rest(&mut first).len(), count);
            assert_eq!(replay.is_possible(), is_kept, "{count}");
        }
    }

    #[test]
    fn parts_without_a_byte_are_not_kept() {
        let mut parts = vec![0; 10 * REPLAY_MAX / PART_COST];
        parts.push(5);
        let replay = Replay::new(Parts::of(&parts));
        let mut first = replay.attempt().expect("the first");
        assert_eq!(rest(&mut first), parts);
        let mut second = replay.attempt().expect("the second");
        assert_eq!(rest(&mut second), [5]);
        assert!(second.is_end_stream());
    }

    #[test]
    fn a_released_body_goes_on() {
        let replay = Replay::new(Parts::of(&[10, 20]));
        let mut first = replay.attempt().expect("the first");
        assert!(matches!(next(&mut first), Some(Ok(10))));
        let mut second = replay.attempt().expect("the second");
        replay.release();
        assert_eq!(rest(&mut second), [10, 20]);
        assert!(replay.attempt().is_none());
    }

    #[test]
    fn who_is_stopped_reads_nothing_more() {
        let replay = Replay::new(Parts::of(&[10, REPLAY_MAX]));
        let mut first = replay.attempt().expect("the first");
        assert!(matches!(next(&mut first), Some(Ok(10))));
        replay.stop();
        assert!(matches!(next(&mut first), Some(Err(BodyError::Superseded))));
        let mut second = replay.attempt().expect("all of it was kept");
        assert_eq!(rest(&mut second), [10, REPLAY_MAX]);
    }

    #[test]
    fn a_copy_that_breaks_off_is_not_whole() {
        let replay = Replay::new(Parts::of(&[10, 20]));
        let mut copied = replay.copied();
        let mut only = replay.attempt().expect("the first");
        assert!(matches!(next(&mut only), Some(Ok(10))));
        drop((replay, only));
        let mut cx = Context::from_waker(Waker::noop());
        let mut poll = || copied.poll_next(&mut cx);
        assert!(matches!(poll(), Poll::Ready(Some(Ok(_)))));
        assert!(matches!(poll(), Poll::Ready(Some(Err(BodyError::Lost)))));
    }

    #[test]
    fn a_mirror_gets_a_copy() {
        let replay = Replay::new(Parts::of(&[10, 20]));
        let mut copied = replay.copied();
        let mut only = replay.attempt().expect("the first");
        assert_eq!(rest(&mut only), [10, 20]);
        let mut cx = Context::from_waker(Waker::noop());
        let mut lengths = Vec::new();
        for _ in 0..2 {
            let Poll::Ready(Some(Ok(frame))) = copied.poll_next(&mut cx) else {
                panic!("a part is missing");
            };
            lengths.push(frame.data_ref().map_or(0, Bytes::len));
        }
        assert_eq!(lengths, [10, 20]);
        assert!(matches!(copied.poll_next(&mut cx), Poll::Ready(None)));
    }
}
