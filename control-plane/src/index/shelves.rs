//! Objects as a source has them: those of each kind on a shelf of their own, so that what is made of one
//! kind is made again only when one of that kind has changed.

use outrider_api::manifest::{Location, Object};

use super::memo::Shared;

const SHELVES: usize = 8;

/// All objects. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shelves {
    pub(crate) configs: Shelf,
    pub(crate) services: Shelf,
    pub(crate) accounts: Shelf,
    pub(crate) workloads: Shelf,
    pub(crate) policies: Shelf,
    pub(crate) traffic: Shelf,
    pub(crate) limits: Shelf,
    /// Of all three kinds.
    pub(crate) routes: Shelf,
    /// For a problem that no object has.
    pub(crate) first: Option<Location>,
}

/// Objects of one kind. Equal are those that hold the very same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shelf(Shared<Vec<Object>>);

impl Shelf {
    pub(crate) fn objects(&self) -> &Shared<Vec<Object>> {
        &self.0
    }
}

impl PartialEq for Shelf {
    fn eq(&self, other: &Self) -> bool {
        let same = |(one, other): (&Object, &Object)| one.is(other);
        self.0 == other.0
            || (self.0.len() == other.0.len() && self.0.iter().zip(other.0.iter()).all(same))
    }
}

impl FromIterator<Object> for Shelf {
    fn from_iter<I: IntoIterator<Item = Object>>(objects: I) -> Self {
        Self(Shared::new(objects.into_iter().collect()))
    }
}

impl Shelf {
    /// Those of a namespace.
    pub(crate) fn of_namespace(&self, namespace: &str) -> Self {
        let objects = self.0.iter();
        let is_there = |object: &&Object| object.metadata().namespace == namespace;
        objects.filter(is_there).cloned().collect()
    }

    /// With `object` in the place of one of its kind and name.
    fn with(&self, object: &Object) -> Self {
        let new = object.metadata();
        let is_other = |held: &&Object| {
            let old = held.metadata();
            held.kind() != object.kind()
                || (&old.namespace, &old.name) != (&new.namespace, &new.name)
        };
        let others = self.0.iter().filter(is_other);
        others.chain(std::iter::once(object)).cloned().collect()
    }
}

impl Shelves {
    /// With `object` in the place of one of its kind and name.
    pub(crate) fn with(mut self, object: &Object) -> Self {
        let shelf = &mut *self.all_mut()[number(object)];
        *shelf = shelf.with(object);
        self
    }

    /// By their numbers.
    fn all_mut(&mut self) -> [&mut Shelf; SHELVES] {
        [
            &mut self.configs,
            &mut self.services,
            &mut self.accounts,
            &mut self.workloads,
            &mut self.policies,
            &mut self.traffic,
            &mut self.limits,
            &mut self.routes,
        ]
    }
}

impl FromIterator<Object> for Shelves {
    fn from_iter<I: IntoIterator<Item = Object>>(objects: I) -> Self {
        let mut shelves = Self::default();
        let mut lists: [Vec<Object>; SHELVES] = Default::default();
        for object in objects {
            if shelves.first.is_none() {
                shelves.first = Some(object.location(""));
            }
            lists[number(&object)].push(object);
        }
        for (shelf, list) in shelves.all_mut().into_iter().zip(lists) {
            *shelf = list.into_iter().collect();
        }
        shelves
    }
}

/// Of the shelf on which an object is.
fn number(object: &Object) -> usize {
    match object {
        Object::MeshConfig(_) => 0,
        Object::Service(_) => 1,
        Object::ServiceAccount(_) => 2,
        Object::Workload(_) => 3,
        Object::AuthorizationPolicy(_) => 4,
        Object::TrafficPolicy(_) => 5,
        Object::RateLimitPolicy(_) => 6,
        Object::HttpRoute(_) | Object::GrpcRoute(_) | Object::TcpRoute(_) => 7,
    }
}
