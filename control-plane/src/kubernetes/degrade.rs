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

use outrider_api::kinds::API_VERSION;
use outrider_api::manifest::{self, Cause, Location, Object, Problem};
use outrider_certs::bundle::TrustBundle;

use super::kinds::Kind;
use super::objects::{Entry, ObjectId, refusing_instead};
use super::source::Held;
use crate::index::{self, Beside, Mesh};

/// The one MeshConfig that is read.
pub(crate) const MESH_CONFIG: &str = "default";
/// What is wrong in the objects of a cluster that come and go in any order, and is no reason to leave
/// one out: what a policy is about may not be there yet, a Deployment may have no pods.
pub(crate) const TOLERATED: &[Cause] = &[Cause::TargetNotFound, Cause::NoEffect, Cause::Conflicted];
/// Each round replaces or leaves out whatever was bad in the last; what takes a place may be bad too,
/// and what was left out may be missed.
const ROUNDS: usize = 8;

/// What was good, of the objects that fall back to it.
#[derive(Debug, Default)]
pub(crate) struct LastGood(HashMap<ObjectId, Arc<Entry>>);

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

/// The mesh that `held` means, and what was made of its objects.
pub(super) fn degrade(
    held: &Held,
    trust: Option<&TrustBundle>,
) -> (Result<Mesh, Vec<Problem>>, Verdicts) {
    let mut last_good = lock(held.last_good());
    let mut places = Places::new(held, &last_good);
    if let Some(problems) = places.lost_settings(held) {
        return (Err(problems), places.verdicts(&[]));
    }
    for _ in 0..ROUNDS {
        let own_config = places.config(held, trust);
        let objects = places.objects().chain(&own_config);
        let beside = Beside {
            trust,
            trust_domain: held.trust_domain(),
            endpoints: Some(&held.endpoints),
            tolerated: TOLERATED,
        };
        let errors = match index::fold(objects, beside) {
            Ok(mesh) => {
                let verdicts = places.verdicts(mesh.warnings());
                places.remember(held, &mut last_good);
                return (Ok(mesh), verdicts);
            }
            Err(errors) => errors,
        };
        if !places.yield_to(&errors, &last_good) || places.lost_settings(held).is_some() {
            return (Err(errors), places.verdicts(&[]));
        }
    }
    let nowhere = Location {
        file: Path::new("").into(),
        line: 1,
        column: 1,
    };
    let message = format!("objects are bad in more ways than {ROUNDS} rounds could leave out");
    let problem = Problem::new(nowhere, "", message);
    (Err(vec![problem]), places.verdicts(&[]))
}

/// What stands for each object.
struct Places<'h> {
    places: Vec<Place<'h>>,
    by_file: HashMap<String, usize>,
}

