//! On a cluster one bad object must not freeze the mesh: it is replaced or left out, and the rest
//! holds. What takes its place never opens what it was to close.
//!
//! | bad | then |
//! |---|---|
//! | AuthorizationPolicy | denies everything at its targets, or in its namespace where they cannot be read |
//! | route | its traffic is refused, as the Gateway API says of what cannot be done as it is written |
//! | TrafficPolicy, RateLimitPolicy | the last good of the same object, else it is left out |
//! | MeshConfig | the last good one; without one there is no mesh |
//! | pod, Service | left out: no sidecar, no endpoint |

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outrider_api::manifest::{Cause, Location, Object, Problem};
use outrider_certs::bundle::TrustBundle;

use super::kinds::Kind;
use super::objects::{Entry, ObjectId, refusing_instead};
use super::source::Held;
use crate::index::{self, Beside, Memo, Mesh, Shelf, Shelves};

/// The one MeshConfig that is read.
pub(crate) const MESH_CONFIG: &str = "default";
/// What is wrong in the objects of a cluster that come and go in any order, and is no reason to leave
/// one out: what a policy is about may not be there yet, a Deployment may have no pods.
pub(crate) const TOLERATED: &[Cause] = &[Cause::TargetNotFound, Cause::NoEffect, Cause::Conflicted];
/// On a cluster nobody is let in unless somebody says so.
pub(crate) const DEFAULT_DENY: bool = true;
/// Each round replaces or leaves out whatever was bad in the last; what takes a place may be bad too,
/// and what was left out may be missed.
const ROUNDS: usize = 8;

/// What is known from before.
#[derive(Debug, Default)]
pub(crate) struct Past {
    good: LastGood,
    pub(super) memo: Memo,
}

/// What was good, of the objects that fall back to it.
type LastGood = HashMap<ObjectId, Arc<Entry>>;

/// What was made of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It holds as it is written.
    Applied,
    /// Something that refuses holds in its place.
    Refusing,
    /// What it said before holds.
    LastGood,
    /// Nothing of it holds.
    LeftOut,
}

/// What was made of one object, and what is wrong with it, warnings too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) generation: i64,
    pub(crate) outcome: Outcome,
    pub(crate) problems: Vec<Problem>,
}

/// Of every policy, route and MeshConfig, and of whatever else is bad.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdicts(pub(crate) BTreeMap<ObjectId, Verdict>);

/// What comes of all objects.
pub(super) struct Degraded {
    pub(super) mesh: Result<Mesh, Vec<Problem>>,
    pub(super) verdicts: Verdicts,
    /// What stands for them.
    pub(super) shelves: Shelves,
}

/// The mesh that `held` means, and what was made of its objects.
pub(super) fn degrade(held: &Held, trust: Option<&TrustBundle>) -> Degraded {
    let mut past = lock(held.past());
    let Past { good, memo } = &mut *past;
    let mut places = Places::new(held, good);
    if let Some(problems) = places.lost_settings() {
        return places.refused(problems);
    }
    for _ in 0..ROUNDS {
        let beside = Beside {
            trust,
            trust_domain: held.trust_domain(),
            default_deny: DEFAULT_DENY,
            endpoints: Some(&held.endpoints),
            tolerated: TOLERATED,
        };
        let shelves = places.shelves();
        let errors = match index::fold(&shelves, beside, memo) {
            Ok(mesh) => {
                let verdicts = places.verdicts(mesh.warnings());
                *good = places.good();
                return Degraded {
                    mesh: Ok(mesh),
                    verdicts,
                    shelves,
                };
            }
            Err(errors) => errors,
        };
        if !places.yield_to(&errors, good) || places.lost_settings().is_some() {
            return places.refused(errors);
        }
    }
    let nowhere = Location {
        file: Path::new("").into(),
        line: 1,
        column: 1,
    };
    let message = format!("objects are bad in more ways than {ROUNDS} rounds could leave out");
    let problem = Problem::new(nowhere, "", message);
    places.refused(vec![problem])
}

/// What stands for each object.
struct Places<'h> {
    held: &'h Held,
    /// Of those that are not good, or have warnings.
    places: BTreeMap<ObjectId, Place<'h>>,
}

