//! What is made of the same is not made again. The fold is a chain of stages, each a pure function of
//! what it is given; a stage that is given the very same as before has made it already. So a mesh may
//! be folded whole after each change, and costs what the change touches.
//!
//! "The very same" is told by pointers: what a stage has made is [`Shared`], and so is the same for the
//! next stage only if it was not made again.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Deref;
use std::sync::Arc;

use outrider_api::manifest::Problem;

/// Something immutable. Equal is only what is the same.
#[derive(Debug)]
pub(crate) struct Shared<T>(Arc<T>);

impl<T> Shared<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Arc::new(value))
    }
}

impl<T: Default> Default for Shared<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// What a stage has made, and what it found wrong.
pub(super) struct Made<T> {
    pub(super) value: Shared<T>,
    pub(super) problems: Shared<Vec<Problem>>,
}

impl<T> Clone for Made<T> {
    fn clone(&self) -> Self {
        Self {
            value: self.value.clone(),
            problems: self.problems.clone(),
        }
    }
}

impl<T> Made<T> {
    /// What was made; what is wrong is added to `problems`.
    pub(super) fn and(self, problems: &mut Vec<Problem>) -> Shared<T> {
        problems.extend(self.problems.iter().cloned());
        self.value
    }
}

/// One stage, with its newest results: two where something may be wrong, since while an object is bad,
/// each change is folded twice, with it and without.
pub(super) struct Stage<I, T, const KEPT: usize = 2>(VecDeque<(I, Made<T>)>);

/// A stage that only what is good gets to.
pub(super) type Final<I, T> = Stage<I, T, 1>;

impl<I, T, const KEPT: usize> Default for Stage<I, T, KEPT> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<I: Clone, T, const KEPT: usize> Clone for Stage<I, T, KEPT> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<I: PartialEq, T, const KEPT: usize> Stage<I, T, KEPT> {
    /// What `make` makes of `inputs`, of which alone it may depend.
    pub(super) fn of(&mut self, inputs: I, make: impl FnOnce(&mut Vec<Problem>) -> T) -> Made<T> {
        if let Some((_, made)) = self.0.iter().find(|(known, _)| *known == inputs) {
            return made.clone();
        }
        let mut problems = Vec::new();
        let made = Made {
            value: Shared::new(make(&mut problems)),
            problems: Shared::new(problems),
        };
        self.0.truncate(KEPT - 1);
        self.0.push_front((inputs, made.clone()));
        made
    }
}

/// A stage of which each row stands by itself.
pub(super) struct Rows<K, I, T>(Vec<(K, I, Arc<T>)>);

impl<K, I, T> Default for Rows<K, I, T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Ord + Clone, I: PartialEq, T> Rows<K, I, T> {
    /// What `make` makes of each row. `inputs` are in the order of their keys, each there once.
    pub(super) fn of(
        &mut self,
        inputs: impl Iterator<Item = (K, I)>,
        make: impl Fn(&K, &I) -> T,
    ) -> BTreeMap<K, Arc<T>> {
        let mut known = std::mem::take(&mut self.0).into_iter().peekable();
        let rows = inputs.map(|(key, inputs)| {
            while known.next_if(|(other, ..)| *other < key).is_some() {}
            let same = known.next_if(|(other, before, _)| *other == key && *before == inputs);
            let made = match same {
                Some((.., made)) => made,
                None => Arc::new(make(&key, &inputs)),
            };
            (key, inputs, made)
        });
        self.0 = rows.collect();
        let made = self
            .0
            .iter()
            .map(|(key, _, made)| (key.clone(), Arc::clone(made)));
        made.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_stage_makes_nothing_of_the_same_twice() {
        let made = Cell::new(0);
        let mut stage = Stage::<u32, u32>::default();
        let mut of = |inputs: u32| {
            let result = stage.of(inputs, |_| {
                made.set(made.get() + 1);
                inputs * 10
            });
            (*result.value, made.get())
        };
        assert_eq!(of(1), (10, 1));
        assert_eq!(of(1), (10, 1));
        assert_eq!(of(2), (20, 2));
        assert_eq!((of(1), of(2)), ((10, 2), (20, 2)), "both are kept");
        assert_eq!(of(3), (30, 3));
        assert_eq!(of(1), (10, 4), "the oldest is not");
    }

    #[test]
    fn a_row_is_made_again_when_what_it_is_made_of_is_another() {
        let mut rows = Rows::default();
        let mut of = |inputs: &[(&'static str, u32)]| {
            rows.of(inputs.iter().copied(), |key, input| format!("{key}{input}"))
        };
        let first = of(&[("a", 1), ("c", 1), ("d", 1)]);
        let second = of(&[("a", 1), ("b", 1), ("c", 2)]);
        let texts: Vec<&str> = second.values().map(|text| text.as_str()).collect();
        assert_eq!(texts, ["a1", "b1", "c2"]);
        assert!(Arc::ptr_eq(&first["a"], &second["a"]));
        let third = of(&[("b", 1), ("d", 1)]);
        assert!(Arc::ptr_eq(&second["b"], &third["b"]));
        assert_eq!(third["d"].as_str(), "d1");
    }
}
