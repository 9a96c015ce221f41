//! Objects as a source has them: those of each kind on a shelf of their own, so that what is made of one
//! kind is made again only when one of that kind has changed.

use outrider_api::manifest::{Location, Object};

use super::memo::Shared;

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

impl FromIterator<Object> for Shelves {
    fn from_iter<I: IntoIterator<Item = Object>>(objects: I) -> Self {
        let mut first = None;
        let mut lists: [Vec<Object>; 8] = Default::default();
        for object in objects {
            if first.is_none() {
                first = Some(object.location(""));
            }
            let list = match &object {
                Object::MeshConfig(_) => 0,
                Object::Service(_) => 1,
                Object::ServiceAccount(_) => 2,
                Object::Workload(_) => 3,
                Object::AuthorizationPolicy(_) => 4,
                Object::TrafficPolicy(_) => 5,
                Object::RateLimitPolicy(_) => 6,
                Object::HttpRoute(_) | Object::GrpcRoute(_) | Object::TcpRoute(_) => 7,
            };
            lists[list].push(object);
        }
        let [
            configs,
            services,
            accounts,
            workloads,
            policies,
            traffic,
            limits,
            routes,
        ] = lists.map(Shelf::from_iter);
        Self {
            configs,
            services,
            accounts,
            workloads,
            policies,
            traffic,
            limits,
            routes,
            first,
        }
    }
}
