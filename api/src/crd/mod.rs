//! The CustomResourceDefinitions of our kinds, made of the Rust types in [`crate::kinds`].
//!
//! Two things are unlike most others', since what cannot be understood must refuse rather than be
//! dropped on its way to who decides:
//!
//! - Unknown fields are kept (`x-kubernetes-preserve-unknown-fields`). An API server that prunes them
//!   makes of a rule with a misspelt condition a rule without it. Kept, they reach the validating
//!   webhook and the control plane, whose parser refuses them and says what was meant.
//! - Every field of `spec` may be null (`nullable`). Else the API server takes `sources:` with its
//!   entries commented out for left out, which means anyone.
//!
//! Nothing has a default here: what is left out means what the running version takes it for, not what
//! was the default when the object was stored.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use crate::kinds::status::{PolicyStatus, Status};
use crate::kinds::{
    AuthorizationPolicySpec, MeshConfigSpec, RateLimitPolicySpec, TrafficPolicySpec, WorkloadSpec,
};

mod structural;

pub use structural::NotStructural;

/// The API group of our kinds.
pub const GROUP: &str = "outrider.mesh";
/// The category of all of our kinds: `kubectl get outrider -A`.
pub const CATEGORY: &str = "outrider";
const VERSION: &str = "v1alpha1";

/// Why there is no definition of a kind.
#[derive(Debug, thiserror::Error)]
pub enum CrdError {
    #[error("the schema of {kind}: {error}")]
    Schema {
        kind: &'static str,
        error: NotStructural,
    },
    #[error("the definition of {kind} is none: {error}")]
    Definition {
        kind: &'static str,
        error: serde_json::Error,
    },
}

/// What a kind is called, and what is shown of it.
struct Kind {
    kind: &'static str,
    plural: &'static str,
    short: &'static str,
    meaning: &'static str,
    spec: fn() -> Value,
    status: StatusOf,
    /// Beside the conditions and the age: heading and path.
    columns: &'static [(&'static str, &'static str)],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum StatusOf {
    /// GEP-713's: `ancestors`.
    Policy,
    /// `conditions`.
    Object,
}

const KINDS: [Kind; 5] = [
    Kind {
        kind: "AuthorizationPolicy",
        plural: "authorizationpolicies",
        short: "authz",
        meaning: "Who may call these workloads.",
        spec: schema_of::<AuthorizationPolicySpec>,
        status: StatusOf::Policy,
        columns: &[("Action", ".spec.action")],
    },
    Kind {
        kind: "MeshConfig",
        plural: "meshconfigs",
        short: "meshcfg",
        meaning: "What holds for the whole mesh. The one that is read is named default, in the \
                  namespace of the control plane.",
        spec: schema_of::<MeshConfigSpec>,
        status: StatusOf::Object,
        columns: &[("Default-Deny", ".spec.defaultDeny")],
    },
    Kind {
        kind: "RateLimitPolicy",
        plural: "ratelimitpolicies",
        short: "rlp",
        meaning: "How much each peer may ask of these workloads, and how much all may at once.",
        spec: schema_of::<RateLimitPolicySpec>,
        status: StatusOf::Policy,
        columns: &[],
    },
    Kind {
        kind: "TrafficPolicy",
        plural: "trafficpolicies",
        short: "tfp",
        meaning: "How callers treat a Service.",
        spec: schema_of::<TrafficPolicySpec>,
        status: StatusOf::Policy,
        columns: &[("Target", ".spec.targetRefs[0].name")],
    },
    Kind {
        kind: "Workload",
        plural: "workloads",
        short: "owl",
        meaning: "An instance outside Kubernetes, with a sidecar of its own.",
        spec: schema_of::<WorkloadSpec>,
        status: StatusOf::Object,
        columns: &[
            ("ServiceAccount", ".spec.serviceAccount"),
            ("Address", ".spec.address"),
        ],
    },
];

/// Every definition, by kind.
///
/// # Errors
/// A type says what a structural schema cannot say; a test sees to it that none does.
pub fn all() -> Result<Vec<CustomResourceDefinition>, CrdError> {
    KINDS.iter().map(Kind::definition).collect()
}

impl Kind {
    fn definition(&self) -> Result<CustomResourceDefinition, CrdError> {
        let kind = self.kind;
        let schema = |error| CrdError::Schema { kind, error };
        let spec = structural::written((self.spec)()).map_err(schema)?;
        let status = match self.status {
            StatusOf::Policy => schema_of::<PolicyStatus>(),
            StatusOf::Object => schema_of::<Status>(),
        };
        let status = structural::reported(status).map_err(schema)?;
        let mut labels = json!({
            "app.kubernetes.io/name": "outrider",
            "app.kubernetes.io/part-of": "outrider",
        });
        if self.status == StatusOf::Policy {
            labels["gateway.networking.k8s.io/policy"] = "Direct".into();
        }
        let definition = json!({
            "metadata": {
                "name": format!("{}.{GROUP}", self.plural),
                "labels": labels,
                "annotations": {"outrider.mesh/version": env!("CARGO_PKG_VERSION")},
            },
            "spec": {
                "group": GROUP,
                "scope": "Namespaced",
                "names": {
                    "kind": kind,
                    "listKind": format!("{kind}List"),
                    "plural": self.plural,
                    "singular": kind.to_lowercase(),
                    "shortNames": [self.short],
                    "categories": [CATEGORY],
                },
                "versions": [{
                    "name": VERSION,
                    "served": true,
                    "storage": true,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": self.printed(),
                    "schema": {"openAPIV3Schema": self.root(&spec, &status)},
                }],
            },
        });
        serde_json::from_value(definition).map_err(|error| CrdError::Definition { kind, error })
    }

    fn root(&self, spec: &Value, status: &Value) -> Value {
        json!({
            "type": "object",
            "description": self.meaning,
            "required": ["spec"],
            "x-kubernetes-preserve-unknown-fields": true,
            "properties": {
                "apiVersion": {"type": "string"},
                "kind": {"type": "string"},
                "metadata": {"type": "object"},
                "spec": spec,
                "status": status,
            },
        })
    }

    fn printed(&self) -> Value {
        let conditions = match self.status {
            StatusOf::Policy => ".status.ancestors[0].conditions",
            StatusOf::Object => ".status.conditions",
        };
        let condition = |name: &str| {
            let path = format!("{conditions}[?(@.type==\"{name}\")].status");
            json!({"name": name, "type": "string", "jsonPath": path})
        };
        let own = self.columns.iter().map(|(name, path)| {
            let kind = match *path {
                ".spec.defaultDeny" => "boolean",
                _ => "string",
            };
            json!({"name": name, "type": kind, "jsonPath": path})
        });
        let age = json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"});
        let common = [condition("Accepted"), condition("Programmed"), age];
        own.chain(common).collect()
    }
}

fn schema_of<T: JsonSchema>() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    let schema = settings.into_generator().into_root_schema_for::<T>();
    schema.to_value()
}
