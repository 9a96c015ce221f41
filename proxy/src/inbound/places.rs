//! Places, of which there are so many, for connections of clients about whom nothing is known yet. When
//! all are taken, the oldest of those that have said nothing gives way to whoever comes: silence is what
//! costs a client nothing, and must not shut out those who have something to say.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::rc::Rc;

use tokio::sync::oneshot;

/// See the module. Belongs to one worker.
#[derive(Debug)]
pub struct Places {
    most: usize,
    taken: Cell<usize>,
    next: Cell<u64>,
    /// Oldest first.
    silent: RefCell<VecDeque<(u64, oneshot::Sender<()>)>>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub struct Place(Rc<Places>);

/// For as long as it lasts, the place may be given to another.
#[derive(Debug)]
pub struct Silence {
    places: Rc<Places>,
    number: u64,
    wanted: oneshot::Receiver<()>,
}

impl Places {
    pub fn new(most: usize) -> Rc<Self> {
        Rc::new(Self {
            most,
            taken: Cell::default(),
            next: Cell::default(),
            silent: RefCell::default(),
        })
    }

    /// `None`: all are taken, by those that have spoken.
    pub fn take(self: &Rc<Self>) -> Option<(Place, Silence)> {
        let mut silent = self.silent.borrow_mut();
        if self.taken.get() >= self.most {
            let (_, oldest) = silent.pop_front()?;
            // It leaves as soon as it is its turn, and is counted until then.
            let _ = oldest.send(());
        }
        self.taken.set(self.taken.get() + 1);
        let number = self.next.replace(self.next.get() + 1);
        let (give_way, wanted) = oneshot::channel();
        silent.push_back((number, give_way));
        let places = Rc::clone(self);
        let silence = Silence {
            places,
            number,
            wanted,
        };
        Some((Place(Rc::clone(self)), silence))
    }
}

impl Silence {
    /// Ends with what is `said`. `None`: another has the place now.
    pub async fn until<T>(mut self, said: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            said = said => Some(said),
            _ = &mut self.wanted => None,
        }
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        let mut silent = self.places.silent.borrow_mut();
        // Mostly the last one: clients that speak do so at once.
        if let Ok(index) = silent.binary_search_by_key(&self.number, |(number, _)| *number) {
            silent.remove(index);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.set(self.0.taken.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn the_oldest_that_is_silent_gives_way() {
        let places = Places::new(3);
        let take = || places.take().expect("a place");
        let (first, silence) = take();
        assert_eq!(silence.until(ready("said")).await, Some("said"));
        let (second, silent) = take();
        let (_third, also_silent) = take();
        let silent = silent.until(pending::<()>());
        let also_silent = also_silent.until(pending::<()>());
        tokio::pin!(silent, also_silent);
        assert!(silent.as_mut().now_or_never().is_none());

        let (_fourth, silence) = take();
        assert_eq!(silent.as_mut().now_or_never(), Some(None));
        assert!(also_silent.as_mut().now_or_never().is_none());
        drop((silent, second));
        assert_eq!(silence.until(ready(())).await, Some(()));

        let (fifth, silence) = take();
        assert_eq!(also_silent.as_mut().now_or_never(), Some(None));
        assert_eq!(silence.until(ready(())).await, Some(()));
        assert!(places.take().is_none(), "all that are there have spoken");
        drop((first, fifth));
        assert!(places.take().is_some());
    }

    #[test]
    fn who_leaves_in_silence_leaves_nothing() {
        let places = Places::new(2);
        for _ in 0..5 {
            drop(places.take().expect("a place"));
        }
        assert_eq!(places.taken.get(), 0);
        assert!(places.silent.borrow().is_empty());
    }
}
