//! Consistent hashing by a Maglev table (Eisenbud et al., NSDI 2016, section 3.4): the same key
//! goes to the same endpoint in every sidecar, and the end of one endpoint moves few keys of others.

/// Slots for each endpoint, at least: their shares then differ by 1% at most.
const SLOTS_EACH: usize = 100;
/// Room for 655 endpoints, in 256 KiB. More need four times as many: a table of another size is
/// another table, in which every key moves, so that the size must not follow the number of endpoints
/// closely.
const FIRST_SIZE: usize = 65_536;

/// Looks up positions in the list that it was built from.
#[derive(Debug)]
pub(super) struct Maglev {
    slots: Vec<u32>,
}

impl Maglev {
    /// A table over `members`, given as position and identity.
    pub(super) fn new(members: impl Iterator<Item = (u32, u64)>) -> Self {
        let mut members: Vec<(u64, u32)> = members.map(|(index, id)| (id, index)).collect();
        // Every sidecar builds the same table, whatever order it heard of the endpoints in.
        members.sort_unstable();
        if members.is_empty() {
            return Self { slots: Vec::new() };
        }
        let size = size_for(members.len()) as u64;
        let mut orders: Vec<Order> = members
            .iter()
            .map(|&(identity, index)| Order::new(identity, index, size))
            .collect();
        let mut slots = vec![u32::MAX; size as usize];
        let mut left = slots.len();
        'full: loop {
            for order in &mut orders {
                while slots[order.next as usize] != u32::MAX {
                    order.step(size);
                }
                slots[order.next as usize] = order.index;
                left -= 1;
                if left == 0 {
                    break 'full;
                }
            }
        }
        Self { slots }
    }

    /// The position that `key` belongs to, then those that it falls back to, without end.
    pub(super) fn positions(&self, key: u64) -> impl Iterator<Item = usize> {
        let start = (mix(key) % self.slots.len().max(1) as u64) as usize;
        let from_start = self.slots.iter().cycle().skip(start);
        from_start.map(|&index| index as usize)
    }
}

/// The order in which one endpoint asks for slots.
struct Order {
    index: u32,
    next: u64,
    skip: u64,
}

impl Order {
    fn new(identity: u64, index: u32, size: u64) -> Self {
        Self {
            index,
            next: mix(identity) % size,
            skip: mix(!identity) % (size - 1) + 1,
        }
    }

    fn step(&mut self, size: u64) {
        self.next += self.skip;
        if self.next >= size {
            self.next -= size;
        }
    }
}

/// A hash that is the same in every sidecar and version (FNV-1a, then mixed). Not against people
/// who choose keys to collide: they would only reach the same endpoint.
#[must_use]
pub fn hash(bytes: &[u8]) -> u64 {
    let fnv = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    mix(fnv)
}

/// The finalizer of SplitMix64.
pub(super) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn size_for(members: usize) -> usize {
    let mut size = FIRST_SIZE;
    while size < members * SLOTS_EACH {
        size *= 4;
    }
    prime_from(size)
}

fn prime_from(least: usize) -> usize {
    let is_prime = |n: usize| {
        (2..)
            .take_while(|d| d * d <= n)
            .all(|d| !n.is_multiple_of(d))
    };
    (least.max(2)..).find(|&n| is_prime(n)).unwrap_or(least)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(identities: &[u64]) -> Maglev {
        Maglev::new(
            identities
                .iter()
                .enumerate()
                .map(|(index, &id)| (index as u32, id)),
        )
    }

    fn owner(identities: &[u64], table: &Maglev, slot: usize) -> u64 {
        identities[table.slots[slot] as usize]
    }

    #[test]
    fn a_table_without_members_has_no_positions() {
        assert_eq!(table(&[]).positions(7).next(), None);
    }

    #[test]
    fn primes_are_found() {
        assert_eq!([0, 90, 100, 65_537].map(prime_from), [2, 97, 101, 65_537]);
        assert_eq!([1, 655, 656].map(size_for), [65_537, 65_537, 262_147]);
    }

    #[test]
    fn hashes_do_not_change_with_versions() {
        assert_eq!(hash(b""), mix(0xcbf2_9ce4_8422_2325));
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn shares_are_even(ids in proptest::collection::hash_set(any::<u64>(), 1..60)) {
            let ids: Vec<u64> = ids.into_iter().collect();
            let table = table(&ids);
            let fair = table.slots.len() as f64 / ids.len() as f64;
            for index in 0..ids.len() as u32 {
                let share = table.slots.iter().filter(|&&slot| slot == index).count() as f64;
                prop_assert!((share / fair - 1.0).abs() <= 0.05);
            }
        }

        /// Removing one of n moves its own keys, and few of the others.
        #[test]
        fn little_moves_when_one_goes(ids in proptest::collection::hash_set(any::<u64>(), 3..40),
                                      gone in any::<proptest::sample::Index>()) {
            let before: Vec<u64> = ids.into_iter().collect();
            let gone = gone.index(before.len());
            let mut after = before.clone();
            after.remove(gone);
            let (old, new) = (table(&before), table(&after));
            let keys = 5_000u64;
            let of = |ids: &[u64], table: &Maglev, key| table.positions(key).next().map(|at| ids[at]);
            let moved = (0..keys).filter(|&key| of(&before, &old, key) != of(&after, &new, key)).count();
            prop_assert!(moved as f64 / keys as f64 <= 2.0 / before.len() as f64, "{moved}");
        }

        #[test]
        fn order_does_not_matter(ids in proptest::collection::hash_set(any::<u64>(), 1..40), seed: u64) {
            let one: Vec<u64> = ids.into_iter().collect();
            let mut other = one.clone();
            fastrand::Rng::with_seed(seed).shuffle(&mut other);
            let (first, second) = (table(&one), table(&other));
            for slot in 0..first.slots.len() {
                prop_assert_eq!(owner(&one, &first, slot), owner(&other, &second, slot));
            }
        }
    }
}
