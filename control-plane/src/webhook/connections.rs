//! Who is connected to the webhooks' port. Whoever reaches it may connect; what the bounds here are for is
//! that nobody keeps the API server out, which has a connection or two.
//!
//! Idle is who has no review under way: an open request whose body does not come is no work. When there is
//! no room, an idle connection of whoever has the most gives way, that which was idle for longest.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep_until};

use super::JUDGES;

/// So many connections are open at once.
const MAX: usize = 256;
/// So many of one address.
const MAX_OF_PEER: usize = 64;
/// A connection that is idle for so long ends: another costs the API server some milliseconds.
const IDLE: Duration = Duration::from_secs(30);
/// KiB of bodies of one address at once: two of the largest.
const ROOM: usize = 16 * 1024;

/// All that are open; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Connections(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    open: BTreeMap<u64, Open>,
}

#[derive(Debug)]
struct Open {
    peer: IpAddr,
    share: Arc<Share>,
    /// Reviews under way.
    reviews: usize,
    /// Since when there are none.
    idle: Instant,
    leave: Arc<Notify>,
}

/// What one address may have of everybody's at once.
#[derive(Debug)]
pub(super) struct Share {
    /// Whoever waits for a judge waits behind no more than this of each other address.
    pub(super) judges: Arc<Semaphore>,
    /// For bodies, KiB.
    pub(super) room: Semaphore,
}

impl Share {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            judges: Arc::new(Semaphore::new(JUDGES)),
            room: Semaphore::new(ROOM),
        })
    }
}

/// A connection's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    connections: Connections,
    id: u64,
    share: Arc<Share>,
    leave: Arc<Notify>,
}