struct Place<'h> {
    entry: &'h Entry,
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
        let mut places = Self {
            places: Vec::with_capacity(held.entries.len()),
            by_file: HashMap::with_capacity(held.entries.len()),
        };
        for entry in &held.entries {
            let mut place = Place {
                entry,
                standing: Standing::Itself,
                problems: entry.problems.clone(),
            };
            if let Some(problem) = misplaced(entry, held.namespace()) {
                place.problems.push(problem);
                place.standing = Standing::Nothing;
            } else if entry.object.is_none() {
                place.fall_back(last_good);
            }
            let index = places.places.len();
            places.by_file.insert(entry.id.to_string(), index);
            places.places.push(place);
        }
        places
    }

    fn objects(&self) -> impl Iterator<Item = &Object> {
        self.places
            .iter()
            .filter_map(|place| match &place.standing {
                Standing::Itself => place.entry.object.as_ref(),
                Standing::Refusing(object) => Some(object),
                Standing::LastGood(entry) => entry.object.as_ref(),
                Standing::Nothing => None,
            })
    }

    /// Without a MeshConfig the mesh has the defaults, but for the trust domain that it has already, and
    /// but for this: on a cluster nobody is let in unless somebody says so.
    fn config(&self, held: &Held, trust: Option<&TrustBundle>) -> Vec<Object> {
        let is_config = |object: &Object| matches!(object, Object::MeshConfig(_));
        let Some(trust) = trust.filter(|_| !self.objects().any(is_config)) else {
            return Vec::new();
        };
        let id = ObjectId {
            kind: Kind::MeshConfig,
            namespace: held.namespace().to_owned(),
            name: MESH_CONFIG.to_owned(),
        };
        let document = serde_json::json!({
            "apiVersion": API_VERSION,
            "kind": "MeshConfig",
            "metadata": {"name": id.name, "namespace": id.namespace},
            "spec": {"trustDomain": trust.trust_domain().as_ref(), "defaultDeny": true},
        });
        manifest::parse(&id.file(), &document.to_string()).unwrap_or_default()
    }

    /// What is wrong with the MeshConfig, where nothing can stand in its place: the defaults might
    /// allow what it denies.
    fn lost_settings(&self, held: &Held) -> Option<Vec<Problem>> {
        let mut places = self.places.iter();
        let lost = places.find(|place| {
            place.entry.id.kind == Kind::MeshConfig
                && matches!(place.standing, Standing::Nothing)
                && misplaced(place.entry, held.namespace()).is_none()
        });
        lost.map(|place| place.problems.clone())
    }

    /// Whatever has errors makes place; false: one of them is of no object.
    fn yield_to(&mut self, errors: &[Problem], last_good: &LastGood) -> bool {
        let mut bad: BTreeMap<usize, Vec<&Problem>> = BTreeMap::new();
        for problem in errors {
            let file = problem.location.file.to_string_lossy();
            let Some(index) = self.by_file.get(&*file) else {
                return false;
            };
            bad.entry(*index).or_default().push(problem);
        }
        for (index, problems) in bad {
            let place = &mut self.places[index];
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
        for place in &self.places {
            let kind = place.entry.id.kind;
            if matches!(kind, Kind::Pod | Kind::Service) && place.problems.is_empty() {
                continue;
            }
            let verdict = Verdict {
                generation: place.entry.generation,
                outcome: match place.standing {
                    Standing::Itself => Outcome::Applied,
                    Standing::Refusing(_) => Outcome::Refusing,
                    Standing::LastGood(_) => Outcome::LastGood,
                    Standing::Nothing => Outcome::LeftOut,
                },
                problems: place.problems.clone(),
            };
            verdicts.insert(place.entry.id.clone(), verdict);
        }
        for warning in warnings {
            let file = warning.location.file.to_string_lossy();
            let place = self.by_file.get(&*file).map(|index| &self.places[*index]);
            if let Some(place) = place
                && matches!(place.standing, Standing::Itself)
                && let Some(verdict) = verdicts.get_mut(&place.entry.id)
            {
                verdict.problems.push(warning.clone());
            }
        }
        Verdicts(verdicts)
    }

    fn remember(&self, held: &Held, last_good: &mut LastGood) {
        let mut good = HashMap::new();
        for (place, entry) in self.places.iter().zip(&held.entries) {
            let id = &place.entry.id;
            if !falls_back(id.kind) {
                continue;
            }
            let kept = match &place.standing {
                Standing::Itself => Arc::clone(entry),
                Standing::LastGood(entry) => Arc::clone(entry),
                Standing::Refusing(_) | Standing::Nothing => continue,
            };
            good.insert(id.clone(), kept);
        }
        last_good.0 = good;
    }
}

impl Place<'_> {
    /// From what it says to what takes its place, and from that to nothing.
    fn fall_back(&mut self, last_good: &LastGood) {
        let entry = self.entry;
        self.standing = match self.standing {
            Standing::Itself => {
                let refusing = match &entry.object {
                    Some(object) => refusing_instead(&entry.id, object),
                    None => entry.instead.clone(),
                };
                let good = last_good.0.get(&entry.id);
                // One of that name that was deleted is another.
                let good = good.filter(|good| good.uid == entry.uid && ***good != *entry);
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

fn falls_back(kind: Kind) -> bool {
    let kinds = [Kind::MeshConfig, Kind::TrafficPolicy, Kind::RateLimitPolicy];
    kinds.contains(&kind)
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

fn lock(last_good: &Mutex<LastGood>) -> MutexGuard<'_, LastGood> {
    last_good.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "degrade_tests.rs"]
mod tests;
