//! Objects as the API server gives them to objects as the index takes them: through the parser that
//! reads what people write, so that there is one meaning. What that refuses is replaced by what
//! refuses, where there is such a thing ([`refusing`]).

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use kube::api::DynamicObject;
use kube::core::ObjectMeta;
use outrider_api::manifest::{self, Location, Object, Problem};
use serde_json::{Map, Value, json};

use super::kinds::Kind;

/// One object of the cluster. Displays as `Kind/namespace/name`, which is its file in problems.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ObjectId {
    pub(crate) kind: Kind,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.kind.name(), self.namespace, self.name)
    }
}

impl ObjectId {
    /// The file of its problems.
    pub(crate) fn file(&self) -> Arc<Path> {
        Path::new(&self.to_string()).into()
    }

    /// The object of which this is the file; `None`: it is of none.
    pub(crate) fn of_file(file: &Path) -> Option<Self> {
        let mut parts = file.to_str()?.splitn(3, '/');
        let (kind, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self {
            kind: Kind::ALL.into_iter().find(|known| known.name() == kind)?,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }
}

/// What is kept of an object. Equal is what says the same.
#[derive(Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) id: ObjectId,
    pub(crate) uid: String,
    /// Of what was written; 0 where the kind has none.
    pub(crate) generation: i64,
    /// Absent where it cannot be read.
    pub(crate) object: Option<Object>,
    /// What takes its place where it cannot be read.
    pub(crate) instead: Option<Object>,
    /// Why it cannot.
    pub(crate) problems: Vec<Problem>,
}

impl Entry {
    /// Reads `document`, which has apiVersion, kind and what [`metadata`] makes.
    pub(crate) fn read(id: ObjectId, metadata: &ObjectMeta, document: &Value) -> Self {
        let (object, problems) = match parse(&id, &document.to_string()) {
            Ok(object) => (Some(object), Vec::new()),
            Err(problems) => (None, problems),
        };
        let instead = object.is_none().then(|| refusing(&id, document)).flatten();
        Self {
            id,
            uid: metadata.uid.clone().unwrap_or_default(),
            generation: metadata.generation.unwrap_or(0),
            object,
            instead,
            problems,
        }
    }

    /// The same, another object.
    pub(crate) fn with(&self, object: Object) -> Self {
        Self {
            id: self.id.clone(),
            uid: self.uid.clone(),
            generation: self.generation,
            object: Some(object),
            instead: None,
            problems: self.problems.clone(),
        }
    }
}

/// An object of one of our own kinds, or a route; `None`: it has no name.
pub(crate) fn read(kind: Kind, version: &str, object: &DynamicObject) -> Option<Entry> {
    let id = id(kind, &object.metadata)?;
    let mut document = json!({
        "apiVersion": version,
        "kind": kind.name(),
        "metadata": metadata(&object.metadata),
        "spec": {},
    });
    if let (Some(document), Some(written)) = (document.as_object_mut(), object.data.as_object()) {
        let written = written.iter().filter(|(field, _)| *field != "status");
        document.extend(written.map(|(field, value)| (field.clone(), value.clone())));
    }
    Some(Entry::read(id, &object.metadata, &document))
}

/// `None`: it has no name, which no API server says.
pub(crate) fn id(kind: Kind, metadata: &ObjectMeta) -> Option<ObjectId> {
    Some(ObjectId {
        kind,
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone()?,
    })
}

/// As much of it as means something: who manages which field does not, and may be long.
pub(crate) fn metadata(metadata: &ObjectMeta) -> Value {
    let mut kept = Map::new();
    let mut keep = |field: &str, value: Value| {
        if !value.is_null() {
            kept.insert(field.to_owned(), value);
        }
    };
    keep("name", json!(metadata.name));
    keep("namespace", json!(metadata.namespace));
    keep("labels", json!(metadata.labels));
    keep("creationTimestamp", json!(metadata.creation_timestamp));
    keep("generation", json!(metadata.generation));
    Value::Object(kept)
}

fn parse(id: &ObjectId, text: &str) -> Result<Object, Vec<Problem>> {
    let file = id.file();
    let mut objects = manifest::parse(&file, text)?;
    match (objects.pop(), objects.pop()) {
        // The text is ours, not what somebody wrote.
        (Some(object), None) => Ok(object.without_places()),
        _ => {
            let location = Location {
                file,
                line: 1,
                column: 1,
            };
            Err(vec![Problem::new(location, "", "is not one object")])
        }
    }
}

/// What takes the place of an object that cannot be read, so that it does not open what it was to
/// close; `None`: without it nothing is open that it would have closed, or nobody knows what it is
/// about.
fn refusing(id: &ObjectId, document: &Value) -> Option<Object> {
    match id.kind {
        Kind::AuthorizationPolicy => {
            let targets = &document["spec"]["targetRefs"];
            let namespace = json!([{"group": "", "kind": "Pod", "selector": {}}]);
            let denying = |targets| {
                let spec = json!({
                    "targetRefs": targets,
                    "action": "DENY",
                    "rules": [{"name": "policy-is-invalid"}],
                });
                parse(id, &with_spec(document, &spec).to_string()).ok()
            };
            denying(targets).or_else(|| denying(&namespace))
        }
        Kind::HttpRoute | Kind::GrpcRoute | Kind::TcpRoute => {
            let parents = &document["spec"]["parentRefs"];
            parse(id, &refusing_route(document, parents).to_string()).ok()
        }
        _ => None,
    }
}

/// A route that says what the index refuses: its traffic is refused (Gateway API: what cannot be done
/// as it was written answers 500).
pub(crate) fn refusing_instead(id: &ObjectId, route: &Object) -> Option<Object> {
    let (version, parents) = match route {
        Object::HttpRoute(route) => ("v1", json!(route.spec.parent_refs)),
        Object::GrpcRoute(route) => ("v1", json!(route.spec.parent_refs)),
        Object::TcpRoute(route) => ("v1", json!(route.spec.parent_refs)),
        _ => return None,
    };
    let metadata = route.metadata();
    let document = json!({
        "apiVersion": format!("gateway.networking.k8s.io/{version}"),
        "kind": id.kind.name(),
        "metadata": {
            "name": metadata.name,
            "namespace": metadata.namespace,
            "creationTimestamp": metadata.creation_timestamp,
        },
    });
    parse(id, &refusing_route(&document, &parents).to_string()).ok()
}

fn refusing_route(document: &Value, parents: &Value) -> Value {
    let nobody = json!({"group": "outrider.mesh", "kind": "Nobody", "name": "route-is-invalid"});
    let spec = json!({"parentRefs": parents, "rules": [{"backendRefs": [nobody]}]});
    with_spec(document, &spec)
}

fn with_spec(document: &Value, spec: &Value) -> Value {
    json!({
        "apiVersion": document["apiVersion"],
        "kind": document["kind"],
        "metadata": document["metadata"],
        "spec": spec,
    })
}