struct Place<'h> {
    entry: &'h Arc<Entry>,
    standing: Standing,
    problems: Vec<Problem>,
}

enum Standing {
    Itself,
    Refusing(Box<Object>),
    LastGood(Arc<Entry>),
    Nothing,
}

impl<'h> Places<'h> {
    fn new(held: &'h Held, last_good: &LastGood) -> Self {
        let mut places = BTreeMap::new();
        for entry in held.entries.iter() {
            let misplaced = misplaced(entry, held.namespace());
            if entry.object.is_some() && entry.problems.is_empty() && misplaced.is_none() {
                continue;
            }
            let mut place = Place::new(entry);
            if let Some(problem) = misplaced {
                place.problems.push(problem);
                place.standing = Standing::Nothing;
            } else if entry.object.is_none() {
                place.fall_back(last_good);
            }
            places.insert(entry.id.clone(), place);
        }
        Self { held, places }
    }

    /// There is no mesh of them.
    fn refused(&self, problems: Vec<Problem>) -> Degraded {
        Degraded {
            mesh: Err(problems),
            verdicts: self.verdicts(&[]),
            shelves: self.shelves(),
        }
    }

    /// All that stands.
    fn shelves(&self) -> Shelves {
        let routes =
            [Kind::HttpRoute, Kind::GrpcRoute, Kind::TcpRoute].map(|kind| self.shelf(kind));
        Shelves {
            configs: self.shelf(Kind::MeshConfig),
            services: self.shelf(Kind::Service),
            workloads: self.shelf(Kind::Pod),
            policies: self.shelf(Kind::AuthorizationPolicy),
            traffic: self.shelf(Kind::TrafficPolicy),
            limits: self.shelf(Kind::RateLimitPolicy),
            routes: routes
                .iter()
                .flat_map(|shelf| shelf.objects().iter().cloned())
                .collect(),
            accounts: Shelf::default(),
            first: None,
        }
    }

    fn shelf(&self, kind: Kind) -> Shelf {
        let mut places = self.places.values();
        let is_other = |place: &Place<'_>| !matches!(place.standing, Standing::Itself);
        if !places.any(|place| place.entry.id.kind == kind && is_other(place)) {
            return self.held.entries.shelf(kind);
        }
        let entries = self.held.entries.of(kind).iter();
        let standing = entries.filter_map(|entry| match self.places.get(&entry.id) {
            None => entry.object.clone(),
            Some(place) => place.object().cloned(),
        });
        standing.collect()
    }

    /// What is wrong with the MeshConfig, where nothing can stand in its place: the defaults might
    /// allow what it denies.
    fn lost_settings(&self) -> Option<Vec<Problem>> {
        let mut places = self.places.values();
        let lost = places.find(|place| {
            place.entry.id.kind == Kind::MeshConfig
                && matches!(place.standing, Standing::Nothing)
                && misplaced(place.entry, self.held.namespace()).is_none()
        });
        lost.map(|place| place.problems.clone())
    }