impl Connections {
    /// A place for a connection of `peer`; `None`: all are at work that could give way to it.
    pub(super) fn admit(&self, peer: IpAddr) -> Option<Place> {
        let mut table = self.lock();
        let of_peer = table.of(peer);
        if of_peer >= MAX_OF_PEER {
            table.give_way(|open| open.peer == peer)?;
        } else if table.open.len() >= MAX {
            table.give_way(|_| true)?;
        }
        let known = table.open.values().find(|open| open.peer == peer);
        let share = known.map_or_else(Share::new, |open| Arc::clone(&open.share));
        let leave = Arc::new(Notify::new());
        let id = table.next;
        table.next += 1;
        let open = Open {
            peer,
            share: Arc::clone(&share),
            reviews: 0,
            idle: Instant::now(),
            leave: Arc::clone(&leave),
        };
        table.open.insert(id, open);
        Some(Place {
            connections: self.clone(),
            id,
            share,
            leave,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn of(&self, peer: IpAddr) -> usize {
        self.open.values().filter(|open| open.peer == peer).count()
    }

    /// One of those that `may` ends, if one of them is idle.
    fn give_way(&mut self, may: impl Fn(&Open) -> bool) -> Option<()> {
        let idle = self
            .open
            .iter()
            .filter(|(_, open)| open.reviews == 0 && may(open));
        let first = idle.max_by_key(|(_, open)| (self.of(open.peer), Reverse(open.idle)));
        let id = *first?.0;
        self.open.remove(&id)?.leave.notify_one();
        Some(())
    }
}

impl Place {
    /// Returns when the connection is to end: another needs its place, or it has been idle for too long.
    pub(super) async fn over(&self) {
        loop {
            let looked = Instant::now();
            // `None`: it gives way, and was told so.
            let idle = match self.connections.lock().open.get(&self.id) {
                Some(open) if open.reviews > 0 => Some(looked),
                Some(open) => Some(open.idle),
                None => None,
            };
            let Some(idle) = idle else {
                return;
            };
            if looked >= idle + IDLE {
                return;
            }
            tokio::select! {
                () = self.leave.notified() => return,
                () = sleep_until(idle + IDLE) => {}
            }
        }
    }

    /// A review is under way, until this is dropped.
    pub(super) fn work(&self) -> Work<'_> {
        if let Some(open) = self.connections.lock().open.get_mut(&self.id) {
            open.reviews += 1;
        }
        Work(self)
    }

    pub(super) fn share(&self) -> &Arc<Share> {
        &self.share
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.lock().open.remove(&self.id);
    }
}

/// See [`Place::work`].
#[derive(Debug)]
pub(super) struct Work<'p>(&'p Place);

impl Drop for Work<'_> {
    fn drop(&mut self) {
        if let Some(open) = self.0.connections.lock().open.get_mut(&self.0.id) {
            open.reviews -= 1;
            open.idle = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::time::{advance, timeout};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn peer(number: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, number).into()
    }

    /// Those that were told to end, by their place in the list.
    async fn leaving(places: &[Place]) -> Vec<usize> {
        let mut leaving = Vec::new();
        for (index, place) in places.iter().enumerate() {
            if timeout(Duration::ZERO, place.over()).await.is_ok() {
                leaving.push(index);
            }
        }
        leaving
    }

    /// Each a moment after the one before.
    async fn admitted(connections: &Connections, peer: IpAddr, count: usize) -> Vec<Place> {
        let mut places = Vec::new();
        for _ in 0..count {
            places.push(connections.admit(peer).unwrap());
            advance(Duration::from_millis(1)).await;
        }
        places
    }

    #[tokio::test(start_paused = true)]
    async fn one_address_takes_only_its_own_places() {
        let connections = Connections::default();
        let server = connections.admit(peer(1)).unwrap();
        let places = admitted(&connections, peer(2), MAX_OF_PEER).await;
        assert!(leaving(&places).await.is_empty());
        // The first is at work.
        let work = places[0].work();
        let more = admitted(&connections, peer(2), 2).await;
        assert_eq!(leaving(&places).await, [1, 2]);
        assert!(leaving(&more).await.is_empty() && leaving(&[server]).await.is_empty());
        assert_eq!(connections.lock().of(peer(2)), MAX_OF_PEER);
        drop(work);

        let all: Vec<_> = places[3..].iter().chain(&more).map(Place::work).collect();
        let _first = places[0].work();
        assert!(connections.admit(peer(2)).is_none(), "all are at work");
        assert!(connections.admit(peer(3)).is_some());
        drop(all);
        assert!(connections.admit(peer(2)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_places_are_taken_whoever_has_the_most_gives_way() {
        let connections = Connections::default();
        // It has been idle for longest.
        let server = connections.admit(peer(1)).unwrap();
        let mut places = Vec::new();
        for number in 2..6 {
            places.extend(admitted(&connections, peer(number), MAX_OF_PEER).await);
        }
        // The first gave way to the last already.
        assert_eq!(leaving(&places).await, [0]);
        let another = connections.admit(peer(1)).unwrap();
        assert_eq!(leaving(&places).await.len(), 2);
        // However many more come, from however many addresses.
        for number in 6..200 {
            places.push(connections.admit(peer(number)).unwrap());
            assert_eq!(connections.lock().open.len(), MAX);
        }
        assert!(leaving(&[server, another]).await.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_idle_ends() {
        let connections = Connections::default();
        let place = connections.admit(peer(1)).unwrap();
        let begin = Instant::now();
        timeout(IDLE + SECOND, place.over()).await.unwrap();
        assert_eq!(begin.elapsed(), IDLE);
        drop(place);
        assert!(connections.lock().open.is_empty());

        let place = connections.admit(peer(1)).unwrap();
        let reviewed = async {
            tokio::time::sleep(SECOND).await;
            let work = place.work();
            tokio::time::sleep(IDLE * 2).await;
            drop(work);
        };
        let begin = Instant::now();
        tokio::join!(place.over(), reviewed);
        assert_eq!(begin.elapsed(), SECOND + IDLE * 3);
    }
}