    /// The object of which a problem is.
    fn of(&self, problem: &Problem) -> Option<&'h Arc<Entry>> {
        let id = ObjectId::of_file(&problem.location.file)?;
        self.held.entries.find(&id)
    }

    /// Whatever has errors makes place; false: one of them is of no object. Bad settings do so first: what
    /// is wrong beside them may be well beside those in their place.
    fn yield_to(&mut self, errors: &[Problem], last_good: &LastGood) -> bool {
        let mut bad: BTreeMap<&ObjectId, (&'h Arc<Entry>, Vec<&Problem>)> = BTreeMap::new();
        for problem in errors {
            let Some(entry) = self.of(problem) else {
                return false;
            };
            let of_entry = bad.entry(&entry.id).or_insert((entry, Vec::new()));
            of_entry.1.push(problem);
        }
        if bad.keys().any(|id| id.kind == Kind::MeshConfig) {
            bad.retain(|id, _| id.kind == Kind::MeshConfig);
        }
        for (id, (entry, problems)) in bad {
            let place = self.places.entry(id.clone());
            let place = place.or_insert_with(|| Place::new(entry));
            // Of what stands in its place nobody wrote anything.
            if matches!(place.standing, Standing::Itself) {
                place.problems.extend(problems.into_iter().cloned());
            }
            place.fall_back(last_good);
        }
        true
    }

    fn verdicts(&self, warnings: &[Problem]) -> Verdicts {
        let mut verdicts = BTreeMap::new();
        for kind in Kind::ALL {
            let is_quiet = matches!(kind, Kind::Pod | Kind::Service);
            for entry in self.held.entries.of(kind).iter().filter(|_| !is_quiet) {
                verdicts.insert(entry.id.clone(), Place::new(entry).verdict());
            }
        }
        for (id, place) in &self.places {
            let is_quiet = matches!(id.kind, Kind::Pod | Kind::Service);
            if !is_quiet || !place.problems.is_empty() {
                verdicts.insert(id.clone(), place.verdict());
            }
        }
        for warning in warnings {
            let Some(entry) = self.of(warning) else {
                continue;
            };
            let place = self.places.get(&entry.id);
            let stands = place.is_none_or(|place| matches!(place.standing, Standing::Itself));
            if stands && let Some(verdict) = verdicts.get_mut(&entry.id) {
                verdict.problems.push(warning.clone());
            }
        }
        Verdicts(verdicts)
    }

    /// What to fall back to.
    fn good(&self) -> LastGood {
        let kinds = [Kind::MeshConfig, Kind::TrafficPolicy, Kind::RateLimitPolicy];
        let entries = kinds
            .into_iter()
            .flat_map(|kind| self.held.entries.of(kind));
        let good = entries.filter_map(|entry| {
            let standing = self.places.get(&entry.id).map(|place| &place.standing);
            let kept = match standing {
                None | Some(Standing::Itself) => entry,
                Some(Standing::LastGood(good)) => good,
                Some(Standing::Refusing(_) | Standing::Nothing) => return None,
            };
            Some((entry.id.clone(), Arc::clone(kept)))
        });
        good.collect()
    }
}

impl<'h> Place<'h> {
    fn new(entry: &'h Arc<Entry>) -> Self {
        Self {
            entry,
            standing: Standing::Itself,
            problems: entry.problems.clone(),
        }
    }

    fn object(&self) -> Option<&Object> {
        match &self.standing {
            Standing::Itself => self.entry.object.as_ref(),
            Standing::Refusing(object) => Some(object),
            Standing::LastGood(entry) => entry.object.as_ref(),
            Standing::Nothing => None,
        }
    }

    fn verdict(&self) -> Verdict {
        Verdict {
            generation: self.entry.generation,
            outcome: match self.standing {
                Standing::Itself => Outcome::Applied,
                Standing::Refusing(_) => Outcome::Refusing,
                Standing::LastGood(_) => Outcome::LastGood,
                Standing::Nothing => Outcome::LeftOut,
            },
            problems: self.problems.clone(),
        }
    }

    /// From what it says to what takes its place, and from that to nothing.
    fn fall_back(&mut self, last_good: &LastGood) {
        let entry = self.entry;
        self.standing = match self.standing {
            Standing::Itself => {
                let refusing = match &entry.object {
                    Some(object) => refusing_instead(&entry.id, object),
                    None => entry.instead.clone(),
                };
                let good = last_good.get(&entry.id);
                // One of that name that was deleted is another.
                let good = good.filter(|good| good.uid == entry.uid && *good != entry);
                match (refusing, good) {
                    (Some(object), _) => Standing::Refusing(Box::new(object)),
                    (None, Some(good)) => Standing::LastGood(Arc::clone(good)),
                    (None, None) => Standing::Nothing,
                }
            }
            Standing::Refusing(_) | Standing::LastGood(_) | Standing::Nothing => Standing::Nothing,
        };
    }
}

/// A MeshConfig that is not the one that is read.
fn misplaced(entry: &Entry, namespace: &str) -> Option<Problem> {
    let id = &entry.id;
    let is_other = id.namespace != namespace || id.name != MESH_CONFIG;
    (id.kind == Kind::MeshConfig && is_other).then(|| {
        let location = Location {
            file: id.file(),
            line: 1,
            column: 1,
        };
        let message = format!("is not read, expected the name {MESH_CONFIG:?} in {namespace}");
        Problem::new(location, "metadata.name", message)
    })
}

fn lock(past: &Mutex<Past>) -> MutexGuard<'_, Past> {
    past.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "degrade_tests.rs"]
mod tests;
